#!/usr/bin/python
# Copyright: the Gantry authors
"""Ansible module: a release is on the host, ready to run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Keep a release ready on the host
description:
  - Pulls the image by its digest and records it together with the environment, secrets, limits, routes and scheduled
    tasks that it runs with.
  - When the release that is live is made of the same, that one is returned and nothing changes.
  - Nothing that serves is touched; see M(live_release) for that.
options:
  app:
    description: Instance of the application, C(NAME-ENVIRONMENT).
    type: str
    required: true
  version:
    description: Version, for people.
    type: str
    required: true
  image:
    description: Image name with registry, without tag.
    type: str
    required: true
  digest:
    description: The image's digest.
    type: str
    required: true
  env:
    description: Plain environment variables of the containers.
    type: dict
    default: {}
  secrets:
    description: Values that containers find as files; the variable C(NAME_FILE) names the file.
    type: dict
    default: {}
  port:
    description: Port that the application listens on in its container.
    type: int
    required: true
  slots:
    description: The two loopback ports that releases take in turn.
    type: list
    elements: int
    required: true
  route:
    description: Name of the proxy's route.
    type: str
    required: true
  domains:
    description: Host names of the route; the first is also what the health check asks for.
    type: list
    elements: str
    required: true
  prefix:
    description: Path prefix of the route, without a slash at its end; empty for the whole host.
    type: str
    required: true
  uid:
    description: User and group id that the containers run as.
    type: int
    required: true
  data_path:
    description: Folder of the host that containers see as C(/data).
    type: path
    required: true
  health_path:
    description: Path that answers 200 when the application can serve.
    type: str
    required: true
  memory:
    description: Memory limit of one container.
    type: str
    required: true
  cpus:
    description: CPU limit of one container, in cores.
    type: float
    required: true
  pids:
    description: Process limit of one container.
    type: int
    required: true
  stop_timeout:
    description: Seconds between SIGTERM and SIGKILL.
    type: int
    required: true
  scheduled_tasks:
    description: Commands that run on a schedule in the release that is live.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the timer.
        type: str
        required: true
      command:
        description: Argument vector inside the container.
        type: list
        elements: str
        required: true
      schedule:
        description: systemd calendar expression.
        type: str
        required: true
      timeout:
        description: Seconds after which it is stopped.
        type: int
        default: 600
  by:
    description: Who releases it.
    type: str
    required: true
  commit:
    description: Revision of the Ansible project.
    type: str
    default: ""
author: the Gantry authors
"""

EXAMPLES = r"""
- name: Keep the release ready
  release:
    app: shop-staging
    version: 1.4.2
    image: registry.example/shop
    digest: "{{ image.digest }}"
    env: {LOG_LEVEL: info}
    secrets: {SECRET_KEY: "{{ vault_secret_key }}"}
    port: 8000
    slots: [8010, 8011]
    route: shop-staging
    domains: [staging.shop.example]
    prefix: ""
    uid: 10001
    data_path: /var/lib/gantry/shop-staging/data
    health_path: /health/ready
    memory: 512m
    cpus: 1
    pids: 200
    stop_timeout: 30
    by: alice@laptop
  no_log: true
"""

RETURN = r"""
release:
  description: The release; C(live) says whether it serves already.
  returned: success
  type: dict
  sample: {id: 20261122T101500Z-1.4.2, version: 1.4.2, digest: "sha256:…", live: false}
"""

import os
from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.gantry import haproxy
from ansible.module_utils.gantry.registry import DIGEST
from ansible.module_utils.gantry.releases import (
    NAME,
    Release,
    ScheduledTask,
    Spec,
    describe,
    env_text,
    fingerprint,
    new_id,
    timestamp,
)
from ansible.module_utils.gantry.store import Store, StoreError

try:
    from ansible.module_utils.gantry.engine import Engine, EngineError
    from ansible.module_utils.gantry.timers import check_schedule
except ImportError:
    Engine = None

TASK_SPEC = {
    "name": {"type": "str", "required": True},
    "command": {"type": "list", "elements": "str", "required": True},
    "schedule": {"type": "str", "required": True},
    "timeout": {"type": "int", "default": 600},
}
ARGUMENT_SPEC = {
    "app": {"type": "str", "required": True},
    "version": {"type": "str", "required": True},
    "image": {"type": "str", "required": True},
    "digest": {"type": "str", "required": True},
    "env": {"type": "dict", "default": {}},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "port": {"type": "int", "required": True},
    "slots": {"type": "list", "elements": "int", "required": True},
    "route": {"type": "str", "required": True},
    "domains": {"type": "list", "elements": "str", "required": True},
    "prefix": {"type": "str", "required": True},
    "uid": {"type": "int", "required": True},
    "data_path": {"type": "path", "required": True},
    "health_path": {"type": "str", "required": True},
    "memory": {"type": "str", "required": True},
    "cpus": {"type": "float", "required": True},
    "pids": {"type": "int", "required": True},
    "stop_timeout": {"type": "int", "required": True},
    "scheduled_tasks": {"type": "list", "elements": "dict", "default": [], "options": TASK_SPEC},
    "by": {"type": "str", "required": True},
    "commit": {"type": "str", "default": ""},
}
SPEC_FIELDS = (
    "version image digest port slots route uid data_path health_path memory cpus pids stop_timeout".split()  # noqa: SIM905
)


def spec_of(params: dict) -> Spec:
    """Return the specification that the module's parameters describe.

    :raises ValueError: when a value cannot be.
    """
    if not NAME.fullmatch(params["app"]):
        raise ValueError(f"app {params['app']!r}: lower-case letters, digits, '-' and '_' make a name")
    if not DIGEST.fullmatch(params["digest"]):
        raise ValueError(f"digest {params['digest']!r} is not sha256:… with 64 hexadecimal digits")
    if len(set(params["slots"])) != 2:
        raise ValueError(
            f"slots {params['slots']}: two different ports are needed, the old and the new release run side by side"
        )
    names = [task["name"] for task in params["scheduled_tasks"]]
    if len(set(names)) != len(names) or not all(NAME.fullmatch(name) for name in names):
        raise ValueError(
            f"scheduled_tasks {names}: each needs a name of its own of lower-case letters, digits, '-' and '_'"
        )
    return Spec(
        route_keys=[haproxy.route_key(domain, params["prefix"]) for domain in params["domains"]],
        health_host=params["domains"][0],
        scheduled_tasks=[ScheduledTask(**task) for task in params["scheduled_tasks"]],
        **{name: params[name] for name in SPEC_FIELDS},
    )


def make_data_folder(path: str, uid: int) -> None:
    """Make the folder of the application's data; only the application and root look inside."""
    if not os.path.isdir(path):
        os.makedirs(path, mode=0o750)
        os.chown(path, uid, uid)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    env = {name: str(value) for name, value in params["env"].items()}
    secrets = {name: str(value) for name, value in params["secrets"].items()}
    try:
        spec = spec_of(params)
        env_text(env)
        store = Store(params["app"])
        records = store.records()
        live = store.live()
        current = records.get(live.release) if live else None
        print_of = fingerprint(spec, env, secrets)
        if current and current.fingerprint == print_of:
            module.exit_json(changed=False, release={**describe(current), "live": True})
        now = datetime.now(UTC)
        record = Release(
            id=new_id(now, spec.version, records),
            app=params["app"],
            spec=spec,
            fingerprint=print_of,
            created_at=timestamp(now),
            created_by=params["by"],
            commit=params["commit"],
        )
        if not module.check_mode:
            if Engine is None:
                module.fail_json(msg=missing_required_lib("docker") + " Provision the host first.")
            for task in spec.scheduled_tasks:
                check_schedule(task.schedule)
            with store.lock(params["by"]):
                pulled = Engine(store).pull(spec.image, spec.digest)
                make_data_folder(spec.data_path, spec.uid)
                store.add(record, env, secrets)
    except (ValueError, StoreError, OSError) as error:
        module.fail_json(msg=str(error))
    except EngineError as error:
        module.fail_json(msg=f"{error}; nothing that serves was touched")
    module.exit_json(
        changed=True,
        release={**describe(record), "live": False, "pulled": None if module.check_mode else pulled},
        diff={"before": difference(current), "after": difference(record)},
    )


def difference(record: Release | None) -> str:
    """Return what ``--diff`` shows of a release."""
    if record is None:
        return ""
    return "".join(
        f"{name}: {value}\n" for name, value in describe(record).items() if name in ("version", "image", "digest")
    )


if __name__ == "__main__":
    main()
