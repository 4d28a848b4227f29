"""Fixtures: the test database, an empty media folder, and the application as a real server process."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from donations.models import Donation, Donor

APP = Path(__file__).resolve().parents[1]
#: Seconds after which a process that does not do what is waited for counts as broken.
PATIENCE = 20

# Set before any settings are read, so that a developer's own environment does not decide a test.
SETTINGS = (
    "SECRET_KEY",
    "DEBUG",
    "ALLOWED_HOSTS",
    "DATABASE_URL",
    "MEDIA_ROOT",
    "STATIC_ROOT",
    "URL_PREFIX",
    "API_TOKEN",
)


def environment(**values: str) -> dict[str, str]:
    """Return the environment of a child process: the caller's without the application's settings, plus *values*."""
    kept = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in SETTINGS}
    kept.pop("DJANGO_SETTINGS_MODULE", None)
    return kept | values


def manage(*arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
    """Run manage.py and return what it said."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=APP,
        env=environment(**values),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.fixture(autouse=True)
def media(settings, tmp_path: Path) -> Path:
    """Keep uploads of a test in a folder of its own, and look for static files in none of the developer's."""
    settings.STATIC_ROOT = str(tmp_path)
    settings.MEDIA_ROOT = str(tmp_path / "media")
    return tmp_path / "media"


@pytest.fixture
def make_donor(db) -> Callable[..., Donor]:
    """Return a function that registers donors."""

    def make(**values) -> Donor:
        number = Donor.objects.count() + 1
        return Donor.objects.create(
            **{"name": "Ada Byron", "email": f"ada{number}@example.org", "blood_group": "O-"} | values
        )

    return make


@pytest.fixture
def make_donation(make_donor) -> Callable[..., Donation]:
    """Return a function that records donations; ``days_ago`` is their age."""

    def make(days_ago: int = 0, **values) -> Donation:
        day = timezone.localdate() - timedelta(days=days_ago)
        donor = values.pop("donor", None) or make_donor(blood_group=values.pop("blood_group", "O-"))
        return Donation.objects.create(donor=donor, donated_on=day, **values)

    return make


@dataclass
class Server:
    """A running gunicorn with the application."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    def get(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> http.client.HTTPResponse:
        """Send a request as the proxy would and return the answer, its body in ``.data``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=body, headers={"Host": "dblood.test"} | given)
            response = connection.getresponse()
            response.data = response.read()
            return response
        finally:
            connection.close()

    def takes_requests(self) -> bool:
        """Say whether a new connection is served; while the server stops, its socket is open but nobody accepts."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.5) as connection:
                connection.sendall(b"HEAD /health/live HTTP/1.0\r\nHost: dblood.test\r\n\r\n")
                return bool(connection.recv(1))
        except OSError:
            return False

    def records(self) -> list[dict]:
        """Return the log so far; a line that is not JSON fails the test."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Ask until *condition* holds, for PATIENCE seconds at most."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def answers(port: int) -> bool:
    """Say whether something listens on *port*."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def serve(tmp_path_factory) -> Iterator[Callable[..., Server]]:
    """Return a function that starts the production server under a prefix; what it started ends with the session."""
    root = tmp_path_factory.mktemp("server")
    values = {
        "DJANGO_SETTINGS_MODULE": "dblood.settings.production",
        "SECRET_KEY": "k3y-f0r-t3sts-Zq8vXw7Lp2Rt9Ym4Nb6Hc1Jd5",
        "ALLOWED_HOSTS": "dblood.test",
        "CSRF_TRUSTED_ORIGINS": "https://dblood.test",
        "DATABASE_URL": f"sqlite:///{root}/db.sqlite3",
        "MEDIA_ROOT": f"{root}/media",
        "STATIC_ROOT": f"{root}/static",
        "APP_VERSION": "1.2.3",
        "APP_ENVIRONMENT": "production",
        "WEB_CONCURRENCY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    # As in the image: without a prefix, which is known at run time only.
    collected = manage("collectstatic", "--noinput", **values | {"DJANGO_SETTINGS_MODULE": "dblood.settings.common"})
    assert collected.returncode == 0, collected.stderr
    migrated = manage("migrate", "--noinput", **values)
    assert migrated.returncode == 0, migrated.stderr
    started: list[subprocess.Popen[str]] = []

    def start(prefix: str = "") -> Server:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = Path(tempfile.mkstemp(dir=root, suffix=".log")[1])
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "dblood.wsgi"],
                cwd=APP,
                env=environment(**values, URL_PREFIX=prefix, BIND=f"127.0.0.1:{port}"),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        started.append(process)
        wait_for(lambda: process.poll() is not None or answers(port), "gunicorn to listen")
        assert process.poll() is None, log.read_text()
        return Server(process, port, log)

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.wait(PATIENCE)


@pytest.fixture(scope="session")
def server(serve) -> Server:
    """Return a server under the prefix /api."""
    return serve("/api")
