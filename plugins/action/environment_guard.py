# Copyright: the Gantry authors
"""Refuse to run when an environment is mixed up with another one; see the documentation of the module of this name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils
import yaml
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import AnsibleVaultError, is_encrypted
from ansible.plugins.action import ActionBase
from ansible.template import Templar, trust_as_template
from ansible.utils.display import Display
from ansible.vars.manager import VariableManager

# Ansible finds the project's module_utils for modules only, not for plugins on the controller.
ansible.module_utils.__path__.append(str(Path(__file__).resolve().parents[1] / "module_utils"))

from ansible.module_utils.gantry import fingerprints

display = Display()
VAULT_NAME = re.compile(r"\bvault_\w+")


class ActionModule(ActionBase):
    """Action plugin: the checks, on the controller."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Return what was compared, or a failure that lists every problem.

        :param tmp: not used.
        :param task_vars: the variables of the host.
        """
        result = super().run(tmp, task_vars)
        _spec, args = self.validate_argument_spec(
            {
                "environment": {"type": "str", "required": True},
                "must_differ": {"type": "list", "elements": "str", "default": []},
                "must_differ_on_a_host": {"type": "list", "elements": "str", "default": []},
                "group": {"type": "str", "default": "app_hosts"},
                "test_environments": {"type": "list", "elements": "str", "default": ["molecule"]},
            }
        )
        try:
            inventory = own_inventory(task_vars["ansible_inventory_sources"], args["environment"])
            compared: dict[str, list[str]] = {"secrets": [], "values": []}
            problems: list[str] = []
            if inventory.name not in args["test_environments"]:
                others = [other for other in siblings(inventory) if other.name not in args["test_environments"]]
                problems += self._secrets(inventory, others, task_vars, compared["secrets"])
                problems += self._values(inventory, others, task_vars, args, compared["values"])
        except MixedUp as error:
            problems = [str(error)]
        if problems:
            return result | {"failed": True, "msg": "\n".join(problems)}
        return result | {"changed": False, "environment_guard": compared}

    def _secrets(self, inventory: Path, others: list[Path], task_vars: Mapping, compared: list[str]) -> list[str]:
        """Return the problems of the environment's secrets, and note with whom they were compared."""
        name = inventory.name
        if not fingerprints.vault_files(inventory) and not (inventory / "fingerprints.yml").exists():
            if missing := missing_secrets(task_vars):
                return [f"{inventory} has no {', '.join(missing)}: make the secrets with ./gantry secrets"]
            display.warning(f"{inventory} has no vault.yml, so its secrets are not compared with other environments'")
            return []
        for file in fingerprints.vault_files(inventory):
            if not is_encrypted(file.read_bytes()):
                return [f"{file} is not encrypted: ansible-vault encrypt --encrypt-vault-id {name} {file}"]
        secrets = fingerprints.read_vaults(inventory, lambda file: self._loader.load_from_file(str(file), unsafe=True))
        for short in fingerprints.too_short(secrets):
            display.warning(f"{short} has fewer than {fingerprints.SHORTEST} characters and is not compared")
        own = Digests({name: value for name, value in secrets.items() if len(value) >= fingerprints.SHORTEST})

        renew = f"./gantry secrets fingerprints {name}"
        recorded = read_fingerprints(inventory)
        if recorded is None:
            return [f"{inventory / 'fingerprints.yml'} is missing or damaged: make it with {renew}"]
        problems = [
            f"{secret} was changed since {inventory / 'fingerprints.yml'} was written: run {renew}"
            for secret in fingerprints.stale(own.by(recorded["salt"]), recorded)
        ]
        for other in others:
            theirs = read_fingerprints(other)
            if theirs is not None:
                compared.append(other.name)
                problems += [
                    f"{mine} of {name} is the same secret as {their} of {other.name}: give one of them a new value, "
                    f"with ./gantry secrets rotate {name} {mine}, or in {inventory}"
                    for mine, their in fingerprints.shared(own.by(theirs["salt"]), theirs)
                ]
            elif fingerprints.vault_files(other):
                problems.append(
                    f"{other} has secrets but no fingerprints to compare with: "
                    f"./gantry secrets fingerprints {other.name}, by somebody who has its password"
                )
            else:
                display.warning(f"{other} has no fingerprints.yml here, so {name}'s secrets are not compared with it")
        return problems

    def _values(
        self, inventory: Path, others: list[Path], task_vars: Mapping, args: Mapping, compared: list[str]
    ) -> list[str]:
        """Return the problems of the environment's names and places, and note with whom they were compared."""
        problems = []
        own_hosts = {
            str(task_vars["hostvars"][host].get("ansible_host", host))
            for host in task_vars["groups"].get(args["group"], [])
        }
        own = {name: evaluate(self._templar, name) for name in [*args["must_differ"], *args["must_differ_on_a_host"]]}
        for other in others:
            try:
                addresses, templar = load_environment(other, args["group"], task_vars["playbook_dir"])
            except AnsibleError as error:
                display.warning(f"{other} cannot be read, so nothing is compared with it: {error}")
                continue
            theirs = {name: evaluate(templar, name) for name in own}
            compared.append(other.name)
            for name, value in own.items():
                if value is UNDEFINED and theirs[name] is UNDEFINED:
                    display.warning(
                        f"{name} is defined in neither {inventory.name} nor {other.name}, nothing to compare"
                    )
                if theirs[name] is UNKNOWN:
                    display.warning(f"{name} of {other.name} cannot be worked out here, so it is not compared")
            where = f"edit it in {inventory}/group_vars or {other}/group_vars"
            problems += [
                f"{name} has the same value in {inventory.name} and {other.name}: {where}"
                for name in args["must_differ"]
                if same(own[name], theirs[name])
            ]
            if both := sorted(own_hosts & addresses):
                problems += [
                    f"{name} of {inventory.name} and {other.name} have something in common, and both run on "
                    f"{', '.join(both)}: {where}"
                    for name in args["must_differ_on_a_host"]
                    if overlap(own[name], theirs[name])
                ]
        return problems


class MixedUp(Exception):
    """The inventory is not the one of the environment; nothing further can be compared."""


# Results of an expression that has none: it needs a variable that is not there, or something else that fails.
UNDEFINED, UNKNOWN = object(), object()


class Digests:
    """The digests of some secrets, made once for each salt."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets
        self._known: dict[str, dict[str, str]] = {}

    def by(self, salt: str) -> dict[str, str]:
        """Return the digests by name.

        :param salt: hexadecimal digits.
        """
        if salt not in self._known:
            self._known[salt] = fingerprints.digests(self._secrets, salt)
        return self._known[salt]


class ClosedLoader(DataLoader):
    """A loader to which every vault file is empty: it has no password."""

    def load_from_file(self, file_name, *args, **kwargs):
        """Return the content of a file, an empty one for a vault file.

        :param file_name: path.
        :param args: see ``DataLoader``.
        :param kwargs: see ``DataLoader``.
        """
        try:
            return super().load_from_file(file_name, *args, **kwargs)
        except AnsibleVaultError:
            return {}


def own_inventory(sources: Iterable[str], environment: str) -> Path:
    """Return the folder of the environment's inventory.

    :param sources: what ``-i`` said.
    :param environment: what the variables say is the environment.
    :raises MixedUp: when there are several, or it is not the environment's.
    """
    sources = list(sources)
    if len(sources) != 1 or "," in sources[0]:
        raise MixedUp(f"a run is for one environment: give one -i inventories/ENV, not {' '.join(sources)}")
    source = Path(sources[0]).resolve()
    folder = source if source.is_dir() else source.parent
    if folder.name != environment:
        raise MixedUp(
            f"the inventory is {folder}, but app_environment says {environment}: choose -i inventories/{environment}, "
            f"or set app_environment to {folder.name} in {folder}/group_vars/all/main.yml"
        )
    return folder


def siblings(inventory: Path) -> list[Path]:
    """Return the folders of the other environments.

    :param inventory: the folder of this one.
    """
    return [folder for folder in sorted(inventory.parent.iterdir()) if folder.is_dir() and folder != inventory]


def read_fingerprints(inventory: Path) -> dict[str, Any] | None:
    """Return an environment's fingerprints, None when there are none that can be used.

    :param inventory: the environment's folder.
    """
    try:
        content = yaml.safe_load((inventory / "fingerprints.yml").read_text(encoding="utf-8"))
        bytes.fromhex(content["salt"])
        return content if all(isinstance(value, str) for value in content["secrets"].values()) else None
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError):
        return None


def missing_secrets(variables: Mapping[str, Any]) -> list[str]:
    """Return the names ``vault_…`` that a variable refers to and that are not there.

    :param variables: the host's, as they are written.
    """
    texts = [value for value in variables.values() if isinstance(value, str) and "{{" in value]
    names = {word for text in texts for word in VAULT_NAME.findall(text)}
    return sorted(names - variables.keys())


def load_environment(inventory: Path, group: str, playbook_dir: str) -> tuple[set[str], Templar]:
    """Return another environment's addresses, and a templar with the variables of its first host.

    :param inventory: its folder.
    :param group: the group of the hosts.
    :param playbook_dir: where the play is, as its variables see it.
    :raises AnsibleError: when the inventory cannot be read.
    """
    loader = ClosedLoader()
    loader.set_basedir(playbook_dir)
    manager = InventoryManager(loader=loader, sources=[str(inventory)])
    variables = VariableManager(loader=loader, inventory=manager)
    variables._extra_vars = {}  # what -e says is about this run's environment
    hosts = manager.get_hosts(group) if group in manager.groups else []
    templars = [Templar(loader, variables.get_vars(host=host, include_hostvars=False)) for host in hosts]
    addresses = {evaluate(templar, "ansible_host | default(inventory_hostname)") for templar in templars}
    return {str(address) for address in addresses}, templars[0] if templars else Templar(loader, {})


def evaluate(templar: Templar, expression: str) -> Any:
    """Return the value of an expression, UNDEFINED or UNKNOWN when it has none.

    :param templar: holds the variables.
    :param expression: without braces.
    """
    try:
        return templar.evaluate_expression(trust_as_template(expression))
    except AnsibleUndefinedVariable:
        return UNDEFINED
    except AnsibleError:
        return UNKNOWN


def same(mine: Any, theirs: Any) -> bool:
    """Return whether two values are known and equal.

    :param mine: result of :func:`evaluate`.
    :param theirs: result of :func:`evaluate`.
    """
    return mine is not UNDEFINED and mine is not UNKNOWN and mine == theirs


def overlap(mine: Any, theirs: Any) -> bool:
    """Return whether two lists have something in common.

    :param mine: result of :func:`evaluate`.
    :param theirs: result of :func:`evaluate`.
    """
    return isinstance(mine, list) and isinstance(theirs, list) and any(value in theirs for value in mine)
