"""What users and operators see of a release, on both Debians."""

import json
import os
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
APP = "dblood-molecule"


def play(playbook, host, *arguments):
    """Run a playbook on one of the hosts and return its output."""
    name = host.backend.get_hostname()
    command = [
        Path(sys.executable).parent / "ansible-playbook",
        playbook,
        "-i",
        "inventories/molecule",
        "--limit",
        name,
    ]
    environment = os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"}
    done = subprocess.run(
        [*command, *arguments], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def host(host):
    """The host, as root sees it."""
    with host.sudo():
        yield host


def version(host):
    """Return the version that a user reaches through the proxy."""
    address = host.ansible.get_variables()["ansible_host"]
    trust = ssl.create_default_context(cafile=PROJECT / ".lab" / "ca.crt")
    with urllib.request.urlopen(f"https://{address}/molecule/api/stock", timeout=10, context=trust) as answer:
        assert answer.headers["X-App-Environment"] == "molecule"
        return answer.headers["X-App-Version"]


@pytest.fixture
def container(host):
    """What the engine tells about the container that serves."""
    names = host.check_output(f"docker ps -q --filter label=gantry.app={APP} --filter label=gantry.process=web").split()
    assert len(names) == 1, "one container serves, and one only"
    return json.loads(host.check_output(f"docker inspect {names[0]}"))[0]


def test_the_application_answers_through_the_proxy(host):
    assert version(host) == "1.0.0"


def test_only_the_digest_runs(container):
    assert "@sha256:" in container["Config"]["Image"]


def test_the_container_is_published_on_loopback_only(host, container):
    bindings = container["HostConfig"]["PortBindings"]["8000/tcp"]
    assert [binding["HostIp"] for binding in bindings] == ["127.0.0.1"]
    assert not host.socket(f"tcp://0.0.0.0:{bindings[0]['HostPort']}").is_listening


def test_the_container_can_do_little(host, container):
    name = container["Name"].strip("/")
    assert host.check_output(f"docker exec {name} id -u") == "10001"
    assert host.run(f"docker exec {name} touch /app/file").rc != 0
    assert host.check_output(f"docker exec {name} sed -n 's/^CapEff:\\s*//p' /proc/1/status") == "0" * 16
    assert host.check_output(f"docker exec {name} sed -n 's/^NoNewPrivs:\\s*//p' /proc/1/status") == "1"


def test_no_secret_shows_in_what_the_engine_tells(host, container):
    secret = host.check_output("cat /run/gantry/dblood-molecule/*/SECRET_KEY")
    assert len(secret) > 20
    assert secret not in json.dumps(container)
    assert "SECRET_KEY_FILE=/run/secrets/SECRET_KEY" in container["Config"]["Env"]
    environment = host.check_output(f"docker exec {container['Name'].strip('/')} env")
    assert secret not in environment


def test_only_root_reads_the_records(host):
    found = host.check_output("find /var/lib/gantry/dblood-molecule/releases -type f ! -perm 600")
    assert found == ""


def test_the_scheduled_task_runs_in_the_live_release(host):
    host.check_output(f"systemctl start gantry-{APP}-task-refresh-stock.service")
    log = host.check_output(f"journalctl -u gantry-{APP}-task-refresh-stock -o cat")
    assert "stock refreshed" in log
    assert host.service(f"gantry-{APP}-task-refresh-stock.timer").is_running


def test_a_new_version_goes_live_and_back_again(host):
    play("molecule/app/release.yml", host, "-e", "app_version=1.1.0")
    assert version(host) == "1.1.0"
    play("rollback.yml", host)
    assert version(host) == "1.0.0"


def test_the_release_survives_a_restart_of_engine_and_proxy(host):
    host.check_output("systemctl restart docker haproxy")
    assert version(host) == "1.0.0"


def test_a_container_removed_by_hand_is_healed_by_the_next_release(host, container):
    host.check_output(f"docker rm --force {container['Id']}")
    play("molecule/app/release.yml", host)
    assert version(host) == "1.0.0"
