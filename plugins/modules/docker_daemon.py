#!/usr/bin/python
# Copyright: the Gantry authors
"""Ansible module: the options that Docker Engine runs with."""

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_daemon
short_description: Options of Docker Engine, applied without stopping containers
description:
  - Writes C(/etc/docker/daemon.json), which then holds exactly O(options), and has a running engine take it over, by a
    reload where that is enough and by a restart where it is not. With the option C(live-restore), which is switched on
    first, containers run on across a restart.
  - The engine checks the file before it is put in place, from version 23 on. When the engine does not come up with it,
    or does not take it over, the file that was there is put back and applied.
  - An engine that was cut off from its last change, because a run ended in between, is healed.
  - An installed engine is enabled and running afterwards. Where none is installed, the file waits for its first start.
  - Refuses to point an engine that has containers at another store, which would hide them all.
options:
  options:
    description:
      - All options, as Docker documents them for C(daemon.json). They are shown in the difference, so no secrets.
    type: dict
    required: true
  timeout:
    description: Seconds within which the engine must have taken the options over.
    type: int
    default: 60
attributes:
  check_mode:
    support: full
    description: The engine checks the options in check mode too.
  diff_mode:
    support: full
author: the Gantry authors
"""

EXAMPLES = r"""
- name: Configure the engine
  docker_daemon:
    options:
      live-restore: true
      log-driver: local
      log-opts: {max-size: 20m, max-file: "5"}
"""

RETURN = r"""
action:
  description: What was done to the engine, or would be; V(none), V(reload), V(restart) or V(start).
  returned: success
  type: str
options:
  description: Names of the options that differed from what the engine ran with.
  returned: success
  type: list
  elements: str
"""

import contextlib
import http.client
import json
import shutil
import socket
import tempfile
import time
import urllib.parse
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.gantry import docker_config
from ansible.module_utils.gantry.store import write

PATH = Path("/etc/docker/daemon.json")
# The options that the engine has taken over. It differs from PATH while a change is under way, or after a cut-off run.
LOADED = Path("/var/lib/gantry/docker/daemon.json")
SOCKET = "/run/docker.sock"


class EngineError(Exception):
    """The engine did not take the options over; the message says why."""


class Connection(http.client.HTTPConnection):
    """HTTP over the engine's Unix socket; Docker's library may not be installed yet."""

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


class Engine:
    """The engine of this host and its systemd unit.

    :param timeout: seconds that it may take to follow.
    """

    def __init__(self, module: AnsibleModule, timeout: int) -> None:
        self.module = module
        self.timeout = timeout
        self.program = shutil.which("dockerd", path="/usr/sbin:/usr/bin")
        self.active, self.enabled = self._state()

    def _state(self) -> tuple[bool, bool]:
        """Return whether the unit is active and enabled."""
        properties = ["--property=ActiveState", "--property=UnitFileState"]
        _rc, out, _err = self.module.run_command(["systemctl", "show", "docker.service", *properties])
        shown = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
        return shown.get("ActiveState") in ("active", "reloading"), shown.get("UnitFileState") == "enabled"

    def check(self, text: str) -> str:
        """Return what the engine has against a file of options, or an empty text."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(text)
            file.flush()
            rc, out, err = self.module.run_command([self.program, "--validate", "--config-file", file.name])
        complaint = (err or out).strip()
        # Before version 23 it cannot check; then it is the start that tells.
        return "" if rc == 0 or "unknown flag" in complaint else complaint.replace(file.name, str(PATH))

    def get(self, path: str, **query: str) -> str:
        """Return the engine's answer to a request.

        :raises OSError: when it does not answer.
        :raises EngineError: when it answers with an error.
        """
        connection = Connection("localhost", timeout=self.timeout)
        with contextlib.closing(connection):
            connection.request("GET", f"{path}?{urllib.parse.urlencode(query)}")
            answer = connection.getresponse()
            body = answer.read().decode()
        if answer.status != 200:
            raise EngineError(f"the engine answered {answer.status} to {path}: {body.strip()}")
        return body

    def containers(self) -> int:
        """Return how many containers there are, stopped ones included."""
        return len(json.loads(self.get("/containers/json", all="1")))

    def apply(self, action: str, wanted: dict[str, Any]) -> None:
        """Have the engine take over the file that is in place.

        :param action: ``reload``, ``restart`` or ``start``.
        :param wanted: the options in the file.
        :raises EngineError: when it does not.
        """
        if action == "reload":
            self._reload()
            return
        if action == "restart" and wanted.get("live-restore"):
            if not json.loads(self.get("/info"))["LiveRestoreEnabled"]:
                # Otherwise this very restart would stop the containers.
                self._reload()
        # An engine that failed a few times in a row would not be started again by itself.
        self._systemctl("reset-failed")
        self._systemctl("restart" if action == "restart" else "start")

    def _reload(self) -> None:
        """Reload, and wait until the engine says that it did."""
        since = f"{time.time():.9f}"
        self._systemctl("reload")
        deadline = time.monotonic() + min(self.timeout, 15)
        filters = json.dumps({"type": ["daemon"], "event": ["reload"]})
        while not self.get("/events", since=since, until=f"{time.time():.9f}", filters=filters):
            if time.monotonic() > deadline:
                raise EngineError(f"the engine did not reload its options:\n{self.last_lines()}")
            time.sleep(0.1)

    def _systemctl(self, verb: str) -> None:
        rc, out, err = self.module.run_command(["timeout", str(self.timeout), "systemctl", verb, "docker.service"])
        if rc:
            raise EngineError(f"`systemctl {verb} docker` failed: {(err or out).strip()}\n{self.last_lines()}")

    def come_back(self) -> None:
        """Have the engine run with the file that was there before.

        :raises EngineError: when it does not come up.
        """
        active, _enabled = self._state()
        if active:
            # It only refused to reload, and runs on as it did.
            self._systemctl("reload")
            return
        self._systemctl("reset-failed")
        self._systemctl("restart")

    def enable(self) -> None:
        """Have the engine start at boot.

        :raises EngineError: when systemd refuses.
        """
        self._systemctl("enable")

    def last_lines(self) -> str:
        """Return the last lines that the engine logged."""
        argv = ["journalctl", "--unit=docker", "--identifier=dockerd", "--lines=5", "--output=cat", "--no-pager"]
        _rc, out, _err = self.module.run_command(argv)
        return out.strip()


def read(path: Path) -> str | None:
    """Return the text of a file, or None."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def refuse_to_hide(engine: Engine, differing: set[str]) -> None:
    """Refuse options that point an engine with containers at another store.

    :raises EngineError: when that is so.
    """
    hiding = sorted(differing & docker_config.STORE)
    if hiding and engine.active and (count := engine.containers()):
        raise EngineError(
            f"{', '.join(hiding)} would hide the {count} containers of this host with their images and volumes. "
            "Nothing was changed. Take the option back, or move the containers and volumes away first"
        )


def change(module: AnsibleModule, engine: Engine, wanted: dict[str, Any]) -> dict[str, Any]:
    """Make the file and the engine follow *wanted*; return the module's result.

    :raises EngineError: when the engine refuses; then the file is as it was.
    :raises DockerConfigError: when a file on the host cannot be read.
    """
    before = read(PATH)
    text = docker_config.render(wanted)
    current = docker_config.parse(before or "", str(PATH))
    loaded_text = read(LOADED)
    # Without a note of ours, the engine runs with what somebody else put there.
    loaded = current if loaded_text is None else docker_config.parse(loaded_text, str(LOADED))
    differing = docker_config.changed_options(loaded, wanted) | docker_config.changed_options(current, wanted)
    action = "none"
    if engine.program:
        # A file edited by hand may have been loaded since, so what differs from it counts as well.
        actions = {docker_config.needed_action(loaded, wanted), docker_config.needed_action(current, wanted)}
        action = next(each for each in ("restart", "reload", "none") if each in actions) if engine.active else "start"
        if differing and (complaint := engine.check(text)):
            raise EngineError(f"the engine refuses these options; nothing was changed:\n{complaint}")
        refuse_to_hide(engine, differing)
    result = {
        "changed": text != before or action != "none" or bool(engine.program and not engine.enabled),
        "action": action,
        "options": sorted(differing),
        "diff": {"before_header": str(PATH), "after_header": str(PATH), "before": before or "", "after": text},
    }
    if module.check_mode:
        return result
    if loaded_text is None:
        write(LOADED, docker_config.render(loaded if engine.program else wanted))
    if text != before:
        write(PATH, text)
    if action != "none":
        try:
            engine.apply(action, wanted)
        except (EngineError, OSError) as error:
            undo(engine, before, loaded)
            advice = "The previous options are back; correct docker_daemon_options and try again"
            raise EngineError(f"{error}\n{advice}") from error
    if engine.program and not engine.enabled:
        engine.enable()
    if loaded != wanted:
        write(LOADED, text)
    return result


def undo(engine: Engine, before: str | None, loaded: dict[str, Any]) -> None:
    """Put the file back that was there, and have the engine run with it.

    :raises EngineError: when the engine does not come up with it either.
    """
    if before is None:
        PATH.unlink(missing_ok=True)
    else:
        write(PATH, before)
    try:
        engine.come_back()
    except EngineError as error:
        raise EngineError(f"the engine came up neither with the new options nor with the old ones: {error}") from error
    write(LOADED, docker_config.render(loaded))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "options": {"type": "dict", "required": True},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    engine = Engine(module, module.params["timeout"])
    try:
        module.exit_json(**change(module, engine, module.params["options"]))
    except (EngineError, docker_config.DockerConfigError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
