#!/usr/bin/python
# Copyright: the Gantry authors
"""Ansible module: the data fits a release."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_migration
short_description: Bring the application's data to the state that a release needs
description:
  - Runs the application's own migration command in a container of the release, with its environment and secrets, and
    removes the container.
  - A failure ends the run; what serves was not touched.
options:
  app:
    description: Instance of the application, C(NAME-ENVIRONMENT).
    type: str
    required: true
  release:
    description: Id of the release.
    type: str
    required: true
  command:
    description: Argument vector.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds that it may take.
    type: int
    default: 600
  by:
    description: Who asks for it.
    type: str
    required: true
author: the Gantry authors
"""

EXAMPLES = r"""
- name: Migrate the data
  release_migration:
    app: shop-staging
    release: "{{ prepared.release.id }}"
    command: [python, manage.py, migrate, --noinput]
    by: alice@laptop
"""

RETURN = r"""
output:
  description: What the command printed.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.gantry.store import Store, StoreError

try:
    from ansible.module_utils.gantry.engine import Engine, EngineError
except ImportError:
    Engine = None


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "release": {"type": "str", "required": True},
            "command": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "int", "default": 600},
            "by": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=True, output="")
    if Engine is None:
        module.fail_json(msg=missing_required_lib("docker") + " Provision the host first.")
    store = Store(params["app"])
    try:
        with store.lock(params["by"]):
            records = store.records()
            if params["release"] not in records:
                module.fail_json(msg=f"release {params['release']} is not on this host; run deploy.yml")
            release = records[params["release"]]
            module.no_log_values.update(store.secret_values(release.id))
            live = store.live()
            serving = [records[live.release]] if live and live.release in records else []
            store.expose_secrets([*serving, release])
            try:
                output = Engine(store).run_once(release, "migrate", params["command"], params["timeout"])
            except EngineError:
                store.remove(release.id)
                store.expose_secrets(serving)
                raise
    except StoreError as error:
        module.fail_json(msg=str(error))
    except EngineError as error:
        module.fail_json(
            msg=f"{params['app']}: the migration of release {params['release']} failed: {error}; "
            "what serves was not touched"
            f"\nLast log lines of the container:\n{error.log}",
        )
    module.exit_json(changed=True, output=output)


if __name__ == "__main__":
    main()
