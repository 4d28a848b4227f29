"""How long the main jobs take, beside the shortest script that does the same; medians, side by side in one run.

``./gantry bench`` runs every part, ``ONLY=deploy,rollback`` some of them, ``RUNS=3`` fewer times each. It uses
staging's host of the lab and leaves it on the version that its variables name. The table is printed, and
``build/bench.json`` gets flat keys.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lab import images
from lab.engine import ROOT, docker

BIN = Path(sys.executable).parent
RESULTS = ROOT / "build" / "bench.json"
ENVIRONMENT = "staging"
APP = f"dblood-{ENVIRONMENT}"
FLOOR_PORTS = (8090, 8091)
RELEASE_ONLY = ("--tags", "deploy")


class BenchError(Exception):
    """A command that was to be measured failed; the message has its output."""


@dataclass
class Bench:
    """One run of the benchmark: what it measures, and the figures so far.

    :ivar runs: how often each part is measured.
    :ivar figures: by flat key, in seconds unless the key says otherwise.
    """

    runs: int
    figures: dict[str, float | str] = field(default_factory=dict)
    count: int = 0
    floor_container: str = "-"

    def host(self) -> dict[str, str]:
        """Return the variables of staging's host."""
        inventory = json.loads(command(BIN / "ansible-inventory", "-i", f"inventories/{ENVIRONMENT}", "--list"))
        name = inventory["app_hosts"]["hosts"][0]
        return {"name": name, **inventory["_meta"]["hostvars"][name]}

    def fresh_version(self) -> str:
        """Build and push a version that no host has: one new layer, as after a change of code; return its name."""
        self.count += 1
        version = f"bench-{int(time.time())}-{self.count}"
        tag = f"{images.APP_REPOSITORY}:{version}-{ENVIRONMENT}"
        with (ROOT / "build/logs/bench.log").open("a") as log, redirected(log):
            images.build(
                tag,
                ROOT / "app/dev.Dockerfile",
                ROOT / "app",
                BASE_IMAGE=images.base("trixie", "python"),
                VERSION=version,
            )
            docker("--config", str(ROOT / ".lab/docker"), "push", "--quiet", tag)
        docker("image", "rm", tag)
        return version

    def measure(self, key: str, once: Callable[[], float]) -> None:
        """Call *once*, which returns seconds, as often as wanted, and keep the median."""
        seconds = []
        for number in range(1, self.runs + 1):
            seconds.append(once())
            print(f"  {key} {number}/{self.runs}: {seconds[-1]:.2f} s", flush=True)
        self.figures[f"{key}.seconds"] = round(statistics.median(seconds), 3)
        self.figures[f"{key}.fastest_seconds"] = round(min(seconds), 3)

    def ratio(self, key: str, part: str, whole: str) -> None:
        """Keep how many times as long *part* takes as *whole*, when both were measured."""
        if f"{part}.seconds" in self.figures and f"{whole}.seconds" in self.figures:
            self.figures[key] = round(
                float(self.figures[f"{part}.seconds"]) / float(self.figures[f"{whole}.seconds"]), 2
            )


class redirected:  # reads as a statement
    """Send this process's output, and that of what it starts, into a file for a while."""

    def __init__(self, file) -> None:
        """Take the open file."""
        self.file = file

    def __enter__(self) -> None:
        """Begin."""
        sys.stdout.flush()
        self.saved = os.dup(1)
        self.saved_errors = os.dup(2)
        os.dup2(self.file.fileno(), 1)
        os.dup2(self.file.fileno(), 2)

    def __exit__(self, *error: object) -> None:
        """End."""
        sys.stdout.flush()
        os.dup2(self.saved, 1)
        os.dup2(self.saved_errors, 2)
        os.close(self.saved)
        os.close(self.saved_errors)


def command(*arguments: str | Path, stdin: str | None = None) -> str:
    """Run a command in the project's root and return its standard output.

    :raises BenchError: when it fails.
    """
    done = subprocess.run(
        [str(argument) for argument in arguments], cwd=ROOT, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BenchError(f"{' '.join(map(str, arguments[:4]))} … failed:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
    return done.stdout


def timed(*arguments: str | Path, stdin: str | None = None) -> float:
    """Run a command and return its wall time in seconds."""
    begin = time.monotonic()
    command(*arguments, stdin=stdin)
    return time.monotonic() - begin


def play(playbook: str, *arguments: str) -> float:
    """Run a playbook on staging and return its wall time in seconds."""
    return timed(BIN / "ansible-playbook", playbook, "-i", f"inventories/{ENVIRONMENT}", *arguments)


def ssh(bench: Bench) -> list[str]:
    """Return the command that opens one new ssh connection to staging's host."""
    host = bench.host()
    options = [
        "-o",
        "ControlPath=none",
        "-o",
        f"UserKnownHostsFile={ROOT}/.lab/known_hosts",
        "-i",
        f"{ROOT}/.lab/id_ed25519",
    ]
    return ["ssh", *options, f"{host['ansible_user']}@{host['ansible_host']}"]


def bench_ssh(bench: Bench) -> None:
    """`ssh host true` on a new connection: under this nothing remote can go."""
    bench.measure("ssh", lambda: timed(*ssh(bench), "true"))


def bench_floor(bench: Bench) -> None:
    """Pull, start, health check, switch and stop of a new version, as one shell script over one connection."""
    connection = ssh(bench)
    domain = bench.host()["app_domain"]
    script = (ROOT / "bench/floor.sh").read_text()

    def once() -> float:
        version = bench.fresh_version()
        name = f"floor-{bench.count}"
        port = FLOOR_PORTS[bench.count % 2]
        arguments = [f"{version}-{ENVIRONMENT}", name, str(port), bench.floor_container, APP, domain]
        seconds = timed(*connection, "sudo", "bash", "-s", "--", *arguments, stdin=script)
        bench.floor_container = name
        return seconds

    try:
        bench.measure("floor", once)
    finally:
        leftovers = "sudo docker ps --all --quiet --filter label=gantry.bench=floor"
        command(*connection, f"{leftovers} | xargs --no-run-if-empty sudo docker rm --force")


def bench_nochange(bench: Bench) -> None:
    """`deploy.yml` when there is nothing to do."""
    bench.measure("nochange", lambda: play("deploy.yml"))


def bench_deploy(bench: Bench) -> None:
    """`deploy.yml` of a version that the host does not have."""

    def once() -> float:
        version = bench.fresh_version()
        return play("deploy.yml", "-e", f"app_version={version}")

    bench.measure("deploy", once)


def bench_release(bench: Bench) -> None:
    """`deploy.yml --tags deploy` of a version that the host does not have."""

    def once() -> float:
        version = bench.fresh_version()
        return play("deploy.yml", *RELEASE_ONLY, "-e", f"app_version={version}")

    bench.measure("release", once)


def bench_rollback(bench: Bench) -> None:
    """`rollback.yml` to the release before; each is made just before, and not counted."""

    def once() -> float:
        play("deploy.yml", *RELEASE_ONLY, "-e", f"app_version={bench.fresh_version()}")
        return play("rollback.yml")

    bench.measure("rollback", once)


PARTS = {
    "ssh": bench_ssh,
    "nochange": bench_nochange,
    "floor": bench_floor,
    "deploy": bench_deploy,
    "release": bench_release,
    "rollback": bench_rollback,
}


def main() -> int:
    """Run the benchmark; return the exit code."""
    settings = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    only = settings.get("ONLY", ",".join(PARTS)).split(",")
    unknown = set(only) - set(PARTS)
    if unknown or set(settings) - {"ONLY", "RUNS"}:
        print(f"usage: ./gantry bench [ONLY={','.join(PARTS)}] [RUNS=5]", file=sys.stderr)
        return 2
    bench = Bench(runs=int(settings.get("RUNS", "5")))
    (RESULTS.parent / "logs").mkdir(parents=True, exist_ok=True)
    try:
        play("deploy.yml", *RELEASE_ONLY)
        for name in only:
            print(f"{name}: {(PARTS[name].__doc__ or '').strip()}", flush=True)
            PARTS[name](bench)
        play("deploy.yml", *RELEASE_ONLY)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    bench.ratio("deploy.ratio_to_floor", "deploy", "floor")
    bench.ratio("release.ratio_to_floor", "release", "floor")
    bench.ratio("rollback.ratio_to_floor", "rollback", "floor")
    bench.ratio("nochange.ratio_to_floor", "nochange", "floor")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    bench.figures["controller.peak_mb"] = round(usage.ru_maxrss / 1024)
    bench.figures["machine"] = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}"
    RESULTS.write_text(json.dumps(bench.figures, indent=2, sort_keys=True) + "\n")
    print(f"\n{'figure':32} value")
    for key, value in bench.figures.items():
        print(f"{key:32} {value}")
    print(f"\nalso in {RESULTS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
