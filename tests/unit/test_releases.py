"""Decisions about releases: ids, fingerprints, slots, where a rollback goes, what retention removes."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from ansible.module_utils.gantry.releases import (
    Live,
    Release,
    ScheduledTask,
    Spec,
    describe,
    env_text,
    fingerprint,
    free_slot,
    new_id,
    parse_env,
    prunable,
    rollback_target,
)

SPEC = Spec(
    version="1.0.0",
    image="registry.example/shop",
    digest="sha256:" + "0" * 64,
    port=8000,
    slots=[8010, 8011],
    route="shop-staging",
    route_keys=["shop.example/"],
    uid=10001,
    data_path="/var/lib/gantry/shop-staging/data",
    health_path="/health/ready",
    health_host="shop.example",
    memory="512m",
    cpus=1.0,
    pids=200,
    stop_timeout=30,
    scheduled_tasks=[ScheduledTask("tidy", ["tidy"], "daily", 600)],
)
NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


def release(name: str, predecessor: str | None = None, served: bool = True) -> Release:
    """Return a record; names sort as ids do."""
    return Release(
        id=name,
        app="shop-staging",
        spec=SPEC,
        fingerprint="f",
        created_at="2026-11-22T10:15:00Z",
        created_by="alice",
        commit="",
        predecessor=predecessor,
        live_at="2026-11-22T10:16:00Z" if served else None,
    )


def chain(*names: str) -> dict[str, Release]:
    """Return releases that went live one after the other."""
    return {name: release(name, before) for before, name in zip((None, *names), names, strict=False)}


def live(name: str, slot: int = 0) -> Live:
    """Return *name* as what serves."""
    return Live(name, slot, "2026-11-22T10:16:00Z", "alice")


def test_record_survives_its_file():
    record = release("a", "b")
    assert Release.from_json(record.to_json()) == record


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"spec": {}}', "nonsense"])
def test_damaged_record_is_named_as_such(text):
    with pytest.raises(ValueError):
        Release.from_json(text)


def test_live_survives_its_file_and_is_an_environment_file():
    assert Live.from_text(live("a", 1).to_text()) == live("a", 1)
    assert "RELEASE=a\n" in live("a").to_text()


def test_ids_sort_by_time_and_name_the_version():
    first = new_id(NOW, "1.0.0")
    assert first == "20261122T101500Z-1.0.0"
    assert new_id(NOW.replace(second=1), "0.9") > first


def test_two_releases_in_one_second_have_two_ids():
    first = new_id(NOW, "1.0.0")
    assert new_id(NOW, "1.0.0", taken=[first]) != first


@pytest.mark.parametrize(
    ("env", "secrets", "spec"),
    [
        ({"A": "2"}, {"S": "s"}, SPEC),
        ({"A": "1"}, {"S": "t"}, SPEC),
        ({"A": "1", "B": ""}, {"S": "s"}, SPEC),
        ({"A": "1"}, {"S": "s"}, replace(SPEC, memory="1g")),
        ({"A": "1"}, {"S": "s"}, replace(SPEC, digest="sha256:" + "1" * 64)),
    ],
)
def test_any_difference_makes_another_release(env, secrets, spec):
    assert fingerprint(spec, env, secrets) != fingerprint(SPEC, {"A": "1"}, {"S": "s"})


def test_order_of_variables_makes_no_difference():
    assert fingerprint(SPEC, {"A": "1", "B": "2"}, {}) == fingerprint(SPEC, {"B": "2", "A": "1"}, {})


def test_slots_alternate():
    assert free_slot(None) == 0
    assert free_slot(live("a", 0)) == 1
    assert free_slot(live("a", 1)) == 0


def test_rollback_goes_to_the_release_that_served_before():
    assert rollback_target(chain("a", "b", "c"), live("c"), None).id == "b"


def test_a_second_rollback_goes_one_further_back_and_does_not_swing():
    assert rollback_target(chain("a", "b", "c"), live("b"), None).id == "a"


def test_a_deploy_after_a_rollback_goes_back_to_what_it_replaced():
    records = chain("a", "b", "c")
    records["d"] = release("d", "a")
    assert rollback_target(records, live("d"), None).id == "a"


def test_rollback_beyond_the_first_release_says_what_there_is():
    with pytest.raises(ValueError, match=r"no release served before a; releases to go back to: c, b"):
        rollback_target(chain("a", "b", "c"), live("a"), None)


@pytest.mark.parametrize("wanted", ["unknown", "failed"])
def test_rollback_to_what_never_served_is_refused_with_the_list(wanted):
    records = chain("a", "b") | {"failed": release("failed", served=False)}
    with pytest.raises(ValueError, match=r"is not on this host; releases to go back to: a "):
        rollback_target(records, live("b"), wanted)


def test_rollback_before_any_release_names_the_next_step():
    with pytest.raises(ValueError, match=r"deploy\.yml"):
        rollback_target({}, None, None)


def test_retention_keeps_the_newest():
    assert prunable(chain("a", "b", "c", "d"), live("d"), keep=2) == ["a", "b"]


def test_failed_releases_do_not_push_out_those_to_go_back_to():
    records = chain("a", "b") | {name: release(name, served=False) for name in ("x1", "x2", "x3")}
    assert prunable(records, live("b"), keep=2) == ["x1", "x2", "x3"]


def test_retention_keeps_what_a_rollback_from_an_old_release_needs():
    # Rolled back from d to b: the next rollback goes to a, although c and d are newer.
    assert prunable(chain("a", "b", "c", "d"), live("b"), keep=2) == ["c", "d"]


def test_retention_never_removes_what_serves():
    assert prunable(chain("a", "b"), live("a"), keep=1) == ["b"]


def test_environment_survives_its_file():
    env = {"B": "x=y z", "A": ""}
    assert parse_env(env_text(env)) == env


@pytest.mark.parametrize("env", [{"1A": "x"}, {"A B": "x"}, {"": "x"}, {"A": "two\nlines"}])
def test_what_an_env_file_cannot_carry_is_refused(env):
    with pytest.raises(ValueError):
        env_text(env)


def test_description_shows_no_environment_and_no_fingerprint():
    assert not {"env", "secrets", "fingerprint", "spec"} & set(describe(release("a")))
