"""environment_guard and check_vaults: real runs on a project whose environments are mixed up on purpose."""

import pytest
import yaml
from ansible.module_utils.gantry import fingerprints
from ansible.parsing.vault import VaultLib, VaultSecret
from temporary_project import TemporaryProject

from lab import secrets

GUARD = """\
- hosts: app_hosts
  gather_facts: false
  become: true
  tasks:
    - environment_guard:
        environment: "{{ app_environment }}"
        must_differ: [app_environment, app_domain ~ app_url_prefix, app_data_path, account]
        must_differ_on_a_host: [app_ports]
      run_once: true
"""
COMMON = """\
app_data_path: "/srv/{{ app_environment }}"
account: "{{ app_environment }}"
registry_password: "{{ vault_registry_password }}"
app_url_prefix: ""
"""


def environment(name, **changes):
    values = {"app_environment": name, "app_domain": f"{name}.test", "app_ports": [8000, 8001]} | changes
    return {
        f"inventories/{name}/hosts.yml": f"app_hosts: {{hosts: {{{name}-1: {{ansible_host: {name}.invalid}}}}}}\n",
        f"inventories/{name}/group_vars/all/main.yml": yaml.safe_dump(values),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make two sound environments once; each test gets a copy of their files."""
    root = tmp_path_factory.mktemp("guard")
    project = TemporaryProject(root)
    files = {"playbooks/guard.yml": GUARD, "group_vars/all/main.yml": COMMON}
    project.write(files | environment("staging") | environment("production"))
    secrets.make(project=root)
    return {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}


@pytest.fixture
def project(made, tmp_path):
    for name, content in made.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return TemporaryProject(tmp_path)


def guard(project, *arguments, inventory="inventories/staging"):
    """Return exit code and output of a guarded run, on one line."""
    done = project.run("ansible-playbook", "playbooks/guard.yml", "-i", inventory, "-v", *arguments)
    return done.returncode, " ".join(done.stdout.split())


def put(project, name, **values):
    """Add secrets to an environment's vault, as a person does with ansible-vault."""
    secret = VaultSecret((project.root / ".vault" / name).read_bytes().strip())
    content = secrets.read(name, project.root) | values
    file = project.root / "inventories" / name / "group_vars" / "all" / "vault.yml"
    file.write_bytes(VaultLib().encrypt(yaml.safe_dump(content), secret, vault_id=name))


def test_sound_environments_pass_without_the_others_password(project):
    (project.root / ".vault" / "production").unlink()
    code, output = guard(project)
    assert code == 0, output
    assert "environment_guard: secrets: - production values: - production" in output
    assert "changed=0" in output


@pytest.mark.parametrize(
    ("inventory", "arguments", "message"),
    [
        ("inventories/staging", ["-e", "app_environment=production"], "app_environment says production: choose -i inv"),
        ("inventories/staging", ["-i", "inventories/production"], "a run is for one environment"),
        ("inventories", ["-e", "app_environment=staging"], "app_environment says staging: choose -i inv"),
    ],
)
def test_an_inventory_of_another_environment_is_refused(project, inventory, arguments, message):
    code, output = guard(project, *arguments, inventory=inventory)
    assert code == 2, output
    assert message in output


def test_one_variable_for_this_run_does_not_count_for_the_other(project):
    code, output = guard(project, "-e", "app_domain=preview.test")
    assert code == 0, output
    code, output = guard(project, "-e", "app_domain=production.test")
    assert code == 2, output
    assert "app_domain ~ app_url_prefix has the same value in staging and production: edit it in " in output


def test_equal_places_are_refused_and_all_named(project):
    shared = {"app_data_path": "/srv/data", "account": "robot", "app_domain": "{{ account }}.test"}
    project.write(environment("staging", **shared) | environment("production", **shared))
    code, output = guard(project)
    assert code == 2, output
    for name in ("app_domain ~ app_url_prefix", "app_data_path", "account"):
        assert f"{name} has the same value in staging and production" in output
    assert "app_ports" not in output


def test_equal_ports_are_refused_on_one_host_only(project):
    project.write({"inventories/production/host_vars/production-1.yml": "ansible_host: staging.invalid\n"})
    code, output = guard(project)
    assert code == 2, output
    assert "app_ports of staging and production have something in common, and both run on staging.invalid" in output
    project.write(environment("production", app_ports=[8010, 8011]))
    assert guard(project)[0] == 0


@pytest.mark.parametrize("name", ["vault_registry_password", "vault_under_another_name"])
def test_a_shared_secret_is_refused_without_the_others_password(project, name):
    value = secrets.read("staging", project.root)["vault_registry_password"]
    put(project, "production", **{name: value})
    secrets.write_fingerprints("production", project.root)
    (project.root / ".vault" / "production").unlink()
    code, output = guard(project, "-vvv", "--diff")
    assert code == 2, output
    assert f"vault_registry_password of staging is the same secret as {name} of production" in output
    assert "./gantry secrets rotate staging vault_registry_password" in output
    assert value not in output


def test_fingerprints_have_to_be_up_to_date(project):
    put(project, "staging", vault_added="a-secret-added-by-hand", vault_registry_password="changed-by-hand-too")
    code, output = guard(project)
    assert code == 2, output
    for name in ("vault_added", "vault_registry_password"):
        assert f"{name} was changed since" in output
    assert "run ./gantry secrets fingerprints staging" in output
    secrets.write_fingerprints("staging", project.root)
    assert guard(project)[0] == 0


@pytest.mark.parametrize("content", [None, "not: fingerprints\n"])
def test_own_fingerprints_have_to_be_there(project, content):
    file = project.root / "inventories/staging/fingerprints.yml"
    file.unlink() if content is None else file.write_text(content)
    code, output = guard(project)
    assert code == 2, output
    assert "fingerprints.yml is missing or damaged: make it with ./gantry secrets fingerprints staging" in output


def test_the_other_environment_is_never_passed_over_in_silence(project):
    folder = project.root / "inventories/production"
    (folder / "fingerprints.yml").unlink()
    code, output = guard(project)
    assert code == 2, output
    assert "production has secrets but no fingerprints to compare with" in output
    (folder / "group_vars/all/vault.yml").unlink()
    code, output = guard(project)
    assert code == 0, output
    assert "staging's secrets are not compared with it" in output


def test_an_environment_without_secrets_says_how_to_make_them(project):
    folder = project.root / "inventories/staging"
    (folder / "fingerprints.yml").unlink()
    (folder / "group_vars/all/vault.yml").unlink()
    code, output = guard(project)
    assert code == 2, output
    assert "has no vault_registry_password: make the secrets with ./gantry secrets" in output


def test_a_vault_in_clear_is_refused(project):
    (project.root / "inventories/staging/group_vars/all/vault.yml").write_text(
        "vault_registry_password: in-the-clear\n"
    )
    code, output = guard(project)
    assert code == 2, output
    assert "vault.yml is not encrypted: ansible-vault encrypt --encrypt-vault-id staging" in output
    assert "in-the-clear" not in output


def test_a_test_environment_is_left_alone(project):
    project.write(environment("molecule", app_data_path="/srv/staging"))
    for inventory in ("inventories/molecule", "inventories/staging"):
        code, output = guard(project, inventory=inventory)
        assert code == 0, output


def test_a_misspelt_name_is_noticed(project):
    project.write({"playbooks/guard.yml": GUARD.replace("account]", "acount]")})
    code, output = guard(project)
    assert code == 0, output
    assert "acount is defined in neither staging nor production" in output


@pytest.mark.parametrize(("command", "password"), [("ansible-playbook", "wrong\n"), ("ansible", None)])
def test_a_wrong_vault_password_names_the_file(project, command, password):
    file = project.root / ".vault" / "staging"
    file.unlink() if password is None else file.write_text(password)
    what = {"ansible-playbook": ["playbooks/guard.yml"], "ansible": ["all", "-m", "debug"]}[command]
    done = project.run(command, *what, "-i", "inventories/staging")
    assert done.returncode != 0
    output = " ".join(done.stdout.split())
    assert "inventories/staging/group_vars/all/vault.yml cannot be opened: the password in .vault/staging is" in output


def test_digests_made_once_tell_stale_from_shared():
    own = {f"vault_{number}": f"a secret value, number {number}" for number in range(6)}
    document = fingerprints.make(own, fingerprints.new_salt())
    changed = own | {"vault_0": "quite another value"}
    digests = fingerprints.digests(changed, document["salt"])
    assert fingerprints.stale(digests, document) == ["vault_0"]
    assert fingerprints.shared(digests, document) == [(name, name) for name in own if name != "vault_0"]
