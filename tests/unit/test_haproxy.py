"""Routes and HAProxy's Runtime API, against a stand-in that keeps maps as HAProxy does."""

import re
import socketserver
import threading

import pytest
from ansible.module_utils.gantry import haproxy

ROUTE = {"name": "shop-staging", "domains": ["shop.test"], "prefix": "/staging/api", "ports": [8010, 8011]}
STAT = """# pxname,svname,qcur,qmax,scur,smax,
https,FRONTEND,,,3,9,
shop-staging.0,app,1,4,2,9,
shop-staging.0,BACKEND,0,4,2,9,
shop-staging.1,app,0,0,0,1,
"""


class Haproxy(socketserver.ThreadingUnixStreamServer):
    """Answers the commands of the Runtime API that are used, one a connection, with HAProxy's words."""

    daemon_threads = True

    def __init__(self, folder):
        self.socket_path = str(folder / "admin.sock")
        self.map_file = str(folder / "routes.map")
        self.entries: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.log: list[str] = []
        self.refused = ""
        super().__init__(self.socket_path, Connection)

    def reply(self, request):
        line, _, payload = request.partition("\n")
        self.log.append(line)
        if self.refused and line.startswith(self.refused):
            return "Out of memory error."
        if "map" in line and self.map_file not in line.split():
            return "Unknown map identifier. Please use #<id> or <file>."
        if line.startswith("prepare map"):
            version = str(len(self.versions) + 1)
            self.versions[version] = {}
            return f"New version created: {version}"
        if match := re.match(r"(add|commit|clear) map @(\d+)", line):
            entries = self.versions[match[2]]
            if match[1] == "add":
                entries.update(entry.split() for entry in payload.splitlines() if entry)
            elif match[1] == "commit":
                self.entries = entries
            return ""
        if line.startswith("show map"):
            return "\n".join(f"0x{id(key):x} {key} {value}" for key, value in self.entries.items())
        return {"show stat": STAT, "show info": "Name: HAProxy\nPid: 42\nUptime: 0d"}[line]


class Connection(socketserver.StreamRequestHandler):
    """One command, with its payload to the empty line."""

    server: Haproxy

    def handle(self):
        request = self.rfile.readline().decode()
        if request.rstrip().endswith("<<"):
            while (line := self.rfile.readline().decode()) not in ("\n", ""):
                request += line
        self.wfile.write((self.server.reply(request.rstrip("\n")) + "\n\n").encode())


@pytest.fixture
def server(tmp_path):
    with Haproxy(tmp_path) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def file_entries(server):
    return haproxy.read_map(server.map_file)


def switch(server, **changes):
    return haproxy.switch(
        server.map_file, server.socket_path, {f"{key}.test/": value for key, value in changes.items()}
    )


def test_a_map_is_read_as_it_was_written():
    entries = {"shop.test/api/": "shop.0", "shop.test/": "maintenance"}
    assert haproxy.parse_map(haproxy.render_map(entries, "a comment")) == entries


def test_a_line_that_is_no_entry_is_named():
    with pytest.raises(haproxy.HaproxyError, match=r"line 2: .*found 'shop.test/'"):
        haproxy.parse_map("# comment\nshop.test/\n")


@pytest.mark.parametrize("word", ["two words", "#comment", ""])
def test_an_entry_that_would_break_the_file_is_refused(word):
    with pytest.raises(haproxy.HaproxyError, match="single words"):
        haproxy.render_map({"shop.test/": word})


@pytest.mark.parametrize(
    ("domain", "prefix", "key"),
    [
        ("Shop.Test", "", "shop.test/"),
        ("shop.test.", "/api", "shop.test/api/"),
        ("127.0.0.1", "/staging/api/", "127.0.0.1/staging/api/"),
    ],
)
def test_key_of_a_route(domain, prefix, key):
    assert haproxy.route_key(domain, prefix) == key


def test_a_route_has_two_slots():
    assert [haproxy.slot_of(haproxy.backend_name("shop-1", slot)) for slot in (0, 1)] == [0, 1]
    assert haproxy.slot_of(haproxy.MAINTENANCE) is None
    with pytest.raises(ValueError, match="slots 0 and 1"):
        haproxy.backend_name("shop", 2)


def test_good_routes_have_no_problems():
    other = {"name": "shop-production", "domains": ["shop.test", "[::1]"], "prefix": "", "ports": [8000, 8001]}
    assert haproxy.route_problems([ROUTE, other]) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "Shop"}, "lowercase"),
        ({"name": "unknown"}, "reserved"),
        ({"prefix": "api"}, "slash"),
        ({"prefix": "/a b"}, "slash"),
        ({"domains": []}, "a domain is needed"),
        ({"domains": ["shop.test:443"]}, "no port"),
        ({"domains": ["shop.test\n    bind *:1"]}, "not a host name"),
        ({"domains": ["a.test", "A.test"]}, "belongs to route shop-staging already"),
        ({"ports": [8000]}, "two different ports"),
        ({"ports": [8000, 8000]}, "two different ports"),
    ],
)
def test_a_route_that_cannot_work_is_named(change, problem):
    assert any(problem in text for text in haproxy.route_problems([ROUTE | change]))


def test_routes_do_not_share_names_addresses_or_ports():
    problems = haproxy.route_problems([ROUTE, ROUTE])
    assert "route shop-staging: the name is there twice" in problems
    problems = haproxy.route_problems([ROUTE, ROUTE | {"name": "other"}])
    assert "route other: shop.test/staging/api/ belongs to route shop-staging already" in problems
    assert "route other: port 8010 belongs to route shop-staging already" in problems


def test_an_address_that_another_route_serves_is_taken():
    key = "shop.test/staging/api/"
    assert haproxy.taken_keys([ROUTE], {key: "other.1"}) == {key: "other.1"}
    assert haproxy.taken_keys([ROUTE], {key: "shop-staging.1"}) == {}
    assert haproxy.taken_keys([ROUTE], {key: "maintenance"}) == {}


def test_a_switch_moves_all_keys_in_one_step(server):
    server.entries = {"a.test/": "shop.0", "b.test/": "shop.0", "c.test/": "other.0"}
    haproxy.write_atomically(server.map_file, haproxy.render_map(server.entries))
    before = switch(server, a="shop.1", b="shop.1", new="shop.1")
    assert before == {"a.test/": "shop.0", "b.test/": "shop.0", "c.test/": "other.0"}
    after = {"a.test/": "shop.1", "b.test/": "shop.1", "c.test/": "other.0", "new.test/": "shop.1"}
    assert file_entries(server) == server.entries == after
    assert sum(line.startswith("commit") for line in server.log) == 1
    assert not any(line.startswith("set map") for line in server.log)


def test_a_large_map_goes_in_portions(server):
    entries = {f"host-{number}.example.test/prefix/": "shop.0" for number in range(1000)}
    haproxy.switch(server.map_file, server.socket_path, entries)
    assert server.entries == entries
    assert sum(line.startswith("add map") for line in server.log) > 1


def test_set_map_entries_keeps_the_others(server):
    server.entries = {"a.test/": "shop.0"}
    haproxy.Runtime(server.socket_path).set_map_entries(server.map_file, {"b.test/": "shop.1"})
    assert server.entries == {"a.test/": "shop.0", "b.test/": "shop.1"}


@pytest.mark.parametrize("refused", ["prepare", "add", "commit"])
def test_a_refused_switch_puts_the_file_back(server, refused):
    switch(server, a="shop.0")
    server.refused = refused
    with pytest.raises(haproxy.HaproxyError, match="Out of memory"):
        switch(server, a="shop.1")
    assert file_entries(server) == server.entries == {"a.test/": "shop.0"}


def test_a_switch_without_haproxy_says_so_and_leaves_no_file(tmp_path):
    map_file = tmp_path / "routes.map"
    with pytest.raises(haproxy.HaproxyNotRunning, match=r"nobody.sock: HAProxy is not running .*systemctl status"):
        haproxy.switch(str(map_file), str(tmp_path / "nobody.sock"), {"a.test/": "shop.0"})
    assert not map_file.exists()


def test_a_switch_of_a_map_that_is_not_loaded_says_so(server, tmp_path):
    with pytest.raises(haproxy.MapNotLoaded, match="provision the host"):
        haproxy.switch(str(tmp_path / "other.map"), server.socket_path, {"a.test/": "shop.0"})


def test_a_silent_socket_is_given_up(tmp_path):
    path = str(tmp_path / "silent.sock")
    runtime = haproxy.Runtime(path, timeout=0.1)
    silent = socketserver.UnixStreamServer(path, socketserver.BaseRequestHandler)
    with silent, pytest.raises(haproxy.HaproxyError, match=r"no reply to 'show info' within 0.1 s"):
        runtime.pid()


def test_the_lock_is_waited_for_and_then_named(server):
    held = pytest.raises(haproxy.HaproxyError, match=r"routes.map.lock: held by another run")
    with haproxy.locked(server.map_file), held:
        haproxy.switch(server.map_file, server.socket_path, {"a.test/": "shop.0"}, timeout=0.2)
    switch(server, a="shop.0")
    assert server.entries == {"a.test/": "shop.0"}


def test_requests_in_flight_include_those_that_wait(server):
    runtime = haproxy.Runtime(server.socket_path)
    assert [runtime.in_flight(f"shop-staging.{slot}") for slot in (0, 1)] == [3, 0]
    with pytest.raises(haproxy.HaproxyError, match=r"no server other\.0/app"):
        runtime.in_flight("other.0")


def ensure(server, **options):
    def change(entries):
        return haproxy.with_routes(entries, [ROUTE])

    return haproxy.ensure(server.map_file, server.socket_path, change, **options)


def test_a_new_route_is_in_maintenance_and_stays_as_it_is(server):
    assert ensure(server, check=True)[2] is True
    assert (file_entries(server), server.entries) == ({}, {})
    assert ensure(server)[2] is True
    assert file_entries(server) == server.entries == {"shop.test/staging/api/": "maintenance"}
    assert ensure(server)[2] is False
    haproxy.switch(server.map_file, server.socket_path, {"shop.test/staging/api/": "shop-staging.1"})
    assert ensure(server)[2] is False
    assert server.entries == {"shop.test/staging/api/": "shop-staging.1"}


def test_a_process_that_differs_from_the_file_is_told(server):
    ensure(server)
    server.entries = {"shop.test/staging/api/": "shop-staging.0"}
    assert ensure(server, check=True)[2] is True
    assert ensure(server)[2] is True
    assert server.entries == file_entries(server)


def test_the_file_is_enough_while_haproxy_is_stopped(tmp_path):
    map_file, nobody = str(tmp_path / "routes.map"), str(tmp_path / "nobody.sock")
    changes = [haproxy.ensure(map_file, nobody, lambda _entries: {"a.test/": "maintenance"})[2] for _ in range(2)]
    assert changes == [True, False]
    assert haproxy.read_map(map_file) == {"a.test/": "maintenance"}
