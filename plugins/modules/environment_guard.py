# Copyright: the Gantry authors
"""Documentation of the action plugin of the same name; it runs on the controller."""

DOCUMENTATION = """
module: environment_guard
short_description: Refuse to run when an environment is mixed up with another one
description:
  - Compares the environment of this run with each folder beside its inventory, and fails with all problems found.
  - The inventory has to be one folder, or a file in it, with the environment's name.
  - No value in the environment's C(vault.yml) files may equal one of another environment. The others' are known by
    their C(fingerprints.yml), so the others' vault passwords are not needed. Its own must be up to date.
  - The expressions in O(must_differ) are evaluated in both environments; another environment's vaults count as empty.
  - It runs on the controller, opens no connection and changes nothing. Use it with C(run_once).
options:
  environment:
    description: What the variables say is the environment.
    type: str
    required: true
  must_differ:
    description:
      - Expressions (a variable's name is one) whose values no two environments may share.
      - They are evaluated for the first host of O(group), in this environment for the host of the task.
      - One that is undefined in an environment has nothing to share. A list or a dictionary is compared as a whole.
    type: list
    elements: str
    default: []
  must_differ_on_a_host:
    description: Expressions of lists that may have nothing in common with an environment on the same C(ansible_host).
    type: list
    elements: str
    default: []
  group:
    description: The group whose hosts are compared.
    type: str
    default: app_hosts
  test_environments:
    description: Environments that are neither checked nor compared with.
    type: list
    elements: str
    default: [molecule]
author: [the Gantry authors]
"""

EXAMPLES = """
- name: Check that the environment is not mixed up with another
  environment_guard:
    environment: "{{ app_environment }}"
    must_differ: [app_environment, "app_domain ~ app_url_prefix", app_data_path, registry_username]
    must_differ_on_a_host: [app_ports]
  run_once: true
"""

RETURN = """
environment_guard:
  description: What was compared with which environment.
  returned: success
  type: dict
  sample: {secrets: [production], values: [production]}
"""
