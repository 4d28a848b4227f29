"""The application as it runs in a container: gunicorn, production's settings, behind a proxy that strips the prefix."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys

from conftest import APP, PATIENCE, environment, wait_for


def test_every_address_carries_the_prefix(server) -> None:
    links = json.loads(server.get("/").data)["links"]
    assert links["stock"] == "/api/stock"
    assert links["admin"] == "/api/admin/"
    login = server.get("/admin/", X_Forwarded_Proto="https")
    assert (login.status, login.headers["Location"]) == (302, "/api/admin/login/?next=/api/admin/")
    slash = server.get("/admin")
    assert (slash.status, slash.headers["Location"]) == (301, "/api/admin/")


def test_static_files_have_hashed_names_under_the_prefix_and_may_be_kept_for_ever(server) -> None:
    page = server.get("/", Accept="text/html").data.decode()
    address = re.search(r'href="(/api/static/donations/index\.[0-9a-f]{12}\.css)"', page).group(1)
    style = server.get(address.removeprefix("/api"))
    assert style.status == 200
    assert style.headers["Content-Type"].startswith("text/css")
    assert "immutable" in style.headers["Cache-Control"]
    assert server.get(address.removeprefix("/api"), Accept_Encoding="gzip").headers["Content-Encoding"] == "gzip"
    # An address inside a style sheet is relative to it, so it holds under any prefix.
    picture = re.search(r'url\("(drop\.[0-9a-f]{12}\.svg)"\)', style.data.decode()).group(1)
    assert server.get(f"/static/donations/{picture}").status == 200


def test_the_admin_finds_its_static_files(server) -> None:
    page = server.get("/admin/login/", X_Forwarded_Proto="https").data.decode()
    addresses = re.findall(r'(?:href|src)="(/api/static/[^"]+)"', page)
    assert len(addresses) > 3
    assert {server.get(address.removeprefix("/api")).status for address in addresses} == {200}


def test_cookies_are_secure_and_stay_in_the_environment_and_its_prefix(server) -> None:
    cookie = server.get("/admin/login/", X_Forwarded_Proto="https").headers["Set-Cookie"]
    assert cookie.startswith("production_csrf=")
    assert {"Path=/api", "Secure", "HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))


def test_every_answer_says_who_gave_it(server) -> None:
    for path, status in (("/health/live", 200), ("/nowhere", 404), ("/admin/", 302), ("/static/nowhere", 404)):
        answer = server.get(path)
        assert answer.status == status
        assert (answer.headers["X-App-Version"], answer.headers["X-App-Environment"]) == ("1.2.3", "production")


def test_another_host_name_is_refused(server) -> None:
    answer = server.get("/stock", Host="elsewhere.test")
    assert (answer.status, json.loads(answer.data)) == (400, {"error": "bad request"})
    wait_for(lambda: "elsewhere.test" in server.log.read_text(), "the refusal in the log")
    assert "Traceback" not in server.log.read_text()
    assert answer.headers["X-App-Version"] == "1.2.3"


def test_requests_are_logged_as_json_without_what_a_log_must_not_hold(server) -> None:
    answer = server.get("/stock?token=s3cr3t", X_Request_ID="from-the-proxy-1", Authorization="Bearer s3cr3t")
    assert answer.headers["X-Request-ID"] == "from-the-proxy-1"
    wait_for(lambda: "from-the-proxy-1" in server.log.read_text(), "the request's log line")
    (record,) = [record for record in server.records() if record.get("request_id") == "from-the-proxy-1"]
    assert (record["method"], record["path"], record["status"]) == ("GET", "/api/stock", 200)
    assert 0 <= record["duration_ms"] < PATIENCE * 1000
    text = server.log.read_text()
    assert "s3cr3t" not in text
    assert "k3y-f0r-t3sts" not in text


def test_a_request_id_that_is_none_is_replaced(server) -> None:
    answer = server.get("/health/live", X_Request_ID='forged" line')
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_a_connection_serves_many_requests(server) -> None:
    request = b"GET /health/live HTTP/1.1\r\nHost: dblood.test\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        for _ in range(3):
            connection.sendall(request)
            assert read_until(connection, b'{"status": "alive"}').startswith(b"HTTP/1.1 200")


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """Read until the bytes *end* have come or the other side has closed."""
    data = b""
    while not data.endswith(end):
        chunk = connection.recv(4096)
        if not chunk:
            break
        data += chunk
    return data


def test_a_request_in_flight_finishes_after_sigterm(serve) -> None:
    server = serve()
    body = json.dumps({"name": "Late Comer", "email": "late@example.org", "blood_group": "B+"}).encode()
    head = (
        "POST /donors HTTP/1.1\r\nHost: dblood.test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(head.encode())
        # The application is waiting for the body now: that is a request in flight.
        assert read_until(connection, b"100 Continue\r\n\r\n")
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not server.takes_requests(), "the server to take no new request")
        assert server.process.poll() is None
        connection.sendall(body)
        answer = read_until(connection, b"}")
    assert answer.startswith(b"HTTP/1.1 201 Created")
    assert server.process.wait(PATIENCE) == 0
    assert any(record.get("status") == 201 for record in server.records())


def test_the_server_refuses_to_start_unsafe() -> None:
    # The same refusal as manage.py's, where a container shows it: in the log, before anything listens.
    result = subprocess.run(
        [sys.executable, "-m", "gunicorn", "dblood.wsgi"],
        cwd=APP,
        env=environment(DJANGO_SETTINGS_MODULE="dblood.settings.production", BIND="127.0.0.1:0"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode != 0
    assert "SECRET_KEY: missing" in result.stdout + result.stderr
