"""Drive the real playbooks against the lab, as an operator would.

The environments' hosts are made anew at the start, so that the first test provisions bare Debian hosts.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SERVERS = ("registry", "backup")


@dataclass
class Run:
    """What a command printed, and how it ended."""

    code: int
    output: str

    @property
    def words(self) -> str:
        """The output on one line: Ansible breaks the lines of long messages."""
        return re.sub(r"\s+", " ", self.output)

    @property
    def changed(self) -> int:
        """Tasks that changed something, over all hosts."""
        return sum(int(count) for count in re.findall(r"changed=(\d+)", self.output))


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> str:
        """The content as text."""
        return self.content.decode()

    @property
    def version(self) -> str:
        """The application's version, as it says itself."""
        return self.headers["x-app-version"]


@dataclass
class Environment:
    """Staging or production, as its operator and its users see it."""

    name: str
    host: str
    address: str
    url: str
    extra: dict[str, str] = field(default_factory=dict)

    def play(self, playbook: str, *arguments: str) -> Run:
        """Run ``ansible-playbook PLAYBOOK -i inventories/ENV ARGUMENTS`` from the project's root."""
        return ansible("ansible-playbook", playbook, "-i", f"inventories/{self.name}", *arguments)

    def release(self, version: str | None = None, *arguments: str) -> Run:
        """Deploy without provisioning again: on these hosts nothing but the release is to change."""
        chosen = [] if version is None else ["-e", f"app_version={version}"]
        return self.play("deploy.yml", "--tags", "deploy", *chosen, *arguments)

    def get(self, path: str = "", data: bytes | None = None, content_type: str = "application/json") -> Answer:
        """Ask the application through the proxy, over https, trusting the environment's CA; *data* makes it a POST."""
        context = ssl.create_default_context(cafile=PROJECT / ".vault" / f"{self.name}-ca.crt")
        headers = {} if data is None else {"Content-Type": content_type}
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())

    def on_host(self, *command: str) -> str:
        """Run a command on the environment's host, beside Ansible; return what it printed."""
        return run("docker", "exec", f"gantry-{self.host}", *command).stdout

    def releases(self) -> dict:
        """Return what ``release_info`` tells, read on the host itself."""
        done = ansible(
            "ansible",
            self.host,
            "-i",
            f"inventories/{self.name}",
            "-b",
            "-m",
            "release_info",
            "-a",
            f"app=dblood-{self.name}",
        )
        assert done.code == 0, done.output
        return yaml.safe_load(done.output.partition("=>")[2])


def run(*command: str, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's root and return it with its output."""
    return subprocess.run(command, cwd=PROJECT, check=check, capture_output=True, text=True, timeout=900, **options)


def ansible(program: str, *arguments: str) -> Run:
    """Run one of Ansible's programs; its output is shown when a test fails."""
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "ANSIBLE_FORCE_COLOR": "0",
        "ANSIBLE_NOCOLOR": "1",
    }
    done = subprocess.run(
        [BIN / program, *arguments],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        env=environment,
        check=False,
    )
    print(f"$ {program} {' '.join(arguments)}\n{done.stdout}")
    return Run(done.returncode, done.stdout)


def lab(*arguments: str) -> None:
    """Run a command of the lab."""
    run(sys.executable, "-m", "lab", *arguments)


def environment(name: str) -> Environment:
    """Read an environment's host and address from its inventory."""
    text = run(str(BIN / "ansible-inventory"), "-i", f"inventories/{name}", "--list").stdout
    inventory = json.loads(text)
    host = inventory["app_hosts"]["hosts"][0]
    variables = inventory["_meta"]["hostvars"][host]
    address = variables["ansible_host"]
    return Environment(name, host, address, f"https://{address}{variables['app_url_prefix']}/")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option for working on a single test."""
    parser.addoption("--keep-hosts", action="store_true", help="take the environments' hosts as they are")


@pytest.fixture(scope="session")
def environments(pytestconfig: pytest.Config) -> dict[str, Environment]:
    """Both environments on hosts that were made just now, with a registry that has the application's images."""
    run(sys.executable, "-m", "lab.secrets")
    found = {name: environment(name) for name in ("staging", "production")}
    hosts = [one.host for one in found.values()]
    if not pytestconfig.getoption("keep_hosts"):
        lab("down", *hosts)
    lab("up", *SERVERS, *hosts)
    lab("push")
    return found


@pytest.fixture(scope="session")
def staging(environments) -> Environment:
    """Staging."""
    return environments["staging"]


@pytest.fixture(scope="session")
def production(environments) -> Environment:
    """Production."""
    return environments["production"]
