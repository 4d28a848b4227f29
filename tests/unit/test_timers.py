"""Units of scheduled tasks."""

import pytest
from ansible.module_utils.gantry import timers
from ansible.module_utils.gantry.releases import ScheduledTask
from test_releases import release

TASK = ScheduledTask("tidy", ["tidy"], "*:0/5", 600)


@pytest.fixture
def units(tmp_path):
    return timers.render("shop-staging", tmp_path / "live", TASK)


def test_a_task_runs_in_the_container_of_the_release_that_is_live(units, tmp_path):
    service = units["gantry-shop-staging-task-tidy.service"]
    assert f"EnvironmentFile={tmp_path}/live\n" in service
    assert "ExecStart=/usr/bin/docker start --attach shop-staging-task-tidy-${RELEASE}\n" in service


def test_a_task_has_a_schedule_and_an_end(units):
    assert "OnCalendar=*:0/5\n" in units["gantry-shop-staging-task-tidy.timer"]
    assert "TimeoutStartSec=600\n" in units["gantry-shop-staging-task-tidy.service"]


def test_units_are_in_place_only_when_all_are_there_and_no_others(tmp_path):
    record = release("a")
    live = tmp_path / "live"
    assert not timers.in_place(record, live, tmp_path)
    for name, text in timers.wanted(record, live).items():
        (tmp_path / name).write_text(text)
    assert timers.in_place(record, live, tmp_path)
    (tmp_path / "gantry-shop-staging-task-old.timer").write_text("")
    assert not timers.in_place(record, live, tmp_path)
