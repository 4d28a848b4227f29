"""Scheduled tasks of the live release as systemd timers.

Each task has a stopped container in every release; its unit starts the one of the release that ``live`` names. So a
switch moves the tasks with the web container, a task never overlaps with itself, and its output is in the journal.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from ansible.module_utils.gantry.releases import Release, ScheduledTask
from ansible.module_utils.gantry.store import StoreError, write

UNITS = Path("/etc/systemd/system")


def unit_name(app: str, task: str) -> str:
    """Return the name of a task's unit, without suffix."""
    return f"gantry-{app}-task-{task}"


def render(app: str, live_file: Path, task: ScheduledTask) -> dict[str, str]:
    """Return the text of a task's units by file name.

    :param app: instance of the application.
    :param live_file: file that names the live release.
    :param task: the task.
    """
    name = unit_name(app, task.name)
    container = f"{app}-task-{task.name}-${{RELEASE}}"
    service = f"""\
# Written by Gantry with each release; what runs is decided by {live_file}.
[Unit]
Description={task.name} of {app}
Requires=docker.service
After=docker.service

[Service]
Type=oneshot
EnvironmentFile={live_file}
ExecStart=/usr/bin/docker start --attach {container}
ExecStopPost=/usr/bin/docker stop {container}
StandardOutput=journal
SyslogIdentifier={name}
TimeoutStartSec={task.timeout}
"""
    timer = f"""\
# Written by Gantry with each release.
[Unit]
Description=Schedule of {task.name} of {app}

[Timer]
OnCalendar={task.schedule}

[Install]
WantedBy=timers.target
"""
    return {f"{name}.service": service, f"{name}.timer": timer}


def check_schedule(schedule: str) -> None:
    """Refuse what systemd does not understand.

    :raises StoreError: with systemd's own words.
    """
    done = _run("systemd-analyze", "calendar", schedule)
    if done.returncode != 0:
        raise StoreError(
            f"schedule {schedule!r}: {done.stderr.strip()}; see `man systemd.time`, section CALENDAR EVENTS"
        )


def wanted(release: Release, live_file: Path) -> dict[str, str]:
    """Return the text of all units of a release's tasks, by file name."""
    units: dict[str, str] = {}
    for task in release.spec.scheduled_tasks:
        units |= render(release.app, live_file, task)
    return units


def in_place(release: Release, live_file: Path, folder: Path = UNITS) -> bool:
    """Whether the host has the timers of *release* and no others of its application."""
    there = {path.name: path.read_text() for path in folder.glob(f"{unit_name(release.app, '*')}.*")}
    return there == wanted(release, live_file)


def apply(release: Release, live_file: Path, folder: Path = UNITS) -> None:
    """Make the host's timers those of *release*.

    :raises StoreError: when systemd refuses a unit.
    """
    units = wanted(release, live_file)
    stale = [path for path in folder.glob(f"{unit_name(release.app, '*')}.*") if path.name not in units]
    for path in stale:
        if path.suffix == ".timer":
            _systemctl("disable", "--now", path.name)
        path.unlink()
    changed = [name for name, text in units.items() if write(folder / name, text)]
    if stale or changed:
        _systemctl("daemon-reload")
    for name in changed:
        if name.endswith(".timer"):
            _systemctl("enable", name)
            _systemctl("restart", name)


def _systemctl(*arguments: str) -> None:
    done = _run("systemctl", *arguments)
    if done.returncode != 0:
        raise StoreError(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([f"/usr/bin/{program}", *arguments], capture_output=True, text=True, check=False)
