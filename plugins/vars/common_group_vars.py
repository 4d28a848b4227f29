# Copyright: the Gantry authors
"""Load the project's root ``group_vars/`` as the layer below the inventory's own.

Ansible looks for ``group_vars/`` beside the inventory and beside the playbook. With plays in ``playbooks/``, the common
layer at the project's root is found by neither, and one beside the plays would override the environment's values
instead of being overridden by them (measured on ansible-core 2.19).
"""

from __future__ import annotations

DOCUMENTATION = """
    name: common_group_vars
    short_description: The common layer of variables, from group_vars/ at the project's root
    description:
      - Loads C(group_vars/all), C(group_vars/GROUP) and their files for each group, beside C(ansible.cfg).
      - Enable it before C(host_group_vars), so that the environment's values win over the common ones.
      - It answers for an inventory in a folder C(inventories) only. Ansible asks for the folder of the play too, later,
        and then the common values would win over the environment's.
    options:
      stage:
        description: When the variables are loaded.
        choices: [all, task, inventory]
        type: str
        default: all
        ini:
          - {section: common_group_vars, key: stage}
        env:
          - {name: COMMON_GROUP_VARS_STAGE}
"""

from pathlib import Path

from ansible.inventory.group import Group
from ansible.plugins.vars import BaseVarsPlugin
from ansible.utils.vars import combine_vars

PROJECT = Path(__file__).resolve().parents[2]


class VarsModule(BaseVarsPlugin):
    """Vars plugin: values of ``group_vars/`` at the project's root."""

    REQUIRES_ENABLED = True

    # Ansible asks once per source, group and host; the files are read once per run.
    _cache: dict[str, dict] = {}

    def get_vars(self, loader, path, entities, cache=True):
        """Return the variables of the groups among *entities*.

        :param loader: Ansible's ``DataLoader``; it decrypts vault files.
        :param path: the inventory source or playbook folder that Ansible is looking at.
        :param entities: hosts and groups; hosts have no common layer.
        :param cache: whether values read earlier in this run may be used.
        :returns: a dictionary of variables.
        :raises AnsibleParserError: when a file is not valid YAML or cannot be decrypted.
        """
        super().get_vars(loader, path, entities)
        if Path(path).resolve().parent.name != "inventories":
            return {}
        values: dict = {}
        for entity in entities if isinstance(entities, list) else [entities]:
            if isinstance(entity, Group):
                values = combine_vars(values, self._group(loader, entity.name, cache))
        return values

    def _group(self, loader, name, cache):
        if not cache or name not in self._cache:
            values: dict = {}
            for file in loader.find_vars_files(str(PROJECT / "group_vars"), name):
                content = loader.load_from_file(file, cache="all", unsafe=False, trusted_as_template=True)
                values = combine_vars(values, content or {})
            self._cache[name] = values
        return self._cache[name]
