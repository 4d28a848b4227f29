"""From nothing to the application on staging and production, steps that do not need each other side by side.

Only the standard library, because making the virtual environment is one of the steps.
"""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from lab import images
from lab.engine import ROOT, LabError

LOGS = ROOT / "build" / "logs"
ENVIRONMENTS = ("staging", "production")
BIN = ROOT / ".venv" / "bin"
REPORT_EVERY = 20  # seconds between two lines about steps that take long
IMAGES: dict[str, Callable[[], object]] = {
    "base": lambda: (images.base("trixie"), images.base("trixie", "python")),
    "host": lambda: images.host("trixie"),
    "registry": images.registry,
    "backup": images.backup,
    "app": lambda: list(images.app()),
}


@dataclass(frozen=True)
class Step:
    """One command of the demo.

    :ivar command: words of the command, run in the project's root.
    :ivar needs: names of the steps that have to be done before.
    """

    command: tuple[str, ...]
    needs: tuple[str, ...] = ()


@dataclass
class Running:
    """A step under way: its process and the time it started, in seconds of the monotonic clock."""

    process: subprocess.Popen[bytes]
    since: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.since


def steps() -> dict[str, Step]:
    """Return the steps of the demo by name."""
    here = (sys.executable, "-m", "lab", "image")
    lab = (str(BIN / "python"), "-m", "lab")
    plan = {
        "base-image": Step((*here, "base")),
        "venv": Step((str(ROOT / "gantry"), "venv")),
        "app-images": Step((*here, "app"), ("base-image",)),
        "host-image": Step((*here, "host"), ("base-image",)),
        "registry-image": Step((*here, "registry"), ("base-image",)),
        "backup-image": Step((*here, "backup"), ("base-image",)),
        "secrets": Step((str(BIN / "python"), "-m", "lab.secrets"), ("venv",)),
        "lab": Step((*lab, "up", "--demo"), ("host-image", "registry-image", "backup-image", "secrets")),
        "push": Step((*lab, "push"), ("app-images", "lab")),
    }
    for environment in ENVIRONMENTS:
        deploy = (str(BIN / "ansible-playbook"), "deploy.yml", "-i", f"inventories/{environment}")
        plan[f"deploy-{environment}"] = Step(deploy, ("push",))
    return plan


def ready(plan: Mapping[str, Step], started: set[str], done: set[str]) -> list[str]:
    """Return the steps that can start now.

    >>> ready({"a": Step(("x",)), "b": Step(("y",), ("a",))}, {"a"}, {"a"})
    ['b']
    """
    return [name for name, step in plan.items() if name not in started and done.issuperset(step.needs)]


def run() -> int:
    """Run all steps, then say what was made and what to try; return the exit code."""
    begin = time.monotonic()
    LOGS.mkdir(parents=True, exist_ok=True)
    try:
        took = _run_steps(steps())
    except LabError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print("\nseconds  step")
    for name, seconds in sorted(took.items(), key=lambda item: item[1], reverse=True):
        print(f"{seconds:7.0f}  {name}")
    print(f"{time.monotonic() - begin:7.0f}  all, side by side\n")
    for environment in ENVIRONMENTS:
        for address in addresses(environment):
            print(f"{environment:<11} {address}\n{'':<11} {answer(address, environment)}")
    print(
        "\nTry next (the first line once per terminal):\n"
        "  . .venv/bin/activate\n"
        f"  ansible-playbook deploy.yml -i inventories/staging -e app_version={images.VERSIONS[-1]}\n"
        "  ansible-playbook rollback.yml -i inventories/staging\n"
        "  ansible-playbook playbooks/status.yml -i inventories/staging"
    )
    return 0


def addresses(environment: str) -> Iterator[str]:
    """Yield the addresses of the application on the hosts of an environment, as its inventory has them."""
    command = [str(BIN / "ansible-inventory"), "-i", f"inventories/{environment}", "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise LabError(f"ansible-inventory failed: {done.stderr.decode(errors='replace').strip()}")
    inventory = json.loads(done.stdout)
    for host in inventory["app_hosts"]["hosts"]:
        variables = inventory["_meta"]["hostvars"][host]
        yield f"https://{variables.get('ansible_host', host)}{variables['app_url_prefix']}/"


def answer(address: str, environment: str) -> str:
    """Return what an address answers over TLS, verified by the environment's authority, in one line."""
    trust = ssl.create_default_context(cafile=str(ROOT / ".vault" / f"{environment}-ca.crt"))
    try:
        response = urllib.request.urlopen(address, timeout=10, context=trust)  # noqa: S310  # always https
    except urllib.error.HTTPError as error:
        response = error
    except OSError as error:
        return f"no answer: {error}"
    with response:
        headers = response.headers
        names = [f"{name}: {headers[name]}" for name in ("X-App-Version", "X-App-Environment") if name in headers]
        return ", ".join([f"{response.status} {response.reason}", *names])


def _run_steps(plan: Mapping[str, Step]) -> dict[str, float]:
    """Run steps as soon as what they need is done and return the seconds that each took.

    :raises LabError: when one fails; the others are stopped.
    """
    running: dict[str, Running] = {}
    took: dict[str, float] = {}
    reported = time.monotonic()
    with ExitStack() as stack:
        stack.callback(_stop, running)
        while len(took) < len(plan):
            for name in ready(plan, running.keys() | took.keys(), set(took)):
                running[name] = _start(name, plan[name])
            for name, step in list(running.items()):
                if step.process.poll() is not None:
                    del running[name]
                    took[name] = step.seconds
                    if step.process.returncode:
                        raise LabError(_failure(name, step))
                    print(f"  done     {name} ({step.seconds:.0f} s)", flush=True)
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                for name, step in running.items():
                    print(f"  running  {name} ({step.seconds:.0f} s): {_last_line(name)}", flush=True)
            time.sleep(0.1)
    return took


def _start(name: str, step: Step) -> Running:
    print(f"  start    {name}", flush=True)
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    with (LOGS / f"{name}.log").open("wb") as log:
        # A group of its own, so that stopping it also stops what it started.
        process = subprocess.Popen(
            step.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )
    return Running(process)


def _stop(running: Mapping[str, Running]) -> None:
    for step in running.values():
        os.killpg(step.process.pid, signal.SIGTERM)
    for step in running.values():
        step.process.wait()


def _failure(name: str, step: Running) -> str:
    path: Path = LOGS / f"{name}.log"
    with path.open(errors="replace") as log:
        tail = "".join(deque(log, 25))
    where = path.relative_to(ROOT)
    return f"{name} failed after {step.seconds:.0f} s (exit code {step.process.returncode}). End of {where}:\n\n{tail}"


def _last_line(name: str) -> str:
    with (LOGS / f"{name}.log").open(errors="replace") as log:
        lines = [line.strip() for line in deque(log, 5) if line.strip()]
    return lines[-1][:90] if lines else ""
