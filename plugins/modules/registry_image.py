#!/usr/bin/python
# Copyright: the Gantry authors
"""Ansible module: what digest a tag stands for."""

from __future__ import annotations

DOCUMENTATION = r"""
module: registry_image
short_description: Resolve an image's tag to its digest
description:
  - Asks the registry from the host itself, with Python's standard library, so that it works before anything is
    installed and proves that the host reaches the registry.
  - Changes nothing.
options:
  image:
    description: Image name with its registry, without tag.
    type: str
    required: true
  tag:
    description: The tag to resolve.
    type: str
    required: true
  username:
    description: The account's name; anonymous without it.
    type: str
  password:
    description: The account's password or token.
    type: str
  ca_certificate:
    description: PEM text of a CA to trust beside the system's own.
    type: str
  timeout:
    description: Seconds that one request may take.
    type: int
    default: 10
author: the Gantry authors
"""

EXAMPLES = r"""
- name: Resolve the tag
  registry_image:
    image: registry.example:5000/app
    tag: 1.4.2
"""

RETURN = r"""
image:
  description: The image that the tag stands for.
  returned: success
  type: dict
  sample: {name: registry.example:5000/app, tag: 1.4.2, digest: "sha256:…"}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.gantry.registry import TAG, Registry, RegistryError, parse_repository


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "tag": {"type": "str", "required": True},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "ca_certificate": {"type": "str"},
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    params = module.params
    if not TAG.fullmatch(params["tag"]):
        module.fail_json(
            msg=f"{params['tag']!r} cannot be a tag; letters, digits, '_', '.' and '-' make one (-e app_version=…)"
        )
    host, repository = parse_repository(params["image"])
    registry = Registry(host, params["username"], params["password"], params["ca_certificate"], params["timeout"])
    try:
        digest = registry.digest(repository, params["tag"])
    except RegistryError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, image={"name": params["image"], "tag": params["tag"], "digest": digest})


if __name__ == "__main__":
    main()
