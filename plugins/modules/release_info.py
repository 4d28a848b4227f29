#!/usr/bin/python
# Copyright: the Gantry authors
"""Ansible module: what is released on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_info
short_description: Tell which release serves on a host, and which ones one can go back to
description:
  - Reads the host's records and asks the running application for its health. Changes nothing.
options:
  app:
    description: Instance of the application, C(NAME-ENVIRONMENT).
    type: str
    required: true
author: the Gantry authors
"""

EXAMPLES = r"""
- name: Read what is released
  release_info:
    app: shop-staging
  register: released
"""

RETURN = r"""
live:
  description: The release that serves with C(since), C(by) and C(healthy), or null.
  returned: success
  type: dict
previous:
  description: The releases that one can go back to, the newest first.
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.gantry.releases import describe, served
from ansible.module_utils.gantry.store import Store, StoreError

try:
    from ansible.module_utils.gantry.engine import probe
except ImportError:
    # Without Docker's library nothing can have been released.
    probe = None


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"app": {"type": "str", "required": True}}, supports_check_mode=True)
    store = Store(module.params["app"])
    try:
        records = store.records()
        live = store.live()
    except StoreError as error:
        module.fail_json(msg=str(error))
    current = records.get(live.release) if live else None
    answer = None
    if live and current:
        healthy, why = probe(current, live.slot) if probe else (False, "Docker's library is gone")
        answer = {**describe(current), "since": live.since, "by": live.by, "healthy": healthy, "health": why}
    previous = [describe(record) for record in served(records) if live is None or record.id != live.release]
    module.exit_json(changed=False, live=answer, previous=previous)


if __name__ == "__main__":
    main()
