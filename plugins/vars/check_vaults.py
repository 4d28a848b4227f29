# Copyright: the Gantry authors
"""Name the vault file that cannot be opened, and what to do, before any variable is used.

Ansible's own words for a wrong or missing password are "Decryption failed (no vault secrets were found that could
decrypt)", without the file (measured on ansible-core 2.19).
"""

from __future__ import annotations

DOCUMENTATION = """
    name: check_vaults
    short_description: A clear error for a vault file that cannot be opened
    description:
      - Opens each C(vault.yml) in the C(group_vars) and C(host_vars) of the inventory, and sets no variable.
      - Enable it first, so that no other plugin meets such a file before it. What it opened is not opened again.
    options: {}
"""

from pathlib import Path

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.parsing.vault import AnsibleVaultError, is_encrypted, parse_vaulttext_envelope
from ansible.plugins.vars import BaseVarsPlugin


class VarsModule(BaseVarsPlugin):
    """Vars plugin: no values, only an error."""

    REQUIRES_ENABLED = True

    # Folders that are known to be fine; Ansible asks once per source, group and host.
    _checked: set[str] = set()

    def get_vars(self, loader, path, entities):
        """Return no variables.

        :param loader: Ansible's ``DataLoader``; it keeps what it opened.
        :param path: the inventory's or the playbook's folder.
        :param entities: hosts and groups; not used.
        :raises AnsibleParserError: when a vault file cannot be opened.
        """
        super().get_vars(loader, path, entities)
        if path not in self._checked:
            for layer in ("group_vars", "host_vars"):
                for file in sorted(Path(path, layer).rglob("vault.yml")):
                    _open(loader, file)
            self._checked.add(path)
        return {}


def _open(loader, file: Path) -> None:
    try:
        loader.load_from_file(str(file), cache="all", unsafe=True, trusted_as_template=True)
    except AnsibleVaultError:
        raise AnsibleParserError(_advice(file)) from None  # Ansible's own words add nothing


def _advice(file: Path) -> str:
    data = file.read_bytes()
    try:
        vault_id = parse_vaulttext_envelope(data)[3] if is_encrypted(data) else None
    except AnsibleError:
        return f"{file} is damaged: get it back from a backup, or move it away and make a new one with ./gantry secrets"
    if vault_id is None:
        return f"{file} cannot be opened: a value in it is encrypted with a password that this run does not have"
    return (
        f"{file} cannot be opened: the password in .vault/{vault_id} is missing or not the one it was encrypted with. "
        f"Put the right one there; for a new environment ./gantry secrets makes both."
    )
