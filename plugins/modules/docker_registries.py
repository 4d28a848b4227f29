#!/usr/bin/python
# Copyright: the Gantry authors
"""Ansible module: registries that a host's engine trusts and logs in to."""

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_registries
short_description: CA certificates of private registries, and root's logins there
description:
  - Puts each CA certificate where the engine looks for it at the next request; nothing is restarted.
  - Writes root's logins into C(/root/.docker/config.json), which only root can read. Logins and settings that are not
    named are kept. Passwords are on no command line, in no environment, and not in the difference.
options:
  registries:
    description: The registries.
    type: list
    elements: dict
    required: true
    suboptions:
      host:
        description: Host name, and C(:PORT) unless it is 443.
        type: str
        required: true
      username:
        description: Account; without it there is no login, and one that is there stays.
        type: str
      password:
        description: Its password or token.
        type: str
      ca_certificate:
        description: PEM text of the CA that signed the registry's certificate; only for a private one.
        type: str
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    description: Shows certificates, and of logins only whose they are and whether they change.
author: the Gantry authors
"""

EXAMPLES = r"""
- name: Log in to the registry
  docker_registries:
    registries:
      - host: registry.example.org:5000
        username: staging
        password: "{{ registry_password }}"
        ca_certificate: "{{ lookup('ansible.builtin.file', 'ca.crt') }}"
  no_log: true
"""

RETURN = r"""
registries:
  description: Hosts of the registries whose certificate or login was changed.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.gantry import docker_config
from ansible.module_utils.gantry.store import write

CONFIG = Path("/root/.docker/config.json")


def read(path: Path) -> str:
    """Return the text of a file; an empty one for a file that is not there."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def main() -> None:
    """Run the module."""
    suboptions: dict[str, Any] = {
        "host": {"type": "str", "required": True},
        "username": {"type": "str"},
        "password": {"type": "str", "no_log": True},
        "ca_certificate": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "registries": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": suboptions,
                "required_together": [("username", "password")],
            }
        },
        supports_check_mode=True,
    )
    changed: list[str] = []
    differences: list[dict[str, str]] = []
    try:
        before = docker_config.parse(read(CONFIG), str(CONFIG))
        after = before
        for registry in module.params["registries"]:
            host = registry["host"]
            path = Path(docker_config.certificate_path(host))
            if registry["ca_certificate"]:
                certificate = registry["ca_certificate"].strip() + "\n"
                there = read(path)
                if certificate != there:
                    changed.append(host)
                    differences.append(
                        {"before_header": str(path), "after_header": str(path), "before": there, "after": certificate}
                    )
                    if not module.check_mode:
                        write(path, certificate)
            if registry["username"]:
                logged_in = docker_config.with_login(after, host, registry["username"], registry["password"])
                if logged_in != after:
                    changed.append(host)
                    differences.append({"prepared": f"{CONFIG}: login of {registry['username']} at {host} changes\n"})
                after = logged_in
        exposed = bool(CONFIG.exists() and CONFIG.stat().st_mode & 0o077)
        if (after != before or exposed) and not module.check_mode:
            CONFIG.parent.mkdir(mode=0o700, exist_ok=True)
            write(CONFIG, docker_config.render(after), 0o600)
    except docker_config.DockerConfigError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changed) or exposed, registries=sorted(set(changed)), diff=differences)


if __name__ == "__main__":
    main()
