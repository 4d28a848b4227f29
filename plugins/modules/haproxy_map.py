#!/usr/bin/python
# Copyright: the Gantry authors
"""Ansible module: the routes that the reverse proxy knows."""

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_map
short_description: Routes in HAProxy's map
description:
  - Makes the keys of routes exist or not exist in the map file and in the running HAProxy.
  - A key that exists keeps its backend, so a run never changes what serves; releases do that. A domain that is new to a
    route gets what serves the route's other domains, and a domain that a route gave up is removed.
  - A running HAProxy whose map differs from the file is given the file's entries.
options:
  path:
    description: The map file.
    type: str
    default: /etc/haproxy/gantry/routes.map
  socket:
    description: HAProxy's Runtime API socket, of level C(admin).
    type: str
    default: /run/haproxy/admin.sock
  routes:
    description: The routes.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the route and of its backends.
        type: str
        required: true
      domains:
        description: Host names and addresses, without port.
        type: list
        elements: str
        required: true
      prefix:
        description: Path prefix such as V(/api); empty for the whole host.
        type: str
        required: true
      ports:
        description: The two loopback ports of the application.
        type: list
        elements: int
        required: true
  default:
    description: Backend that a new key gets.
    type: str
    default: maintenance
  state:
    description: Whether the keys are in the map.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
    description: Finds out what would change.
  diff_mode:
    support: full
    description: Shows the entries before and after.
author: the Gantry authors
"""

EXAMPLES = r"""
- name: Give each new route the maintenance page
  haproxy_map:
    routes:
      - name: shop-staging
        domains: [staging.example.org]
        prefix: /api
        ports: [8010, 8011]
"""

RETURN = r"""
routes:
  description: Backend by key, as the map is now.
  returned: success
  type: dict
  sample: {staging.example.org/api/: shop-staging.0}
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.gantry import haproxy


def main() -> None:
    """Read, compare, write."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "default": haproxy.ROUTES_MAP},
            "socket": {"type": "str", "default": haproxy.RUNTIME_SOCKET},
            "routes": {"type": "list", "elements": "dict", "required": True, "options": haproxy.ROUTE_OPTIONS},
            "default": {"type": "str", "default": haproxy.MAINTENANCE},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    path, routes, default = module.params["path"], module.params["routes"], module.params["default"]
    if problems := haproxy.route_problems(routes):
        module.fail_json(msg=f"reverse proxy routes: {'; '.join(problems)}. Correct the environment's variables.")

    def change(entries: dict[str, str]) -> dict[str, str]:
        if module.params["state"] == "absent":
            return haproxy.without_routes(entries, routes)
        return haproxy.with_routes(entries, routes, default)

    try:
        if taken := haproxy.taken_keys(routes, haproxy.read_map(path)):
            owners = "; ".join(f"{key} is served by {backend}" for key, backend in taken.items())
            module.fail_json(msg=f"another route of this host has the same address: {owners}. Give one another prefix.")
        if not module.check_mode:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        before, after, changed = haproxy.ensure(path, module.params["socket"], change, check=module.check_mode)
    except (haproxy.HaproxyError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=changed,
        diff={
            "before_header": path,
            "after_header": path,
            "before": haproxy.render_map(before) if before else "",
            "after": haproxy.render_map(after),
        },
        routes=after,
    )


if __name__ == "__main__":
    main()
