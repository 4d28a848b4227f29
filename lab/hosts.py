"""Throwaway hosts: containers with systemd, sshd and their own Docker Engine, each on an address of its own."""

import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import credentials, images, services
from lab.engine import OURS, ROOT, LabError, docker, inspect, label_of, listed, remove, wait_for

NETWORK = "gantry-lab"


@dataclass(frozen=True)
class Host:
    """A throwaway host.

    :ivar address: loopback address on which its ports are published.
    :ivar suite: Debian release.
    """

    address: str
    suite: str


HOSTS = {
    "staging-1": Host("127.0.77.11", "trixie"),
    "production-1": Host("127.0.77.12", "trixie"),
    "molecule-debian13": Host("127.0.77.21", "trixie"),
    "molecule-debian12": Host("127.0.77.22", "bookworm"),
}
PORTS = (22, 80, 443)
DEMO = ("registry", "backup", "staging-1", "production-1")
NAMES = (*services.SERVICES, *HOSTS)


def container(name: str) -> str:
    """Return the name of the container of a host or service."""
    return f"gantry-{name}"


def volume(name: str) -> str:
    """Return the name of the volume that outlives a restart of a host (its engine's) or service (its data)."""
    return f"gantry-{name}-{'docker' if name in HOSTS else 'data'}"


def boot_options(cgroup_version: str, privileged: bool) -> list[str]:
    """Return the options of `docker run` with which systemd and a nested engine work, the fewest rights first.

    :param cgroup_version: `1` or `2`.
    :param privileged: whether the engine can run privileged containers.
    """
    if cgroup_version == "2" and privileged:
        return ["--privileged", "--cgroupns=private"]
    unconfined = ("seccomp", "apparmor", "systempaths")
    return [
        *("--cap-add=ALL", "--cap-drop=SYS_RESOURCE"),
        *(f"--security-opt={profile}=unconfined" for profile in unconfined),
        *("--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw"),
    ]


def up(names: Iterable[str]) -> None:
    """Start hosts and services that do not run yet, and wait until they can be used.

    :param names: see NAMES.
    :raises LabError: when one does not come up, or belongs to another clone that is in use.
    """
    chosen = list(dict.fromkeys(names))
    wanted = {name: HOSTS[name] for name in chosen if name in HOSTS}
    with credentials.locked():
        for name in chosen:
            _take_over(name)
        _make_network()
        public_key = credentials.public_key()
        for name in chosen:
            if name in services.SERVICES:
                services.up(name, container(name), volume(name), NETWORK)
        if wanted:
            suites = {suite: images.host(suite) for suite in {host.suite for host in wanted.values()}}
            options = _detected_options(next(iter(suites.values())))
            with ThreadPoolExecutor() as pool:
                starts = {
                    host.address: pool.submit(_start, name, host, suites[host.suite], options, public_key)
                    for name, host in wanted.items()
                }
            credentials.pin({address: start.result() for address, start in starts.items()})
    with ThreadPoolExecutor() as pool:
        list(pool.map(_wait_for_ssh, wanted.items()))


def down(names: Iterable[str]) -> None:
    """Remove hosts and services with their data, and the network with the last of them."""
    with credentials.locked():
        ours = listed("container", "ls", "--all", "--format", "{{.Names}}")
        gone = [name for name in names if container(name) in ours]
        if gone:
            remove("container", [container(name) for name in gone])
            volumes = listed("volume", "ls", "--format", "{{.Name}}")
            remove("volume", [volume(name) for name in gone if volume(name) in volumes])
            credentials.pin({HOSTS[name].address: None for name in gone if name in HOSTS})
        if not listed("container", "ls", "--all", "--format", "{{.Names}}"):
            remove("network", listed("network", "ls", "--format", "{{.Name}}"))


def status() -> str:
    """Return a table of hosts and services."""
    rows = [("NAME", "ADDRESS", "STATE")]
    for name in NAMES:
        address = HOSTS[name].address if name in HOSTS else services.SERVICES[name].address
        state = inspect("container", container(name), "{{.State.Status}}")
        owner = label_of("container", container(name)) or ""
        rows.append((name, address, f"{state or '-'}{f' ({owner})' if state and owner != str(ROOT) else ''}"))
    return "\n".join(f"{name:<18} {address:<14} {state}" for name, address, state in rows)


def _take_over(name: str) -> None:
    """Remove what another clone left behind under a name that we need.

    :raises LabError: when that clone still uses it.
    """
    box = container(name)
    owner = label_of("container", box)
    if owner not in (None, str(ROOT)):
        running = inspect("container", box, "{{.State.Running}}") == "true"
        if not owner or (running and Path(owner).is_dir()):
            stop = f"run `./gantry lab-down` in {owner}" if owner else f"run `docker rm --force --volumes {box}`"
            raise LabError(f"the container {box} belongs to {owner or 'somebody else'}; {stop}, then try again")
        remove("container", [box])
    if label_of("volume", volume(name)) not in (None, str(ROOT)):
        remove("volume", [volume(name)])


def _make_network() -> None:
    """Make the lab's network, or take over one that is not in use."""
    owner = label_of("network", NETWORK)
    if owner not in (None, str(ROOT)) and inspect("network", NETWORK, "{{len .Containers}}") == "0":
        remove("network", [NETWORK])
        owner = None
    if owner is None:
        docker("network", "create", "--label", OURS, NETWORK)


def _detected_options(image: str) -> list[str]:
    """Find out what this engine allows and return the options for it."""
    version = docker("info", "--format", "{{.CgroupVersion}}")
    try:
        privileged = version == "2" and docker("run", "--rm", "--privileged", image, "true") == ""
    except LabError:
        privileged = False
    return boot_options(version, privileged)


def _start(name: str, host: Host, image: str, options: list[str], public_key: str) -> str:
    """Make or start one host, wait until it has booted, and return its public host key."""
    box = container(name)
    state = inspect("container", box, "{{.State.Status}}")
    if state is None:
        docker("volume", "create", "--label", OURS, volume(name))
        ports = [f"--publish={host.address}:{port}:{port}" for port in PORTS]
        labels = ["--label", OURS, "--hostname", name, "--network", NETWORK, "--stop-signal", "SIGRTMIN+3"]
        mounts = ["--tmpfs", "/run", "--tmpfs", "/tmp:exec"]  # noqa: S108  # inside the host
        mounts += ["--volume", f"{volume(name)}:/var/lib/docker"]
        command = ["run", "--detach", "--name", box, *labels, *ports, *mounts, "--env", "container=docker", *options]
        docker(*command, image, "/lib/systemd/systemd")
    elif state != "running":
        docker("start", box)
    wait_for(f"{name} has booted", lambda: _boot_state(box) not in ("", "offline", "initializing", "starting"))
    if state is None and _boot_state(box) != "running":
        failed = docker("exec", box, "systemctl", "list-units", "--failed", "--no-legend", "--plain")
        raise LabError(f"{name} booted, but not all of it works: {failed}\nlook with `docker exec {box} journalctl -b`")
    keys = "/home/debian/.ssh/authorized_keys"
    place = ["install", "-m", "0600", "-o", "debian", "-g", "debian", "/dev/stdin", keys]
    docker("exec", "--interactive", box, *place, stdin=public_key.encode())
    return docker("exec", box, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")


def _boot_state(box: str) -> str:
    """Return what systemd says of the whole host; nothing while it cannot be asked yet."""
    if inspect("container", box, "{{.State.Running}}") != "true":
        raise LabError(f"{box} stopped while booting; its last words: {docker('logs', '--tail', '5', box)}")
    return docker("exec", box, "sh", "-c", "systemctl is-system-running 2>/dev/null || :")


def _wait_for_ssh(named: tuple[str, Host]) -> None:
    """Wait until a host answers over ssh with the pinned key."""
    name, host = named
    options = ["BatchMode=yes", "ConnectTimeout=5", "StrictHostKeyChecking=yes"]
    options += [f"UserKnownHostsFile={credentials.KNOWN_HOSTS}", "IdentitiesOnly=yes"]
    command = ["ssh", "-i", str(credentials.KEY), "-l", "debian", *(f"-o{option}" for option in options)]
    command += [host.address, "sudo", "-n", "true"]

    def answers() -> bool:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if "verification failed" in done.stderr:
            raise LabError(f"{name} shows another host key than the pinned one: {done.stderr.strip()}")
        return done.returncode == 0

    wait_for(f"{name} answers over ssh", answers)
