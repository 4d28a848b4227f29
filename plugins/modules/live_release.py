#!/usr/bin/python
# Copyright: the Gantry authors
"""Ansible module: which release serves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: live_release
short_description: Put a release live, or go back to one
description:
  - Starts the release beside the one that serves, waits until it is healthy, moves the proxy in one step, waits until
    the old release has answered its requests, and stops it. The old release stays on the host for going back.
  - When a step fails, users keep what they had, and what was started is removed.
options:
  app:
    description: Instance of the application, C(NAME-ENVIRONMENT).
    type: str
    required: true
  release:
    description:
      - Id of a release on the host.
      - Without it, the release that served before the live one first went live.
    type: str
  health_timeout:
    description: Seconds within which the application must be healthy.
    type: int
    default: 60
  drain_timeout:
    description: Seconds that requests in flight may take to end on the old release.
    type: int
    default: 30
  keep:
    description: How many releases stay on the host, the live one included.
    type: int
    default: 5
  by:
    description: Who asks for it.
    type: str
    required: true
author: the Gantry authors
"""

EXAMPLES = r"""
- name: Put the release live
  live_release:
    app: shop-staging
    release: "{{ prepared.release.id }}"
    by: alice@laptop

- name: Go back to the release before
  live_release:
    app: shop-staging
    by: alice@laptop
"""

RETURN = r"""
release:
  description: The release that serves.
  returned: success
  type: dict
previous:
  description: The release that served before, or null.
  returned: success
  type: dict
seconds:
  description: How long each step took.
  returned: when changed
  type: dict
  sample: {start: 0.4, check: 1.2, switch: 0.01, drain: 0.1, retire: 0.5}
step:
  description: The step that failed; the message ends with the container's last log lines.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.gantry.releases import Live, Release, describe, rollback_target
from ansible.module_utils.gantry.store import Store

try:
    from ansible.module_utils.gantry.activation import FAILURES, Activation, ActivationError, Proxy, Timeouts
    from ansible.module_utils.gantry.engine import Engine
except ImportError:
    Engine = None


def choose(store: Store, live: Live | None, wanted: str | None) -> Release:
    """Return the release to put live.

    :param wanted: its id, or ``None`` for the one before the live one.
    :raises ValueError: when there is no such release.
    """
    records = store.records()
    if wanted in records:
        return records[wanted]
    return rollback_target(records, live, wanted)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "release": {"type": "str"},
            "health_timeout": {"type": "int", "default": 60},
            "drain_timeout": {"type": "int", "default": 30},
            "keep": {"type": "int", "default": 5},
            "by": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    store = Store(params["app"])
    if module.check_mode and params["release"] and not store.folder(params["release"]).exists():
        # Under --check the release was not recorded: going live is what would follow.
        module.exit_json(changed=True)
    if Engine is None:
        module.fail_json(msg=missing_required_lib("docker") + " Provision the host first.")
    try:
        activation = Activation(
            store, Engine(store), Proxy(), Timeouts(params["health_timeout"], params["drain_timeout"])
        )
        with store.lock(params["by"]):
            before = store.live()
            target = choose(store, before, params["release"])
            module.no_log_values.update(store.secret_values(target.id))
            previous = store.records().get(before.release) if before else None
            result = {"release": describe(target), "previous": describe(previous)}
            if activation.is_live(target):
                module.exit_json(changed=False, **result)
            if not module.check_mode:
                activate(activation, target, previous, params)
    except (ValueError, *FAILURES) as error:
        module.fail_json(msg=str(error))
    except ActivationError as error:
        tail = f"\nLast log lines of the container:\n{error.log}" if error.log else ""
        module.fail_json(
            msg=f"{params['app']}: release {target.id} did not go live (step {error.step}): {error}{tail}",
            step=error.step,
        )
    module.exit_json(changed=True, seconds=activation.seconds, **result, diff=difference(previous, target))


def activate(activation: Activation, target: Release, previous: Release | None, params: dict) -> None:
    """Put *target* live, and write into the ledger what came of it."""
    entry = {
        "release": target.id,
        "version": target.spec.version,
        "digest": target.spec.digest,
        "previous": previous.id if previous else None,
        "by": params["by"],
        "commit": target.commit,
    }
    try:
        activation.run(target, params["by"], params["keep"])
    except ActivationError as error:
        activation.store.note(**entry, result="failed", step=error.step, why=str(error), seconds=activation.seconds)
        raise
    activation.store.note(**entry, result="succeeded", seconds=activation.seconds)


def difference(before: Release | None, after: Release) -> dict[str, str]:
    """Return what ``--diff`` shows."""
    return {
        "before": f"live: {before.id if before else 'nothing'}\n",
        "after": f"live: {after.id}\n",
    }


if __name__ == "__main__":
    main()
