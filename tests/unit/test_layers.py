"""The layers: role default < group_vars/ < inventories/ENV/group_vars < host_vars, however Ansible is run."""

import json

import pytest
from temporary_project import TemporaryProject

LAYERS = ["role", "common", "environment", "host"]
# Each variable is named after the last layer that sets it, and all layers up to that one do.
SETTINGS = {
    layer: "".join(f"last_in_{last}: {layer}\n" for last in LAYERS[position:]) for position, layer in enumerate(LAYERS)
}
EXPECTED = {f"last_in_{layer}": layer for layer in LAYERS}
PLAY = "- hosts: one\n  gather_facts: false\n  roles: [probe]\n"
# Ansible's own rule, in both layers: a named group beats `all`.
NAMED_GROUP = {"in_common_group": "common group", "in_environment_group": "environment group"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = TemporaryProject(tmp_path_factory.mktemp("layers"))
    project.without_secrets()
    every = [*EXPECTED, *NAMED_GROUP]
    show = "{{ {" + ", ".join(f"'{name}': {name}" for name in every) + "} | to_json }}"
    project.write(
        {
            "roles/probe/defaults/main.yml": SETTINGS["role"],
            "roles/probe/tasks/main.yml": f'- ansible.builtin.debug:\n    msg: "VALUES {show} END"\n',
            "playbooks/probe.yml": PLAY,
            "molecule/probe/converge.yml": PLAY,
            "probe.yml": "- ansible.builtin.import_playbook: playbooks/probe.yml\n",
            "group_vars/all/main.yml": SETTINGS["common"] + "in_common_group: common all\n",
            "group_vars/app_hosts.yml": "in_common_group: common group\nin_environment_group: common group\n",
            "inventories/staging/hosts.yml": "app_hosts: {hosts: {one: {ansible_connection: local}, two: {}}}\n",
            "inventories/staging/group_vars/all/main.yml": SETTINGS["environment"]
            + "in_common_group: environment all\n",
            "inventories/staging/group_vars/app_hosts.yml": "in_environment_group: environment group\n",
            "inventories/staging/host_vars/one.yml": SETTINGS["host"],
            "inventories/production/hosts.yml": "app_hosts: {hosts: {one: {ansible_connection: local}}}\n",
        }
    )
    return project


def values(output: str) -> dict[str, str]:
    """Return what the probe role printed."""
    return json.loads(" ".join(output.split("VALUES ")[1].split(" END")[0].replace('\\"', '"').split()))


@pytest.mark.parametrize("playbook", ["probe.yml", "playbooks/probe.yml", "molecule/probe/converge.yml"])
def test_a_play_sees_the_layers_in_order(project, playbook):
    done = project.run("ansible-playbook", playbook, "-i", "inventories/staging")
    assert done.returncode == 0, done.stdout
    assert values(done.stdout) == EXPECTED | NAMED_GROUP


def test_a_file_as_inventory_has_the_layers_of_its_folder(project):
    done = project.run("ansible-playbook", "probe.yml", "-i", "inventories/staging/hosts.yml")
    assert done.returncode == 0, done.stdout
    assert values(done.stdout) == EXPECTED | NAMED_GROUP


def test_another_host_has_the_environments_values(project):
    done = project.run("ansible-inventory", "-i", "inventories/staging", "--host", "two")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["last_in_host"] == "environment"


def test_ansible_inventory_agrees(project):
    done = project.run("ansible-inventory", "-i", "inventories/staging", "--host", "one")
    assert done.returncode == 0, done.stdout
    seen = json.loads(done.stdout)
    assert {name: seen.get(name, "role") for name in EXPECTED} == EXPECTED
    assert {name: seen[name] for name in NAMED_GROUP} == NAMED_GROUP


def test_an_ad_hoc_run_agrees(project):
    names = [name for name in EXPECTED if name != "last_in_role"]
    show = "VALUES {{ {" + ", ".join(f"'{name}': {name}" for name in names) + "} | to_json }} END"
    done = project.run("ansible", "one", "-i", "inventories/staging", "-m", "debug", "-a", json.dumps({"msg": show}))
    assert done.returncode == 0, done.stdout
    assert values(done.stdout) == {name: EXPECTED[name] for name in names}


def test_a_run_of_ansible_runner_agrees(project, tmp_path):
    done = project.run(
        *["ansible-runner", "run", str(tmp_path), "--project-dir", str(project.root)],
        *["-p", "probe.yml", "-i", "run", "--inventory", str(project.root / "inventories/staging")],
    )
    assert done.returncode == 0, done.stdout
    assert values(done.stdout) == EXPECTED | NAMED_GROUP


def test_the_inventory_alone_chooses_the_environment(project):
    done = project.run("ansible-inventory", "-i", "inventories/production", "--host", "one")
    assert done.returncode == 0, done.stdout
    seen = json.loads(done.stdout)
    assert [seen[name] for name in ("last_in_environment", "last_in_host")] == ["common", "common"]
    assert seen["in_environment_group"] == "common group"
