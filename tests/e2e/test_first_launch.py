"""The main job in the order of a first day: provision, deploy, a new version, going back, and what goes wrong.

The tests build on each other, as the days of an environment do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time

import pytest
from conftest import BIN, PROJECT, ansible, run


class Load:
    """Ask for a page again and again until told to stop, on connections that stay open."""

    def __init__(self, environment) -> None:
        """Take the environment to ask."""
        self.environment = environment
        self.answers: list[int] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self):
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        """End, after the request that is under way."""
        self._done.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        while not self._done.is_set():
            try:
                self.answers.append(self.environment.get("stock").status)
            except OSError:
                self.answers.append(0)
            self._done.wait(0.02)

    @property
    def failed(self) -> int:
        """Requests without an answer of 200."""
        return sum(status != 200 for status in self.answers)


def test_check_mode_works_on_a_bare_host(staging):
    done = staging.play("deploy.yml", "--check", "--diff")
    assert done.code == 0
    assert staging.on_host("sh", "-c", "command -v dockerd || true") == ""


def test_two_environments_deploy_at_the_same_time(staging, production):
    results = {}
    threads = [
        threading.Thread(target=lambda one=one: results.update({one.name: one.play("deploy.yml")}))
        for one in (staging, production)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: done.code for name, done in results.items()} == {"staging": 0, "production": 0}
    for one in (staging, production):
        answer = one.get()
        assert (answer.status, answer.version, answer.headers["x-app-environment"]) == (200, "1.0.0", one.name)


def test_a_second_deploy_changes_nothing(staging):
    done = staging.play("deploy.yml")
    assert (done.code, done.changed) == (0, 0)


def test_check_mode_on_a_live_host_finds_nothing_to_do(staging):
    done = staging.play("deploy.yml", "--check", "--diff")
    assert (done.code, done.changed) == (0, 0)


def test_check_mode_of_a_new_version_says_so_and_does_nothing(staging):
    done = staging.play("deploy.yml", "--check", "--diff", "-e", "app_version=1.1.0")
    assert done.code == 0
    assert "+version: 1.1.0" in done.output
    assert staging.get().version == "1.0.0"


def test_new_version_and_back_without_a_failed_request_and_production_untouched(staging, production):
    before = production.releases()
    with Load(staging) as load:
        assert staging.release("1.1.0").code == 0
        assert staging.get().version == "1.1.0"
        assert staging.play("rollback.yml").code == 0
    assert staging.get().version == "1.0.0"
    assert production.get().version == "1.0.0"
    assert production.releases() == before
    assert load.answers
    assert load.failed == 0, f"{load.failed} of {len(load.answers)} requests failed"


def test_rollback_to_a_named_release_and_the_switch_survives_a_restart_of_the_proxy(staging):
    newer = next(release for release in staging.releases()["previous"] if release["version"] == "1.1.0")
    assert staging.play("rollback.yml", "-e", f"app_release={newer['id']}").code == 0
    assert staging.get().version == "1.1.0"
    staging.on_host("systemctl", "restart", "haproxy")
    assert staging.get().version == "1.1.0"
    assert staging.play("rollback.yml").code == 0
    assert staging.get().version == "1.0.0"


def test_rollback_to_what_is_not_there_lists_what_is(staging):
    done = staging.play("rollback.yml", "-e", "app_release=20200101T000000Z-0.1")
    assert done.code != 0
    assert "is not on this host; releases to go back to:" in done.words
    assert staging.get().version == "1.0.0"


def test_rollback_beyond_the_first_release_is_refused(staging):
    done = staging.play("rollback.yml")
    assert done.code != 0
    assert "no release served before" in done.words
    assert staging.get().version == "1.0.0"


def test_status_shows_what_serves_and_what_to_go_back_to(staging):
    done = staging.play("playbooks/status.yml")
    assert done.code == 0
    assert re.search(r"staging-1\s+staging\s+1\.0\.0\s+[0-9a-f]{12}\s+\S+Z\s+\S+\s+yes\s+\S+-1\.1\.0", done.output)


@pytest.fixture(scope="module")
def broken_images(environments, tmp_path_factory):
    """Images of versions that go wrong, in the registry: one never gets healthy, one exits at once."""
    folder = tmp_path_factory.mktemp("broken")
    commands = {
        "unhealthy": ["python", "-c", "print('no database today', flush=True); import time; time.sleep(600)"],
        "exits": ["python", "-c", "print('cannot start without a sail', flush=True); raise SystemExit(3)"],
    }
    registry = "127.0.77.10:5000/dblood"
    for version, command in commands.items():
        (folder / "Dockerfile").write_text(f"FROM {registry}:1.0.0-staging\nCMD {json.dumps(command)}\n")
        image = f"{registry}:{version}-staging"
        run("docker", "build", "-q", "-t", image, "--label", f"gantry.lab={PROJECT}", str(folder))
        run("docker", "--config", str(PROJECT / ".lab/docker"), "push", "-q", image)
    yield
    for version in commands:
        run("docker", "image", "rm", f"{registry}:{version}-staging")


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("unhealthy", ["step check", "no database today"]),
        ("exits", ["exited with code 3", "cannot start without a sail"]),
    ],
)
def test_a_version_that_fails_leaves_the_old_one_serving(staging, broken_images, version, says):
    before = staging.releases()
    with Load(staging) as load:
        # A migration would run in the broken image as well; it is the start that is tried here.
        done = staging.release(version, "-e", "app_health_timeout=5")
    assert done.code != 0
    for words in [*says, "version 1.0.0", "still serves"]:
        assert words in done.words
    assert staging.get().version == "1.0.0"
    assert staging.releases() == before
    assert load.failed == 0, f"{load.failed} of {len(load.answers)} requests failed"
    running = staging.on_host("docker", "ps", "--filter", "label=gantry.process=web", "--format", "{{.Names}}").split()
    assert len(running) == 1, "the failed release's container is gone"


def test_a_tag_that_does_not_exist_stops_before_anything_is_touched(staging):
    done = staging.play("deploy.yml", "-e", "app_version=9.9.9")
    assert done.code != 0
    assert "has no tag '9.9.9-staging'" in done.words
    assert "1.1.0-staging" in done.words, "the message says what there is"
    assert done.changed == 0
    assert "Provision" not in done.output.partition("has no tag")[0]


def test_a_registry_that_is_away_stops_before_anything_is_touched(staging):
    run("docker", "stop", "gantry-registry")
    try:
        done = staging.release("1.1.0")
        assert done.code != 0
        assert "registry.gantry.test:5000 cannot be reached" in done.words
        assert staging.get().version == "1.0.0"
        rolled_forward = next(r["id"] for r in staging.releases()["previous"] if r["version"] == "1.1.0")
        assert staging.play("rollback.yml", "-e", f"app_release={rolled_forward}").code == 0
        assert staging.play("rollback.yml").code == 0
    finally:
        run("docker", "start", "gantry-registry")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-e", '{"app_env_required": ["MAIL_FROM"]}'], "dblood-staging needs MAIL_FROM"),
        (["-e", "app_version=not/a/tag"], "cannot be a tag"),
        (["-e", "app_image=registry.gantry.test:5000/nothing"], "has no tag"),
        (["-e", "registry_password=wrong"], "refuses the login staging"),
    ],
)
def test_bad_input_stops_before_anything_is_touched(staging, arguments, says):
    done = staging.play("deploy.yml", *arguments)
    assert done.code != 0
    assert says in done.words
    assert done.changed == 0


def test_an_unknown_environment_is_an_error():
    done = ansible("ansible-playbook", "deploy.yml", "-i", "inventories/nowhere")
    assert done.code != 0
    assert "nowhere" in done.output


def test_a_wrong_vault_password_names_the_file(staging, tmp_path):
    wrong = tmp_path / "password"
    wrong.write_text("wrong\n")
    environment = os.environ | {"ANSIBLE_VAULT_IDENTITY_LIST": f"staging@{wrong}"}
    command = (str(BIN / "ansible-playbook"), "deploy.yml", "-i", "inventories/staging")
    done = run(*command, check=False, env=environment)
    assert done.returncode != 0
    assert "inventories/staging/group_vars/all/vault.yml" in done.stdout + done.stderr


def test_scheduled_task_runs_in_the_live_release(staging):
    begin = time.time()
    staging.on_host("systemctl", "start", "gantry-dblood-staging-task-refresh-stock.service")
    answer = json.loads(staging.get("stock").body)
    assert "refreshed_at" in json.dumps(answer)
    log = staging.on_host(
        "journalctl", "-u", "gantry-dblood-staging-task-refresh-stock", "--since", f"@{int(begin)}", "-o", "cat"
    )
    assert "stock" in log.lower()
    timers = staging.on_host("systemctl", "list-timers", "--all", "--output", "json")
    assert "gantry-dblood-staging-task-refresh-stock.timer" in timers


def test_host_comes_back_from_a_reboot_with_the_release_and_its_secrets(staging):
    run("docker", "restart", "gantry-staging-1")
    deadline = time.monotonic() + 90
    status = 0
    while status != 200 and time.monotonic() < deadline:
        try:
            status = staging.get().status
        except OSError:
            status = 0
        time.sleep(0.5)  # the pause between two questions of a bounded wait
    assert status == 200
    assert staging.get().version == "1.0.0"


def test_a_run_that_was_killed_is_healed_by_the_next(staging):
    """Cut off between the proxy's switch and its recording, which is the worst place."""
    assert staging.release("1.1.0").code == 0
    state = "/var/lib/gantry/dblood-staging/live"
    old = next(r["id"] for r in staging.releases()["previous"] if r["version"] == "1.0.0")
    staging.on_host(
        "sed", "-i", f"s/^RELEASE=.*/RELEASE={old}/; s/^SLOT=0/SLOT=x/; s/^SLOT=1/SLOT=0/; s/^SLOT=x/SLOT=1/", state
    )
    done = staging.release("1.1.0")
    assert done.code == 0
    assert staging.get().version == "1.1.0"
    assert staging.releases()["live"]["version"] == "1.1.0"
    assert staging.release().code == 0
    assert staging.get().version == "1.0.0"


def test_two_deploys_at_once_do_not_mix(staging):
    first = subprocess.Popen(
        [
            BIN / "ansible-playbook",
            "deploy.yml",
            "-i",
            "inventories/staging",
            "--tags",
            "deploy",
            "-e",
            "app_version=1.1.0",
        ],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    second = staging.release("1.0.0")
    output, _ = first.communicate(timeout=600)
    for code, text in ((first.returncode, output), (second.code, second.output)):
        assert code == 0 or "is being changed by" in text
    assert staging.get().version in ("1.0.0", "1.1.0")
    assert staging.get().version == staging.releases()["live"]["version"]
    assert staging.release().code == 0
    assert staging.get().version == "1.0.0"
