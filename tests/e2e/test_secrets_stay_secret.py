"""Look for every secret where it must not be, while a deploy runs and afterwards."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from conftest import PROJECT, run

from lab import secrets

# Where secrets live on a host, by design, readable by root alone (docs/secrets.md).
ALLOWED = (
    "/root/.docker/config.json",
    "/etc/gantry/backup/",
    "/etc/haproxy/gantry/certs/",
    "/var/lib/gantry/dblood-staging/releases/",
    "/run/gantry/dblood-staging/",
)
STOP = "/run/stop-watching"
WATCH = """
import os, sys, time
end = time.monotonic() + float(sys.argv[1])
needles = [line for line in sys.stdin.read().splitlines() if line]
found, looked = set(), 0
me = {os.getpid(), os.getppid()}
while time.monotonic() < end and not os.path.exists(sys.argv[2]):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) in me:
            continue
        for name in ("cmdline", "environ"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    text = file.read().decode(errors="replace")
            except OSError:
                continue
            looked += 1
            for number, needle in enumerate(needles):
                if needle in text:
                    found.add(f"{name} {number}: {text[:60]!r}")
    time.sleep(0.02)
print(looked)
print(*sorted(found), sep="\\n", end="")
"""


def needles(environment: str) -> dict[str, str]:
    """Return the secrets of an environment as one would find them: single lines, long enough to mean something."""
    found = {}
    for name, value in secrets.read(environment).items():
        if name == "vault_ca_certificate":
            continue
        lines = [line for line in value.splitlines() if len(line) > 20 and not line.startswith("-----")]
        found[name] = lines[0]
    assert len(found) >= 5
    return found


def watch_host(staging, values: dict[str, str], result: dict) -> None:
    """Read every process of the host again and again while a deploy runs."""
    container = f"gantry-{staging.host}"
    run("docker", "exec", container, "rm", "-f", STOP)
    command = ["docker", "exec", "-i", container, "python3", "-c", WATCH, "300", STOP]
    result["host"] = run(*command, input="\n".join(values.values())).stdout


def watch_controller(values: dict[str, str], stop: threading.Event, found: set, looked: list) -> None:
    """Do the same on the controller, where Ansible and its workers run."""
    while not stop.is_set():
        for folder in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                try:
                    text = (folder / name).read_bytes().decode(errors="replace")
                except OSError:
                    continue
                looked.append(1)
                found.update(
                    f"{secret} in {name} of {text[:60]!r}" for secret, value in values.items() if value in text
                )
        stop.wait(0.02)


def test_no_secret_shows_anywhere_during_a_deploy(staging):
    values = needles("staging")
    result: dict[str, str] = {}
    stop, found, looked = threading.Event(), set(), []
    watchers = [
        threading.Thread(target=watch_host, args=(staging, values, result)),
        threading.Thread(target=watch_controller, args=(values, stop, found, looked)),
    ]
    for watcher in watchers:
        watcher.start()
    try:
        done = staging.play("deploy.yml", "-e", "app_version=1.1.0", "--diff", "-vvv")
    finally:
        stop.set()
        staging.on_host("touch", STOP)
        for watcher in watchers:
            watcher.join(310)
    assert done.code == 0
    assert staging.get().version == "1.1.0"
    assert [name for name, value in values.items() if value in done.output] == []
    assert looked
    assert found == set()
    count, *leaks = result["host"].splitlines()
    assert int(count) > 100, "the watcher on the host watched"
    assert leaks == []


def test_no_secret_in_what_the_engine_tells_or_the_journal_keeps(staging):
    values = needles("staging")
    engine = staging.on_host("sh", "-c", "docker inspect $(docker ps -aq); docker image inspect $(docker image ls -q)")
    assert json.dumps("dblood-staging")[1:-1] in engine
    journal = staging.on_host("journalctl", "--no-pager", "-o", "cat")
    assert "haproxy" in journal.lower()
    for name, value in values.items():
        assert value not in engine, f"{name} shows in docker inspect"
        assert value not in journal, f"{name} is in the journal"


def test_secrets_lie_only_where_the_docs_say_and_only_root_reads_them(staging):
    values = needles("staging")
    search = ["grep", "-rlFs", *(f"-e{value}" for value in values.values())]
    # The values are on grep's command line here, on a throwaway host, after the deploy.
    listed = staging.on_host(
        "sh", "-c", f"{' '.join(map(repr, search))} /etc /root /home /var /opt /usr/local /run /tmp || true"
    )
    places = [line for line in listed.splitlines() if not line.startswith("/var/lib/docker/overlay2")]
    assert places, "the search finds the places where secrets are by design"
    assert [place for place in places if not place.startswith(ALLOWED)] == []
    modes = staging.on_host("stat", "-c", "%a %U %n", *places).splitlines()
    assert [line for line in modes if line.split()[0] not in ("600", "400")] == []


def test_no_secret_is_in_the_repository_or_the_logs_of_the_controller(staging):
    tracked = run("git", "ls-files", "-z").stdout.split("\0")
    files = [PROJECT / name for name in tracked if name] + list((PROJECT / "build").rglob("*.log"))
    for name, value in (needles("staging") | needles("production")).items():
        holders = [str(file) for file in files if file.is_file() and value.encode() in file.read_bytes()]
        assert holders == [], name
