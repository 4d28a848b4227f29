"""The project's conventions that a reader counts on, checked on whatever is there."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import ansible_collections
import pytest
import yaml
from packaging.specifiers import SpecifierSet

PROJECT = Path(__file__).resolve().parents[2]
ROLES = sorted(folder.name for folder in (PROJECT / "roles").iterdir() if any(folder.glob("tasks/*.yml")))
ENVIRONMENTS = ["staging", "production"]


class Loader(yaml.SafeLoader):
    """Reads Ansible's YAML; its tags keep their text."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: loader.construct_scalar(node))


def read(file: Path):
    """Return what a YAML file holds, an empty dictionary when it is missing or empty."""
    return (yaml.load(file.read_text(encoding="utf-8"), Loader) if file.exists() else None) or {}  # noqa: S506


def role_file(role: str, name: str) -> Path:
    return PROJECT / "roles" / role / name


def entries(role: str) -> dict[str, dict]:
    """Return the options of each public entry of a role."""
    specs = read(role_file(role, "meta/argument_specs.yml")).get("argument_specs", {})
    return {entry: spec.get("options") or {} for entry, spec in specs.items()}


def inputs(role: str) -> dict[str, dict]:
    """Return all options of a role by name."""
    return {name: option for options in entries(role).values() for name, option in options.items()}


def nodes(value) -> Iterator[dict]:
    """Yield every dictionary inside a value, the value itself included."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from nodes(inner)


def tasks(role: str) -> Iterator[tuple[Path, dict]]:
    """Yield file and dictionary of everything that is a task, a block or a part of one."""
    for folder in ("tasks", "handlers"):
        for file in sorted(role_file(role, folder).rglob("*.yml")):
            yield from ((file, node) for node in nodes(read(file)))


def public_files() -> list[Path]:
    """Return the text files that are or will be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    files = [PROJECT / name for name in listed if name]
    return [file for file in files if file.is_file() and b"\0" not in file.read_bytes()[:4096]]


def test_there_are_roles():
    assert ROLES


@pytest.mark.parametrize("role", ROLES)
def test_role_says_what_it_guarantees(role):
    readme = role_file(role, "README.md")
    assert readme.exists(), f"write {readme}"
    assert "```yaml" in readme.read_text(encoding="utf-8"), f"show an example in {readme}"


@pytest.mark.parametrize("role", ROLES)
def test_role_has_a_scenario(role):
    scenario = PROJECT / "molecule" / role
    assert (scenario / "converge.yml").exists(), f"molecule/{role}/converge.yml is missing"
    assert list(scenario.glob("tests/test_*.py")), f"molecule/{role}/tests/test_*.py is missing"


@pytest.mark.parametrize("role", ROLES)
def test_specs_and_defaults_say_the_same(role):
    options, defaults = inputs(role), read(role_file(role, "defaults/main.yml"))
    assert [name for name in defaults if name not in options] == []
    # Without a default, and null as the default, both mean "not given".
    specified = {name: option["default"] for name, option in options.items() if option.get("default") is not None}
    assert specified == {name: value for name, value in defaults.items() if value is not None}


@pytest.mark.parametrize("role", ROLES)
def test_an_input_means_the_same_at_every_entry(role):
    meanings: dict[str, dict] = {}
    for entry, options in entries(role).items():
        for name, option in options.items():
            known = meanings.setdefault(name, option)
            alike = {key: known.get(key) == option.get(key) for key in ("type", "elements", "default", "choices")}
            assert all(alike.values()), f"{name} at {entry} differs from another entry: {alike}"


@pytest.mark.parametrize("role", ROLES)
def test_a_required_input_has_no_default(role):
    both = [name for name, option in inputs(role).items() if option.get("required") and "default" in option]
    assert both == []


@pytest.mark.parametrize("role", ROLES)
def test_every_input_is_described(role):
    assert entries(role).get("main") is not None, f"roles/{role}/meta/argument_specs.yml has no entry main"
    silent = [name for name, option in inputs(role).items() if not option.get("description") or "type" not in option]
    assert silent == []


@pytest.mark.parametrize("role", ROLES)
def test_names_start_with_the_role(role):
    private = f"__{role}_"
    assert [name for name in inputs(role) if not name.startswith(f"{role}_")] == []
    constants = [name for file in role_file(role, "vars").glob("*.yml") for name in read(file)]
    assert [name for name in constants if not name.startswith(private)] == []
    set_here = [
        name
        for _file, task in tasks(role)
        for name in [
            *([task["register"]] if isinstance(task.get("register"), str) else []),
            *[fact for fact in task.get("ansible.builtin.set_fact") or {} if fact != "cacheable"],
            *([task["loop_control"]["loop_var"]] if "loop_var" in (task.get("loop_control") or {}) else []),
        ]
    ]
    assert [name for name in set_here if not name.startswith(private)] == []


@pytest.mark.parametrize("role", ROLES)
def test_role_reads_nobody_elses_variables(role):
    foreign = "|".join(other for other in ROLES if other != role)
    # Not after a dot, a quote or a longer name: a variable and no key. A table of the play's hosts may look at each.
    pattern = re.compile(rf"(?<![\w.'\"/-])(?:(?:{foreign})_\w+|(?<!extract', )hostvars|groups)\b")
    own = {*inputs(role)}
    found = []
    for folder in ("tasks", "handlers", "defaults", "vars", "templates"):
        for file in sorted(role_file(role, folder).rglob("*")):
            if not file.is_file():
                continue
            for braces in re.findall(r"\{[{%](.*?)[%}]\}", file.read_text(encoding="utf-8"), re.DOTALL):
                found += [f"{file.name}: {name}" for name in pattern.findall(braces) if name not in own]
    assert found == []


@pytest.mark.parametrize("role", ROLES)
def test_role_hides_no_error_and_has_no_tags(role):
    assert [f"{file.name}: {task}" for file, task in tasks(role) if "ignore_errors" in task or "tags" in task] == []


@pytest.mark.parametrize("role", ROLES)
def test_no_log_is_plain(role):
    wrong = [f"{file.name}: {task.get('name')}" for file, task in tasks(role) if task.get("no_log", True) is not True]
    assert wrong == []


@pytest.mark.parametrize("role", ROLES)
def test_an_include_says_what_it_includes(role):
    includes = ("include_tasks", "import_tasks", "include_vars")
    for file, task in tasks(role):
        for name in includes:
            target = task.get(f"ansible.builtin.{name}", "")
            target = target.get("file", "") if isinstance(target, dict) else target
            assert "{{" not in str(target), f"{file}: what can {target} be?"


@pytest.mark.parametrize("role", ROLES)
def test_an_entry_of_the_specs_exists(role):
    assert [entry for entry in entries(role) if not role_file(role, f"tasks/{entry}.yml").exists()] == []


def playbooks() -> list[Path]:
    return sorted(file.relative_to(PROJECT) for file in (PROJECT / "playbooks").glob("*.yml"))


def shims() -> list[Path]:
    names = [file.relative_to(PROJECT) for file in PROJECT.glob("*.yml")]
    return sorted(name for name in names if name.name != "requirements.yml" and not name.name.startswith("."))


@pytest.mark.parametrize("file", shims(), ids=str)
def test_a_file_at_the_root_only_imports(file):
    assert [set(play) - {"name", "ansible.builtin.import_playbook"} for play in read(PROJECT / file)] == [set()]
    assert [play for play in read(PROJECT / file) if "ansible.builtin.import_playbook" not in play] == []


def test_the_two_commands_are_there():
    assert {"deploy.yml", "rollback.yml"} <= {str(file) for file in shims()}


@pytest.mark.parametrize("file", playbooks(), ids=str)
def test_a_play_sets_no_variable(file):
    forbidden = {"vars", "vars_files", "vars_prompt"}
    assert [play.get("name") for play in read(PROJECT / file) if forbidden & play.keys()] == []


@pytest.mark.parametrize("file", playbooks(), ids=str)
def test_a_play_has_a_name(file):
    assert [play for play in read(PROJECT / file) if not play.get("name")] == []


def test_no_variables_lie_beside_the_plays():
    assert [folder for folder in ("group_vars", "host_vars") if (PROJECT / "playbooks" / folder).exists()] == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_inventory_says_which_environment_it_is(environment):
    values = read(PROJECT / "inventories" / environment / "group_vars" / "all" / "main.yml")
    assert values["app_environment"] == environment


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_says_only_what_differs(environment):
    common = {
        name: value for file in (PROJECT / "group_vars" / "all").glob("*.yml") for name, value in read(file).items()
    }
    own = read(PROJECT / "inventories" / environment / "group_vars" / "all" / "main.yml")
    assert [name for name, value in own.items() if name in common and common[name] == value] == []


def test_no_path_of_one_machine():
    machine = re.compile(r"(?<![\w.])/(?:home/(?!debian\b)|Users/|work/)[\w.-]+")
    found = [
        f"{file.relative_to(PROJECT)}: {match.group()}"
        for file in public_files()
        for match in machine.finditer(file.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []


def test_nothing_secret_is_public():
    names = [str(file.relative_to(PROJECT)) for file in public_files()]
    assert [name for name in names if name.startswith((".vault/", ".lab/"))] == []
    begin = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE" + rb" KEY-----")
    assert [str(file) for file in public_files() if begin.search(file.read_bytes())] == []


def test_the_installed_collections_are_those_required():
    collections = Path(ansible_collections.__path__[0])
    wrong = []
    for wanted in read(PROJECT / "requirements.yml")["collections"]:
        manifest = collections / wanted["name"].replace(".", "/") / "MANIFEST.json"
        version = read(manifest)["collection_info"]["version"]
        if version not in SpecifierSet(wanted["version"]):
            wrong.append(f"{wanted['name']} {version}")
    assert wrong == []
