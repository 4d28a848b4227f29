"""Run commands that partly need each other, side by side where they do not, with a log and a time for each.

Only the standard library: the demo starts before the virtual environment exists.
"""

import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from lab.engine import ROOT, LabError

LOGS = ROOT / "build" / "logs"
BIN = ROOT / ".venv" / "bin"
REPORT_EVERY = 20  # seconds between two reports about steps that take long
TAIL = 60  # lines of a failed step's log that are shown


@dataclass(frozen=True)
class Step:
    """A command with its place in the order.

    :ivar command: words of the command, run in the project's root with the virtual environment's programs on PATH.
    :ivar needs: names of the steps that have to be done before.
    """

    command: tuple[str, ...]
    needs: tuple[str, ...] = ()


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    since: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since


def ready(plan: Mapping[str, Step], started: set[str], done: set[str]) -> list[str]:
    """Return the steps that can start now.

    >>> ready({"a": Step(("x",)), "b": Step(("y",), ("a",))}, {"a"}, {"a"})
    ['b']
    """
    return [name for name, step in plan.items() if name not in started and done.issuperset(step.needs)]


def summaries(log: str) -> list[str]:
    """Return the closing lines of the pytest runs in a log.

    >>> summaries("x\\n===== 2 passed in 0.1s =====\\n")
    ['===== 2 passed in 0.1s =====']
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    return re.findall(r"^=+ .*\b(?:passed|failed|errors?|skipped|no tests ran)\b.* in .*=+$", plain, re.MULTILINE)


def run(plan: Mapping[str, Step], at_once: int = 8) -> dict[str, float]:
    """Run all steps, each as soon as what it needs is done; return the seconds that each took.

    :param at_once: how many steps may run at the same time.
    :raises LabError: when one fails, with the end of its log. Those that need it are not started, the others end first.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    running: dict[str, _Running] = {}
    took: dict[str, float] = {}
    failures: list[str] = []
    reported = time.monotonic()
    with ExitStack() as stack:
        stack.callback(_stop, running)
        while True:
            for name in ready(plan, running.keys() | took.keys(), took.keys() - set(failures)):
                if len(running) < at_once:
                    print(f"  start    {name}", flush=True)
                    running[name] = _start(name, plan[name])
            if not running:
                break
            for name, step in list(running.items()):
                code = step.process.poll()
                if code is not None:
                    took[name] = step.seconds
                    del running[name]
                    print(f"  {'FAILED ' if code else 'done   '}  {name} ({took[name]:.0f} s)", flush=True)
                    for line in summaries(_log(name).read_text(errors="replace")):
                        print(f"           {line}", flush=True)
                    if code:
                        failures.append(name)
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                for name, step in running.items():
                    print(f"  running  {name} ({step.seconds:.0f} s): {_last_line(name)}", flush=True)
            time.sleep(0.1)
    if failures:
        raise LabError("\n".join(_end_of(name) for name in failures) + f"\nfailed: {', '.join(failures)}")
    return took


def table(took: Mapping[str, float], total: float) -> str:
    """Return a table of the seconds that steps took, the longest first.

    :param total: seconds for all of them together.
    """
    rows = sorted(took.items(), key=lambda item: item[1], reverse=True)
    return "\n".join(["seconds  step", *(f"{seconds:7.0f}  {name}" for name, seconds in rows), f"{total:7.0f}  all"])


def _log(name: str) -> Path:
    return LOGS / f"{name}.log"


def _start(name: str, step: Step) -> _Running:
    settings = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    with _log(name).open("wb") as log:
        # A group of its own, so that stopping it also stops what it started.
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )
    return _Running(process)


def _stop(running: Mapping[str, _Running]) -> None:
    for step in running.values():
        os.killpg(step.process.pid, signal.SIGTERM)
    for step in running.values():
        step.process.wait()


def _end_of(name: str) -> str:
    with _log(name).open(errors="replace") as log:
        tail = "".join(deque(log, TAIL))
    return f"\n--- {name}: the end of {_log(name).relative_to(ROOT)}\n{tail}"


def _last_line(name: str) -> str:
    with _log(name).open(errors="replace") as log:
        lines = [line.strip() for line in deque(log, 5) if line.strip()]
    return lines[-1][:90] if lines else ""
