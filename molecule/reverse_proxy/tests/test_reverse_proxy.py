"""What users and operators see of the proxy: routes, pages, headers, and switches that lose nothing."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://app_hosts"]

PROJECT = Path(__file__).parents[3]
CA = PROJECT / ".lab" / "ca.crt"
CONTEXT = ssl.create_default_context(cafile=str(CA))
MAP = "/etc/haproxy/gantry/routes.map"
SOCKET = "/run/haproxy/admin.sock"
KEYS = {"production": "shop.test/api/", "staging": "shop.test/staging/api/", "site": "site.test/"}
NAMES = {"production": "shop-production", "staging": "shop-staging", "site": "site"}


class Connection(http.client.HTTPConnection):
    """A connection to the host's address under a name of our choice, over https or http."""

    def __init__(self, address, name="shop.test", tls=True):
        super().__init__(address, 443 if tls else 80, timeout=30)
        self.name, self.tls = name, tls

    def connect(self):
        self.sock = socket.create_connection((self.host, self.port), self.timeout)
        if self.tls:
            self.sock = CONTEXT.wrap_socket(self.sock, server_hostname=self.name)

    def ask(self, path, method="GET", headers=()):
        """Send a request as it is written; return status, headers and body."""
        self.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        self.putheader("Host", self.name)
        self.putheader("Content-Length", "0")
        for key, value in headers:
            self.putheader(key, value)
        self.endheaders()
        response = self.getresponse()
        return response.status, response.headers, response.read().decode()


class Users:
    """Users who go on asking, each on a connection of its own that stays open, until the block ends."""

    def __init__(self, address, count=8, path="/api/", pause=0.01):
        self.address, self.path, self.pause = address, path, pause
        self.failures: list[str] = []
        self.ports: list[int] = []
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self.go_on) for _ in range(count)]

    def go_on(self):
        connection = Connection(self.address)
        while not self.done.wait(self.pause):
            try:
                status, _headers, body = connection.ask(self.path)
                if status == 200:
                    self.ports.append(json.loads(body)["port"])
                else:
                    self.failures.append(f"{status} {body[:80]}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
        connection.close()

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.wait_for_answers(20)
        return self

    def __exit__(self, *_error):
        self.done.set()
        for thread in self.threads:
            thread.join()

    def wait_for_answers(self, count):
        """Wait until *count* more requests are answered or failed."""
        target = len(self.ports) + len(self.failures) + count
        deadline = time.monotonic() + 60
        while len(self.ports) + len(self.failures) < target:
            assert time.monotonic() < deadline, "no answers"
            time.sleep(0.01)


@pytest.fixture
def address(host):
    """Where the host is reached from here."""
    return host.ansible.get_variables()["ansible_host"]


def sudo(host, command, accept=(0,)):
    """Run a shell command as root; return what it printed."""
    with host.sudo():
        result = host.run(command)
    assert result.rc in accept, result.stderr
    return result.stdout


def python(host, code):
    """Run Python as root on the host, with the code that releases use; return what it printed."""
    program = f"import sys; sys.path.insert(0, '/opt/proxy-test'); import haproxy\n{code}"
    with host.sudo():
        result = host.run("python3 -c %s", program)
    assert result.rc == 0, result.stderr
    return result.stdout.strip()


def switch(host, **slots):
    """Point routes at slots, or at the maintenance page for None."""
    changes = {
        KEYS[route]: "maintenance" if slot is None else f"{NAMES[route]}.{slot}" for route, slot in slots.items()
    }
    python(host, f"haproxy.switch({MAP!r}, {SOCKET!r}, {changes!r})")


def ask(address, path, name="shop.test", tls=True, **more):
    """Ask once, on a new connection."""
    with contextlib.closing(Connection(address, name, tls)) as connection:
        return connection.ask(path, **more)


def port(address, path="/api/"):
    """Return which stand-in answers."""
    status, _headers, body = ask(address, path)
    assert status == 200, body
    return json.loads(body)["port"]


def configure(host, files):
    """Change configuration files as the role does."""
    return host.ansible("haproxy_config", json.dumps({"files": files}), check=False, become=True)


def playbook(host, name):
    """Run a playbook of this scenario on one host."""
    inventory = os.environ.get("PROXY_TEST_INVENTORY", str(PROJECT / "inventories" / "molecule"))
    executable = Path(sys.executable).with_name("ansible-playbook")
    argv = [str(executable), "-i", inventory, "--limit", host.backend.host, str(Path(__file__).parents[1] / name)]
    environment = os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}
    return subprocess.run(argv, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True).stdout


def test_nothing_behind_a_route_is_a_maintenance_page(host, address):
    switch(host, production=None)
    status, headers, body = ask(address, "/api/donors/")
    assert status == 503
    assert int(headers["Retry-After"]) > 0
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Type"].startswith("text/html")
    assert "Back in a moment" in body
    assert "prefers-color-scheme: dark" in body


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize(("name", "path"), [("shop.test", "/other/"), ("shop.test", "/apix/"), ("else.test", "/api/")])
def test_an_unknown_address_is_not_found(host, address, name, path, tls):
    switch(host, production=0)
    with contextlib.closing(Connection(address, "shop.test", tls)) as connection:
        connection.connect()
        connection.name = name
        status, _headers, body = connection.ask(path)
    assert (status, "Nothing here" in body) == (404, True)


def test_http_goes_on_over_https(host, address):
    switch(host, production=0)
    status, headers, _body = ask(address, "/api/donors/?page=2", tls=False)
    assert (status, headers["Location"]) == (308, "https://shop.test/api/donors/?page=2")


def test_challenges_of_certificate_authorities_stay_on_http(host, address):
    status, headers, _body = ask(address, "/.well-known/acme-challenge/token", name="site.test", tls=False)
    assert (status, headers["Location"]) == (404, None)


@pytest.mark.parametrize(
    ("asked", "seen"),
    [("/api", "/"), ("/api/", "/"), ("/api/a/b%20c?q=/api/", "/a/b%20c?q=/api/"), ("/api//evil.test/", "/evil.test/")],
)
def test_the_application_sees_the_path_without_its_prefix(host, address, asked, seen):
    switch(host, production=0)
    _status, _headers, body = ask(address, asked)
    assert json.loads(body)["path"] == seen


def test_two_environments_share_a_host_name(host, address):
    switch(host, production=1, staging=0, site=1)
    assert port(address, "/api/x") == 8101
    assert port(address, "/staging/api/x") == 8110
    status, _headers, body = ask(address, "/any/path", name="SITE.test")
    assert (status, json.loads(body)["port"], json.loads(body)["path"]) == (200, 8121, "/any/path")


def test_forwarded_headers_come_from_the_proxy_alone(host, address):
    switch(host, production=0)
    spoofed = [
        ("X-Forwarded-For", "192.0.2.1"),
        ("x-forwarded-proto", "http"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Prefix", "/evil"),
        ("Forwarded", "for=192.0.2.1"),
        ("X-Real-IP", "192.0.2.1"),
        ("X-Request-ID", "mine"),
    ]
    _status, headers, body = ask(address, "/api/", headers=spoofed)
    seen = json.loads(body)["headers"]
    assert len(seen) == len({name for name, _value in seen}), "a header came twice"
    seen = dict(seen)
    assert seen["host"] == seen["x-forwarded-host"] == "shop.test"
    assert seen["x-forwarded-proto"] == "https"
    assert seen["x-forwarded-for"] not in ("192.0.2.1", "")
    assert seen["x-request-id"] == headers["X-Request-ID"] != "mine"
    assert not {"forwarded", "x-real-ip", "x-forwarded-prefix"} & set(seen)


@pytest.mark.parametrize(
    "path", ["/api/../staging/api/", "/api/%2e%2E/x", "/api/..%2fx", "/api/..%5cx", "/api/.", "/.."]
)
def test_a_path_that_climbs_is_refused(host, address, path):
    assert ask(address, path)[0] == 400


def test_https_by_the_own_ca_for_names_and_addresses(host, address):
    for name in ("shop.test", "site.test", address):
        with socket.create_connection((address, 443), 10) as plain:
            context = ssl.create_default_context(cafile=str(CA))
            context.set_alpn_protocols(["h2", "http/1.1"])
            # Checks the chain and the name, or raises.
            with context.wrap_socket(plain, server_hostname=name) as secure:
                assert secure.selected_alpn_protocol() == "h2"
                assert secure.version() == "TLSv1.3"


def test_the_key_of_the_ca_never_reached_the_host(host):
    # The first line of such a key is the same for all; and the journal holds the search itself, as it is written here.
    secret = (PROJECT / ".lab" / "ca.key").read_text().splitlines()[2][:30]
    search = f"[{secret[0]}]" + secret[1:].replace("+", "[+]")
    found = sudo(host, f"grep -rlE '{search}' /etc /home /opt /root /run /tmp /var 2>/dev/null", accept=(0, 1, 2))
    assert found == ""


def test_only_root_reads_private_keys_and_the_socket(host):
    found = sudo(host, "find /etc/haproxy/gantry/keys/* /etc/haproxy/gantry/certs/* /run/haproxy/admin.sock -perm /077")
    assert found == ""


def test_switches_lose_no_request(host, address):
    switch(host, production=0, staging=0)
    with Users(address) as users:
        code = f"""
for step in range(20):
    haproxy.switch({MAP!r}, {SOCKET!r}, {{"shop.test/api/": f"shop-production.{{step % 2}}"}})
    import time; time.sleep(0.1)
"""
        python(host, code)
        users.wait_for_answers(100)
    assert users.failures == []
    assert set(users.ports) == {8100, 8101}
    assert users.ports[-50:] == [8101] * 50
    assert port(address, "/staging/api/") == 8110


def test_a_request_in_flight_is_counted_and_ends_where_it_began(host, address):
    switch(host, production=0)
    answers: list[tuple] = []
    slow = threading.Thread(target=lambda: answers.append(ask(address, "/api/slow?seconds=3")))
    slow.start()
    count = f"print(haproxy.Runtime({SOCKET!r}).in_flight('shop-production.0'))"
    deadline = time.monotonic() + 3
    while python(host, count) != "1":
        assert time.monotonic() < deadline, "the request is not counted"
    switch(host, production=1)
    assert port(address) == 8101
    slow.join()
    assert (answers[0][0], json.loads(answers[0][2])["port"]) == (200, 8100)
    assert python(host, count) == "0"


@pytest.mark.parametrize("verb", ["reload", "restart"])
def test_the_live_slot_outlives_haproxy(host, address, verb):
    switch(host, production=1, staging=0)
    sudo(host, f"systemctl {verb} haproxy")
    deadline = time.monotonic() + 10
    while True:
        try:
            assert port(address) == 8101
            break
        except OSError:
            assert time.monotonic() < deadline, "HAProxy does not come back"
            time.sleep(0.1)
    assert port(address, "/staging/api/") == 8110


def test_a_changed_configuration_loses_no_request(host, address):
    switch(host, production=0)
    with Users(address) as users:
        for number in range(2):
            result = configure(
                host, {"extra-test.cfg": f"listen extra\n    mode tcp\n    bind 127.0.0.1:808{number}\n"}
            )
            assert result["action"] == "reload", result
            users.wait_for_answers(50)
        result = configure(host, {"extra-test.cfg": None})
        assert (result["changed"], result["files"]) == (True, ["/etc/haproxy/gantry/extra-test.cfg"])
    assert users.failures == []
    assert configure(host, {"extra-test.cfg": None})["changed"] is False


def test_after_a_change_nobody_is_sent_to_the_slot_before(host, address):
    switch(host, production=0)
    with contextlib.closing(Connection(address)) as idle:
        assert json.loads(idle.ask("/api/")[2])["port"] == 8100
        configure(host, {"extra-test.cfg": "listen extra\n    mode tcp\n    bind 127.0.0.1:8080\n"})
        switch(host, production=1)
        with contextlib.suppress(OSError, http.client.HTTPException):
            # Closed while it was idle, or answered by the new slot: never by the one that a release now stops.
            assert json.loads(idle.ask("/api/")[2])["port"] == 8101
    configure(host, {"extra-test.cfg": None})


def test_a_broken_configuration_changes_nothing(host, address):
    switch(host, production=1)
    before = sudo(host, "cat /etc/haproxy/gantry/*.cfg | sha256sum")
    pid = python(host, f"print(haproxy.Runtime({SOCKET!r}).pid())")
    result = configure(host, {"extra-broken.cfg": "listen broken\n    bind 127.0.0.1:8089\n    nonsense\n"})
    assert "nothing was changed" in result["msg"]
    assert "/etc/haproxy/gantry/extra-broken.cfg:3" in result["msg"]
    assert sudo(host, "cat /etc/haproxy/gantry/*.cfg | sha256sum") == before
    assert python(host, f"print(haproxy.Runtime({SOCKET!r}).pid())") == pid
    assert port(address) == 8101


def test_a_configuration_that_does_not_load_is_put_back(host, address):
    switch(host, production=1)
    with Users(address, count=2) as users:
        result = configure(host, {"extra-taken.cfg": "listen taken\n    mode tcp\n    bind 127.0.0.1:22\n"})
        users.wait_for_answers(20)
    assert "as they were before, HAProxy runs with them" in result["msg"]
    assert sudo(host, "ls /etc/haproxy/gantry/extra-taken.cfg /etc/haproxy/gantry/.pending", accept=(2,)) == ""
    assert users.failures == []
    assert port(address) == 8101


def test_a_restart_of_the_application_is_waited_for(host, address):
    switch(host, production=0)
    with Users(address) as users:
        sudo(host, "systemctl stop echo@8100 && sleep 2 && systemctl start echo@8100")
        users.wait_for_answers(50)
    assert users.failures == []


def test_what_may_not_be_done_twice_is_sent_once(host, address):
    sudo(host, "systemctl restart echo@8100")
    switch(host, production=0)
    assert ask(address, "/api/drop", method="POST")[0] == 502
    assert ask(address, "/api/drop")[0] == 502
    seen = json.loads(ask(address, "/api/")[2])["seen"]
    assert seen["POST /drop"] == 1
    assert seen["GET /drop"] > 1


def test_a_switch_that_haproxy_does_not_take_leaves_the_file(host, address):
    switch(host, production=1)
    code = f"""
try:
    haproxy.switch({MAP!r}, "/run/haproxy/nobody.sock", {{"shop.test/api/": "shop-production.0"}})
except haproxy.HaproxyError as error:
    print(error)
print(haproxy.read_map({MAP!r})["shop.test/api/"])
"""
    message, backend = python(host, code).splitlines()
    assert "/run/haproxy/nobody.sock: HAProxy is not running" in message
    assert backend == "shop-production.1"
    assert port(address) == 8101


def test_requests_are_logged_without_their_query(host, address):
    switch(host, production=0)
    _status, headers, _body = ask(address, "/api/donors/?email=someone")
    logged = sudo(host, f"journalctl -t haproxy --no-pager --output=cat | grep -F {headers['X-Request-ID']}")
    entry = json.loads(logged.splitlines()[0])
    assert (entry["status"], entry["path"], entry["backend"]) == (200, "/api/donors/", "shop-production.0")
    assert "someone" not in logged


def test_a_removed_route_leaves_the_others(host, address):
    switch(host, production=1, staging=0)
    with Users(address, count=2) as users:
        playbook(host, "remove.yml")
        assert ask(address, "/staging/api/")[0] == 404
        files = sudo(host, f"find /etc/haproxy/gantry -name '*shop-staging*'; grep staging {MAP}", accept=(0, 1))
        assert files == ""
        playbook(host, "converge.yml")
    assert users.failures == []
    assert set(users.ports) == {8101}
    assert ask(address, "/staging/api/")[0] == 503
