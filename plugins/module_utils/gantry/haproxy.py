# Copyright: the Gantry authors
"""The routes of the reverse proxy: names, the map file on disk, and HAProxy's Runtime API.

A route is a host name and a path prefix. The map file says which backend serves it: one of the route's two slots, or
the maintenance page. The file is what HAProxy reads at its next start or reload; the running process is told through
its socket. :func:`switch` and :func:`ensure` keep both in step.

Only the standard library is used, so that modules can import this on any host.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

ROUTES_MAP = "/etc/haproxy/gantry/routes.map"
RUNTIME_SOCKET = "/run/haproxy/admin.sock"
MAINTENANCE = "maintenance"
SERVER = "app"
MAP_HEADER = "Which backend serves a route: NAME.0, NAME.1 (its two slots) or maintenance. Written by Gantry."

# How a route is given to a module.
ROUTE_OPTIONS = {
    "name": {"type": "str", "required": True},
    "domains": {"type": "list", "elements": "str", "required": True},
    "prefix": {"type": "str", "required": True},
    "ports": {"type": "list", "elements": "int", "required": True},
}

# HAProxy takes a command and its payload only if both fit its buffer of 16 KiB; half of it leaves room for the command.
_PAYLOAD_BYTES = 8 * 1024
_UNKNOWN_MAP = "Unknown map identifier"


class HaproxyError(Exception):
    """HAProxy could not be told, or refused; the message names the socket or file, the cause and the next step."""


class HaproxyNotRunning(HaproxyError):
    """Nothing answers on the socket: HAProxy is stopped."""


class MapNotLoaded(HaproxyError):
    """HAProxy runs, but its configuration does not use the map."""


def route_key(domain: str, prefix: str) -> str:
    """Return the map key of a route: ``host/prefix/``.

    :param domain: host name or address, without port.
    :param prefix: path prefix; empty for the whole host.

    >>> route_key("Staging.example.org", "/staging/api")
    'staging.example.org/staging/api/'
    >>> route_key("example.org", "")
    'example.org/'
    """
    path = prefix.strip("/")
    return f"{domain.lower().rstrip('.')}/{path}/" if path else f"{domain.lower().rstrip('.')}/"


def backend_name(route: str, slot: int) -> str:
    """Return the name of the backend of slot 0 or 1 of *route*.

    :raises ValueError: when *slot* is neither 0 nor 1.

    >>> backend_name("dblood-staging", 1)
    'dblood-staging.1'
    """
    if slot not in (0, 1):
        raise ValueError(f"slot {slot} of route {route}: a route has the slots 0 and 1")
    return f"{route}.{slot}"


def slot_of(backend: str) -> int | None:
    """Return the slot that a map value names, or None for the maintenance page.

    >>> slot_of("dblood-staging.1"), slot_of("maintenance")
    (1, None)
    """
    match = re.fullmatch(r".+\.([01])", backend)
    return int(match[1]) if match else None


def route_problems(routes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with routes, a phrase each; empty when they can be configured.

    :param routes: dictionaries with ``name``, ``domains``, ``prefix`` and ``ports``.

    >>> route_problems([{"name": "shop", "domains": ["shop.example.org"], "prefix": "/api/", "ports": [8000, 8000]}])
    ["route shop: prefix '/api/' must start and not end with a slash", 'route shop: two different ports are needed']
    """
    problems = []
    owners: dict[str, str] = {}
    used_ports: dict[int, str] = {}
    names: set[str] = set()
    for route in routes:
        name = route["name"]
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name) or name in (MAINTENANCE, "unknown"):
            problems.append(f"route {name}: a name has lowercase letters, digits and inner hyphens, not reserved")
        if name in names:
            problems.append(f"route {name}: the name is there twice")
        names.add(name)
        prefix = route["prefix"]
        if prefix and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", prefix):
            problems.append(f"route {name}: prefix '{prefix}' must start and not end with a slash")
        if not route["domains"]:
            problems.append(f"route {name}: a domain is needed")
        for domain in route["domains"]:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]", domain):
                problems.append(f"route {name}: '{domain}' is not a host name or address (IPv6 in brackets, no port)")
            key = route_key(domain, prefix)
            if key in owners:
                problems.append(f"route {name}: {key} belongs to route {owners[key]} already")
            owners[key] = name
        if len(route["ports"]) != 2 or len(set(route["ports"])) != 2:
            problems.append(f"route {name}: two different ports are needed")
        for port in route["ports"]:
            if used_ports.setdefault(port, name) != name:
                problems.append(f"route {name}: port {port} belongs to route {used_ports[port]} already")
    return problems


def taken_keys(routes: Iterable[Mapping[str, Any]], entries: Mapping[str, str]) -> dict[str, str]:
    """Return the map's entries that have a key of *routes* and the backend of another route."""
    taken = {}
    for route in routes:
        for domain in route["domains"]:
            key = route_key(domain, route["prefix"])
            backend = entries.get(key, MAINTENANCE)
            if slot_of(backend) is not None and backend.rpartition(".")[0] != route["name"]:
                taken[key] = backend
    return taken


def with_routes(
    entries: Mapping[str, str], routes: Iterable[Mapping[str, Any]], default: str = MAINTENANCE
) -> dict[str, str]:
    """Return the map's entries with every key of *routes*, whatever serves them now left as it is.

    A domain that is new to a route gets what serves its other domains, and one that the route gave up goes.

    >>> route = {"name": "shop", "domains": ["a.test", "b.test"], "prefix": ""}
    >>> with_routes({"a.test/": "shop.1", "old.test/": "shop.1", "c.test/": "other.0"}, [route])
    {'a.test/': 'shop.1', 'c.test/': 'other.0', 'b.test/': 'shop.1'}
    """
    after = dict(entries)
    for route in routes:
        keys = [route_key(domain, route["prefix"]) for domain in route["domains"]]
        own = {key: backend for key, backend in after.items() if backend in _backends(route)}
        serving = set(own.values())
        for key in own.keys() - set(keys):
            del after[key]
        for key in keys:
            after.setdefault(key, serving.copy().pop() if len(serving) == 1 else default)
    return after


def without_routes(entries: Mapping[str, str], routes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the map's entries without the keys of *routes*, and without any key that their backends serve.

    >>> route = {"name": "shop", "domains": ["a.test"], "prefix": ""}
    >>> without_routes({"a.test/": "maintenance", "old.test/": "shop.1", "c.test/": "other.0"}, [route])
    {'c.test/': 'other.0'}
    """
    routes = list(routes)
    keys = {route_key(domain, route["prefix"]) for route in routes for domain in route["domains"]}
    backends = {backend for route in routes for backend in _backends(route)}
    return {key: backend for key, backend in entries.items() if key not in keys and backend not in backends}


def _backends(route: Mapping[str, Any]) -> set[str]:
    return {backend_name(route["name"], slot) for slot in (0, 1)}


def parse_map(text: str) -> dict[str, str]:
    """Return the entries of a map file, in its order.

    :raises HaproxyError: when a line is not ``KEY BACKEND``.
    """
    entries: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) != 2:
            raise HaproxyError(f"map file, line {number}: 'KEY BACKEND' expected, found '{line}'; correct or remove it")
        entries[fields[0]] = fields[1]
    return entries


def read_map(path: str) -> dict[str, str]:
    """Return the entries of the map file at *path*; none when there is no file.

    :raises HaproxyError: when it cannot be read, or a line is not ``KEY BACKEND``.
    """
    return parse_map(_read(path) or "")


def render_map(entries: Mapping[str, str], header: str = MAP_HEADER) -> str:
    """Return the text of a map file, one comment line first.

    :raises HaproxyError: when a key or value is empty, holds white space, or would read as a comment.
    """
    for word in (*entries.keys(), *entries.values()):
        if not re.fullmatch(r"[^\s#]\S*", word):
            raise HaproxyError(f"map entry '{word}': keys and backends are single words; correct the route's names")
    return f"# {header}\n" + "".join(f"{key} {value}\n" for key, value in entries.items())


def parse_stat(text: str) -> list[dict[str, str]]:
    """Return the rows of ``show stat``: a dictionary a proxy or server, by column name."""
    lines = [line for line in text.removeprefix("# ").splitlines() if line]
    return [{name: value for name, value in row.items() if name} for row in csv.DictReader(lines)]


class Runtime:
    """HAProxy's Runtime API over its Unix socket.

    :param path: the socket, of level ``admin``.
    :param timeout: seconds that a single command may take.
    """

    def __init__(self, path: str = RUNTIME_SOCKET, timeout: float = 5.0) -> None:
        self.path = path
        self.timeout = timeout

    def command(self, command: str) -> str:
        """Send one command and return its whole reply, stripped.

        :raises HaproxyNotRunning: when nothing listens on the socket.
        :raises HaproxyError: when the socket cannot be used, or no full reply arrives in time.
        """
        deadline = time.monotonic() + self.timeout
        reply = bytearray()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self.timeout)
                connection.connect(self.path)
                connection.sendall(command.encode() + b"\n")
                while chunk := connection.recv(65536):
                    reply += chunk
                    connection.settimeout(max(deadline - time.monotonic(), 0.001))
        except TimeoutError as error:
            raise HaproxyError(
                f"{self.path}: no reply to '{_first_line(command)}' within {self.timeout:g} s; "
                "see `journalctl -u haproxy`, then run again"
            ) from error
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                raise HaproxyNotRunning(
                    f"{self.path}: HAProxy is not running ({error.strerror}); "
                    "see `systemctl status haproxy`, start it, then run again"
                ) from error
            raise HaproxyError(
                f"{self.path}: cannot send '{_first_line(command)}' ({error.strerror or error}); "
                "check that this runs as root and that the socket has `level admin`"
            ) from error
        return reply.decode(errors="replace").strip()

    def pid(self) -> int:
        """Return the process id of the worker that answers; a reload changes it.

        :raises HaproxyError: when HAProxy cannot be asked.
        """
        match = re.search(r"^Pid: (\d+)$", self.command("show info"), re.MULTILINE)
        if not match:
            raise HaproxyError(f"{self.path}: `show info` names no process id; is this HAProxy's socket?")
        return int(match[1])

    def map_entries(self, map_file: str) -> dict[str, str]:
        """Return the entries of a map as the running process uses them.

        :raises MapNotLoaded: when the running configuration does not use *map_file*.
        :raises HaproxyError: when HAProxy cannot be asked.
        """
        reply = self.command(f"show map {map_file}")
        self._check_loaded(map_file, reply)
        entries = {}
        for line in reply.splitlines():
            fields = line.split()
            if len(fields) != 3 or not fields[0].startswith("0x"):
                raise HaproxyError(f"{self.path}: `show map {map_file}` answered '{line}'; it needs `level admin`")
            entries[fields[1]] = fields[2]
        return entries

    def set_map_entries(self, map_file: str, changes: Mapping[str, str]) -> None:
        """Set keys of a map in the running process, all in one step; absent keys are added.

        :raises HaproxyError: as :meth:`replace_map`.
        """
        self.replace_map(map_file, self.map_entries(map_file) | dict(changes))

    def replace_map(self, map_file: str, entries: Mapping[str, str]) -> None:
        """Make the running process use exactly *entries*.

        The entries are prepared as a new version of the map beside the one in use; committing it is a single step, so
        no request sees one key moved and another not. A series of ``set map`` would let requests in between.

        :raises MapNotLoaded: when the running configuration does not use *map_file*.
        :raises HaproxyError: when HAProxy refuses; the entries in use are then unchanged.
        """
        reply = self.command(f"prepare map {map_file}")
        self._check_loaded(map_file, reply)
        match = re.fullmatch(r"New version created: (\d+)", reply)
        if not match:
            raise HaproxyError(f"{self.path}: `prepare map {map_file}` answered '{reply}'; it needs `level admin`")
        version = match[1]
        try:
            for payload in _payloads(entries):
                self._expect_nothing(f"add map @{version} {map_file} <<\n{payload}")
            self._expect_nothing(f"commit map @{version} {map_file}")
        except HaproxyError:
            with contextlib.suppress(HaproxyError):
                self.command(f"clear map @{version} {map_file}")
            raise
        if (running := self.map_entries(map_file)) != dict(entries):
            raise HaproxyError(
                f"{self.path}: the running map {map_file} is {running} where {dict(entries)} was set; "
                "something else changes it, or HAProxy was reloaded meanwhile: run again"
            )

    def in_flight(self, backend: str, server: str = SERVER) -> int:
        """Return how many requests *server* of *backend* is working on, those waiting for it included.

        :raises HaproxyError: when there is no such server, or HAProxy cannot be asked.
        """
        for row in parse_stat(self.command("show stat")):
            if row.get("pxname") == backend and row.get("svname") == server:
                return int(row["scur"] or 0) + int(row["qcur"] or 0)
        raise HaproxyError(f"{self.path}: no server {backend}/{server}; provision the host, so that it is configured")

    def _expect_nothing(self, command: str) -> None:
        """Send a command that answers nothing when it succeeds."""
        if reply := self.command(command):
            raise HaproxyError(f"{self.path}: `{_first_line(command)}` was refused: {reply}")

    def _check_loaded(self, map_file: str, reply: str) -> None:
        if reply.startswith(_UNKNOWN_MAP):
            raise MapNotLoaded(
                f"{self.path}: the running HAProxy does not use {map_file}; "
                "provision the host, so that its configuration is loaded, then run again"
            )


def switch(map_file: str, runtime_socket: str, changes: Mapping[str, str], timeout: float = 5.0) -> dict[str, str]:
    """Point routes at other backends, in the file and in the running process, all in one step.

    :param map_file: the map on disk; its folder holds the lock.
    :param runtime_socket: HAProxy's socket.
    :param changes: backend by key.
    :param timeout: seconds for a single command, and for the lock.
    :returns: the entries of the file before.
    :raises HaproxyError: when the running process could not be told; the file is then as it was.
    """
    runtime = Runtime(runtime_socket, timeout)
    before, _after, _applied = _update(map_file, runtime, lambda entries: entries | dict(changes), needs_process=True)
    return before


def ensure(
    map_file: str,
    runtime_socket: str,
    change: Callable[[dict[str, str]], dict[str, str]],
    *,
    check: bool = False,
    timeout: float = 5.0,
) -> tuple[dict[str, str], dict[str, str], bool]:
    """Change the map file by *change*, and make the running process use what the file then says.

    A stopped HAProxy, or one whose configuration does not use the map yet, is no error: it reads the file later.

    :param change: gives the entries that are to be from those that are, such as :func:`with_routes`.
    :param check: only find out what would change.
    :param timeout: seconds for a single command, and for the lock.
    :returns: the file's entries before and after, and whether anything changed in the file or the process.
    :raises HaproxyError: when the running process could not be told; the file is then as it was.
    """
    return _update(map_file, Runtime(runtime_socket, timeout), change, needs_process=False, check=check)


@contextlib.contextmanager
def locked(map_file: str, timeout: float = 5.0) -> Iterator[None]:
    """Hold the lock of a map: whoever changes the map or reloads HAProxy does, so that neither is lost to the other.

    :param timeout: seconds to wait for another holder.
    :raises HaproxyError: when the lock is not free in time, or cannot be made.
    """
    path = map_file + ".lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HaproxyError(f"{path}: cannot be opened ({error.strerror}); provision the host, run as root") from error
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise HaproxyError(
                        f"{path}: held by another run for more than {timeout:g} s; wait for it, then run again"
                    ) from error
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def write_atomically(path: str, text: str, mode: int = 0o644) -> None:
    """Replace a file, so that readers and a power cut see the old content or the new, never a part.

    :raises OSError: when it cannot be written.
    """
    folder = os.path.dirname(path)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(path)}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    folder_descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(folder_descriptor)
    finally:
        os.close(folder_descriptor)


def _update(
    map_file: str,
    runtime: Runtime,
    change: Callable[[dict[str, str]], dict[str, str]],
    *,
    needs_process: bool,
    check: bool = False,
) -> tuple[dict[str, str], dict[str, str], bool]:
    """Change the file, then the process; put the file back when the process refuses."""
    if check:
        text = _read(map_file)
        before = parse_map(text or "")
        after = change(before)
        return before, after, text is None or before != after or _running_differs(runtime, map_file, after)
    with locked(map_file, runtime.timeout):
        text = _read(map_file)
        before = parse_map(text or "")
        after = change(before)
        file_changes = text is None or before != after
        try:
            if file_changes:
                write_atomically(map_file, render_map(after))
            try:
                process_changes = needs_process or _running_differs(runtime, map_file, after)
                if process_changes:
                    runtime.replace_map(map_file, after)
            except (HaproxyNotRunning, MapNotLoaded):
                if needs_process:
                    raise
                process_changes = False
        except OSError as error:
            raise HaproxyError(
                f"{map_file}: cannot be written ({error.strerror}); free space or correct its folder, then run again"
            ) from error
        except HaproxyError:
            if file_changes:
                _restore(map_file, text)
            raise
        return before, after, file_changes or process_changes


def _running_differs(runtime: Runtime, map_file: str, entries: Mapping[str, str]) -> bool:
    """Whether a running process that uses the map has other entries."""
    try:
        return runtime.map_entries(map_file) != dict(entries)
    except (HaproxyNotRunning, MapNotLoaded):
        return False


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HaproxyError(f"{path}: cannot be read ({error.strerror}); run as root") from error


def _restore(path: str, text: str | None) -> None:
    if text is None:
        os.unlink(path)
    else:
        write_atomically(path, text)


def _payloads(entries: Mapping[str, str]) -> Iterator[str]:
    """Yield the entries as payload lines, in portions that HAProxy's buffer holds."""
    portion = ""
    for key, value in entries.items():
        line = f"{key} {value}\n"
        if portion and len((portion + line).encode()) > _PAYLOAD_BYTES:
            yield portion
            portion = ""
        portion += line
    if portion:
        yield portion


def _first_line(command: str) -> str:
    return command.partition("\n")[0]
