#!/usr/bin/python
# Copyright: the Gantry authors
"""Ansible module: the configuration that HAProxy runs with."""

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_config
short_description: Files of HAProxy's configuration, validated, put in place and applied together
description:
  - Assembles the configuration as it would be in a staging folder, lets HAProxy check it, and only then puts the files
    in place and has HAProxy load them. A configuration that is refused changes nothing.
  - When HAProxy does not load what passed its check, such as a port that something else holds, the files are put back.
  - Files of the folder that are not named are left alone.
  - Makes Debian's unit use the folder, enables the unit and starts it.
  - Loading is a reload; only the first time, when HAProxy still runs with another configuration, it is a restart.
options:
  path:
    description: The configuration folder. HAProxy reads its C(*.cfg) in the order of their names.
    type: str
    default: /etc/haproxy/gantry
  map:
    description: The map file, whose lock keeps a reload and a switch apart.
    type: str
    default: /etc/haproxy/gantry/routes.map
  socket:
    description: HAProxy's Runtime API socket.
    type: str
    default: /run/haproxy/admin.sock
  files:
    description: Text by path below O(path); null removes a file.
    type: dict
    required: true
  certificates:
    description:
      - Certificate (PEM) by route, for new ones. Each is put into C(certs/NAME.pem) together with the private key
        C(keys/NAME.key) of the host.
    type: dict
    default: {}
  timeout:
    description: Seconds within which HAProxy must have loaded the configuration.
    type: int
    default: 20
  settle:
    description:
      - Seconds that the process replaced by a reload is waited for. On idle connections it still takes a request each,
        and routes it as before, until the configuration's C(timeout http-keep-alive) is over.
    type: int
    default: 11
attributes:
  check_mode:
    support: full
    description: On a host where HAProxy runs with this configuration, the change is validated too.
  diff_mode:
    support: full
    description: Shows configuration files, and of certificates and keys only that they change.
author: the Gantry authors
"""

EXAMPLES = r"""
- name: Apply the configuration
  haproxy_config:
    files:
      00-base.cfg: "{{ lookup('ansible.builtin.template', 'base.cfg.j2') }}"
      route-old.cfg: null
"""

RETURN = r"""
files:
  description: Paths that were written or removed.
  returned: success
  type: list
  elements: str
action:
  description: What was done to the unit, or would be; V(none), V(reload) or V(restart).
  returned: success
  type: str
"""

import os
import re
import shutil
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.gantry import haproxy

DEFAULTS_FILE = "/etc/default/haproxy"
SECRET_FOLDERS = ("certs", "keys")


class Unit:
    """Debian's haproxy.service."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        _rc, out, _err = module.run_command(
            ["systemctl", "show", "haproxy.service", "--property=ActiveState,MainPID,UnitFileState"]
        )
        shown = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
        self.enabled = shown.get("UnitFileState") == "enabled"
        self.main_pid = int(shown.get("MainPID") or 0) if shown.get("ActiveState") in ("active", "reloading") else 0

    def uses(self, folder: str) -> bool:
        """Whether the unit runs with the configuration of *folder*."""
        try:
            with open(f"/proc/{self.main_pid}/cmdline", "rb") as file:
                return folder.encode() in file.read().split(b"\0")
        except FileNotFoundError:
            return False

    def run(self, verb: str) -> str:
        """Run systemctl; return what it complained about, or an empty text."""
        rc, out, err = self.module.run_command(["systemctl", verb, "haproxy.service"])
        return f"`systemctl {verb} haproxy` failed: {(err or out).strip()}" if rc else ""

    def last_lines(self) -> str:
        """Return the last lines that HAProxy logged about itself."""
        argv = ["journalctl", "--unit=haproxy", "--lines=200", "--output=cat", "--no-pager"]
        _rc, out, _err = self.module.run_command(argv)
        return "\n".join([line for line in out.splitlines() if re.match(r"\[(ALERT|WARNING)\]", line)][-10:])


class Configuration:
    """The configuration folder: what is there, and what is to be.

    :param folder: the folder.
    :param texts: text by absolute path; None for a file that is to go.
    """

    def __init__(self, folder: str, texts: dict[str, str | None]) -> None:
        self.folder = folder
        self.before = {path: read(path) for path in texts}
        self.changes = {path: text for path, text in texts.items() if text != self.before[path]}

    def check(self, module: AnsibleModule) -> str:
        """Let HAProxy check the configuration as it would be; return its complaint, or an empty text."""
        # In memory, for private keys are among the files.
        with tempfile.TemporaryDirectory(dir="/run", prefix="gantry-haproxy-") as staging:
            shutil.copytree(self.folder, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns("keys", "*.lock"))
            for path, text in self.changes.items():
                if path.startswith(self.folder + "/"):
                    put(os.path.join(staging, os.path.relpath(path, self.folder)), text)
            for name in os.listdir(staging):
                if name.endswith(".cfg"):
                    file = os.path.join(staging, name)
                    put(file, (read(file) or "").replace(self.folder + "/", staging + "/"))
            rc, out, err = module.run_command(["haproxy", "-c", "-f", staging])
            if not rc:
                return ""
            said = (err + out).replace(staging, self.folder).strip()
            return "\n".join(line for line in said.splitlines() if "[ALERT]" in line) or said

    def put_in_place(self) -> None:
        """Write the changes."""
        for path, text in self.changes.items():
            put(path, text)

    def put_back(self) -> None:
        """Undo :meth:`put_in_place`."""
        for path in self.changes:
            put(path, self.before[path])

    def diff(self) -> list[dict[str, str]]:
        """Return Ansible's diff of the changes; certificates and keys are not shown."""
        shown = []
        for path, text in self.changes.items():
            secret = path.startswith(tuple(f"{self.folder}/{folder}/" for folder in SECRET_FOLDERS))
            before, after = self.before[path] or "", text or ""
            if secret:
                before, after = "(private)\n" if before else "", "(private, another)\n" if after else ""
            shown.append({"before_header": path, "after_header": path, "before": before, "after": after})
        return shown


def read(path: str) -> str | None:
    """Return a file's text, or None when there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def put(path: str, text: str | None) -> None:
    """Write a file whole, or remove it for None; its folder says who may read it."""
    if text is None:
        if os.path.exists(path):
            os.unlink(path)
        return
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700 if os.path.basename(folder) in SECRET_FOLDERS else 0o755, exist_ok=True)
    if os.path.basename(folder) in SECRET_FOLDERS:
        mode = 0o600
    else:
        mode = 0o640 if path.endswith(".cfg") else 0o644
    haproxy.write_atomically(path, text, mode)


def wanted_texts(module: AnsibleModule) -> dict[str, str | None]:
    """Return text by absolute path, from the parameters and the host's private keys."""
    folder = module.params["path"]
    texts: dict[str, str | None] = {}
    for name, text in module.params["files"].items():
        path = os.path.normpath(os.path.join(folder, name))
        if not path.startswith(folder + "/"):
            module.fail_json(msg=f"{name}: not below {folder}; give a path inside the folder")
        texts[path] = None if text is None else str(text).rstrip("\n") + "\n"
    for name, certificate in module.params["certificates"].items():
        key = read(f"{folder}/keys/{name}.key")
        if key is None:
            module.fail_json(msg=f"{folder}/keys/{name}.key: no private key for the certificate; run again")
        texts[f"{folder}/certs/{name}.pem"] = certificate.rstrip("\n") + "\n" + key
    defaults = read(DEFAULTS_FILE) or ""
    kept = [line for line in defaults.splitlines() if not re.match(r"\s*CONFIG=", line)]
    texts[DEFAULTS_FILE] = "\n".join([*kept, f'CONFIG="{folder}"']) + "\n"
    return texts


def running_pid(runtime: haproxy.Runtime) -> int:
    """Return the process that answers, or 0."""
    try:
        return runtime.pid()
    except haproxy.HaproxyError:
        return 0


def wait_for_end(pid: int, timeout: float) -> None:
    """Wait until a process is gone, or so long that it takes no new request any more."""
    deadline = time.monotonic() + timeout
    while pid and os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.05)


def load(unit: Unit, runtime: haproxy.Runtime, verb: str, timeout: float) -> str:
    """Reload or restart, and wait until a new process answers; return what went wrong, or an empty text."""
    deadline = time.monotonic() + timeout
    before = running_pid(runtime)
    if problem := unit.run(verb):
        return problem
    while time.monotonic() < deadline:
        if running_pid(runtime) not in (0, before):
            return ""
        time.sleep(0.05)
    return f"no new HAProxy process answers after {timeout:g} s"


def main() -> None:
    """Compare, validate, put in place, load."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "default": os.path.dirname(haproxy.ROUTES_MAP)},
            "map": {"type": "str", "default": haproxy.ROUTES_MAP},
            "socket": {"type": "str", "default": haproxy.RUNTIME_SOCKET},
            "files": {"type": "dict", "required": True},
            "certificates": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 20},
            "settle": {"type": "int", "default": 11},
        },
        supports_check_mode=True,
    )
    folder, timeout = module.params["path"], module.params["timeout"]
    runtime = haproxy.Runtime(module.params["socket"])
    # Left behind by a run that was cut off between writing and loading: what is on disk may not be what runs.
    pending = f"{folder}/.pending"

    unit = Unit(module)
    try:
        configuration = Configuration(folder, wanted_texts(module))
        verb = "restart" if not unit.uses(folder) else "reload"
        action = verb if verb == "restart" or configuration.changes or os.path.exists(pending) else "none"
        result = {
            "changed": action != "none" or not unit.enabled,
            "files": sorted(configuration.changes),
            "action": action,
            "diff": configuration.diff(),
        }
        if action != "none" and (not module.check_mode or unit.uses(folder)):
            if complaint := configuration.check(module):
                module.fail_json(msg=f"HAProxy refuses the configuration; nothing was changed. It says:\n{complaint}")
        if module.check_mode or not result["changed"]:
            module.exit_json(**result)
        if not unit.enabled and (problem := unit.run("enable")):
            module.fail_json(msg=problem)
        if action != "none":
            replaced = running_pid(runtime)
            with haproxy.locked(module.params["map"], timeout):
                haproxy.write_atomically(pending, "")
                configuration.put_in_place()
                if problem := load(unit, runtime, verb, timeout):
                    log = unit.last_lines()
                    configuration.put_back()
                    # The process that serves kept the old configuration in a reload; a restart needs it started.
                    again = load(unit, runtime, verb, timeout)
                    restored = f"but HAProxy does not load them: {again}" if again else "HAProxy runs with them"
                    if not again:
                        os.unlink(pending)
                    module.fail_json(msg=f"{problem}. The files are as they were before, {restored}. It logged:\n{log}")
                os.unlink(pending)
            # A release that follows would otherwise stop an application that the replaced process still sends users to.
            wait_for_end(replaced, module.params["settle"])
        module.exit_json(**result)
    except (haproxy.HaproxyError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
