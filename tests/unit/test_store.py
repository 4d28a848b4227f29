"""The files of releases on a host."""

import multiprocessing

import pytest
from ansible.module_utils.gantry.store import Store, StoreError, write
from test_releases import live, release


@pytest.fixture
def store(tmp_path):
    return Store("shop-staging", tmp_path / "state", tmp_path / "run", tmp_path)


def test_a_release_is_read_back_with_its_environment(store):
    store.add(release("a"), {"A": "1"}, {"KEY": "s3cret\nwith lines"})
    assert store.records() == {"a": release("a")}
    assert store.env("a") == {"A": "1"}
    assert store.secret_values("a") == ["s3cret\nwith lines"]


def test_only_root_reads_a_release(store):
    store.add(release("a"), {"A": "1"}, {"KEY": "s3cret"})
    folder = store.folder("a")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o600}


def test_the_record_itself_has_no_secret(store):
    store.add(release("a"), {}, {"KEY": "s3cret"})
    assert "s3cret" not in (store.folder("a") / "record.json").read_text()


def test_a_folder_without_a_record_is_nothing(store):
    store.folder("cut-off").mkdir(parents=True)
    assert store.records() == {}


def test_a_damaged_record_is_named(store):
    store.add(release("a"), {}, {})
    (store.folder("a") / "record.json").write_text("{")
    with pytest.raises(StoreError, match=r"releases/a/record\.json is damaged"):
        store.records()


def test_what_serves_is_read_back(store):
    assert store.live() is None
    assert store.set_live(live("a", 1))
    assert store.live() == live("a", 1)
    assert not store.set_live(live("a", 1))


def hold(store, ready, done):
    """Hold the lock in a process of its own until told."""
    with store.lock("alice"):
        ready.set()
        done.wait(30)


def test_a_held_lock_says_by_whom_and_is_freed_with_its_process(store):
    ready, done = multiprocessing.Event(), multiprocessing.Event()
    holder = multiprocessing.Process(target=hold, args=(store, ready, done))
    holder.start()
    try:
        assert ready.wait(30)
        with pytest.raises(StoreError, match=r"is being changed by alice since .*; wait"), store.lock("bob"):
            pass
    finally:
        holder.kill()
        holder.join(30)
    with store.lock("bob"):
        assert "bob" in (store.root / "lock").read_text()


def test_writing_the_same_again_is_no_change(tmp_path):
    path = tmp_path / "file"
    assert write(path, "a", 0o600)
    assert not write(path, "a", 0o600)
    assert write(path, "a", 0o644)
    assert write(path, "b", 0o644)
    assert path.read_text() == "b"
