"""The lab's decisions: what can start, which rights hosts get, which secrets may be thrown away."""

import sys

import pytest

from lab import clean, credentials, demo, images, steps
from lab.engine import LabError
from lab.hosts import HOSTS, boot_options
from lab.services import SERVICES
from lab.steps import Step


def say(text: str, needs: tuple[str, ...] = (), code: int = 0) -> Step:
    return Step((sys.executable, "-c", f"print({text!r}); raise SystemExit({code})"), needs)


@pytest.fixture(autouse=True)
def logs(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    monkeypatch.setattr(steps, "LOGS", tmp_path / "logs")
    return tmp_path / "logs"


def test_steps_run_after_what_they_need_and_are_logged(logs):
    took = steps.run({"b": say("second", ("a",)), "a": say("first")})
    assert list(took) == ["a", "b"]
    assert (logs / "b.log").read_text() == "second\n"


def test_a_failed_step_shows_its_log_and_stops_only_what_needs_it(capsys):
    plan = {"bad": say("the reason", code=3), "after": say("never", ("bad",)), "other": say("fine")}
    with pytest.raises(LabError, match=r"bad: the end of logs/bad.log\nthe reason\n(.|\n)*failed: bad"):
        steps.run(plan)
    out = capsys.readouterr().out
    assert "FAILED   bad" in out
    assert "done     other" in out
    assert "after" not in out


def test_only_so_many_steps_run_at_once(capsys):
    steps.run({"a": say("x"), "b": say("x")}, at_once=1)
    order = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert order == ["start", "done", "start", "done"]


def test_the_closing_lines_of_pytest_are_found_in_colour_too():
    log = "collected 3 items\n\x1b[32m===== \x1b[1m3 passed\x1b[0m, 1 skipped in 0.50s =====\x1b[0m\n=== warnings ===\n"
    assert steps.summaries(log) == ["===== 3 passed, 1 skipped in 0.50s ====="]


def test_every_step_of_the_demo_can_start_some_time():
    plan = demo.plan()
    done: set[str] = set()
    while more := steps.ready(plan, done, done):
        done.update(more)
    assert done == plan.keys()
    assert {step.command[-1] for step in demo.image_plan().values()} < demo.IMAGES.keys()


def test_hosts_are_privileged_only_where_nothing_less_works():
    assert "--privileged" in boot_options("2", privileged=True)
    for version in ("1", "2"):
        options = boot_options(version, privileged=False)
        assert "--privileged" not in options
        assert "--cgroupns=host" in options


def test_addresses_are_loopback_and_nobody_shares_one():
    addresses = [*(host.address for host in HOSTS.values()), *(service.address for service in SERVICES.values())]
    assert all(address.startswith("127.") for address in addresses)
    assert len(addresses) == len(set(addresses))


def test_known_hosts_replaces_the_key_of_a_rebuilt_host():
    before = "127.0.77.1 ssh-ed25519 OLD\n127.0.77.11 ssh-ed25519 OTHER\n"
    after = credentials.with_host_keys(before, {"127.0.77.1": "ssh-ed25519 NEW root@host\n"})
    assert after == "127.0.77.11 ssh-ed25519 OTHER\n127.0.77.1 ssh-ed25519 NEW\n"


INVENTORY = """---
# A comment
app_hosts:
  hosts:
    # the first
    staging-1:
      ansible_host: {address}
      app_ports: [1, 2]
"""


@pytest.mark.parametrize(
    ("inventory", "expected"),
    [
        (INVENTORY.format(address="127.0.77.11"), True),
        (INVENTORY.format(address="192.0.2.7"), False),
        (INVENTORY.format(address="127.0.77.11") + "    web.example.org:\n", False),
        (INVENTORY.format(address="127.0.77.11") + "db_hosts:\n  hosts:\n    db.example.org:\n", False),
        ("---\napp_hosts:\n  hosts: {web.example.org: {}}\n", False),
        ("---\n", False),
    ],
)
def test_secrets_are_thrown_away_only_when_all_hosts_are_the_labs(inventory, expected):
    assert clean.only_lab_hosts(inventory) is expected


def test_the_source_of_base_images_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "STATE", tmp_path)
    monkeypatch.setenv("GANTRY_BASE_IMAGES", "bootstrap")
    assert images.source() == "bootstrap"
    monkeypatch.delenv("GANTRY_BASE_IMAGES")
    assert images.source() == "bootstrap"


def test_an_unknown_source_of_base_images_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "STATE", tmp_path)
    monkeypatch.setenv("GANTRY_BASE_IMAGES", "somewhere")
    with pytest.raises(LabError, match="public or bootstrap"):
        images.source()
