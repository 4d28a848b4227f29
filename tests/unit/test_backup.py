"""The backup program without restic: what it decides, how it copies a database and how it exchanges data."""

import importlib.util
import json
import os
import sqlite3
import stat
import sys
import threading
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "roles" / "backup" / "files" / "backup.py"
specification = importlib.util.spec_from_file_location("gantry_backup", SOURCE)
assert specification is not None
assert specification.loader is not None
backup = importlib.util.module_from_spec(specification)
sys.modules["gantry_backup"] = backup
specification.loader.exec_module(backup)


@pytest.fixture
def settings(tmp_path):
    """Settings of a backup of one database and one folder, all of it below *tmp_path*."""
    values = {
        "name": "demo",
        "host": "web-1",
        "sqlite_databases": [f"{tmp_path}/data/db.sqlite3"],
        "paths": [f"{tmp_path}/data/media"],
        "repository_file": f"{tmp_path}/repository",
        "password_file": f"{tmp_path}/password",
        "ca_certificate_file": None,
        "retention": {"daily": 7},
        "timeout": 60,
        "lock_timeout": 0,
        "state_file": f"{tmp_path}/backup.json",
        "release_lock": f"{tmp_path}/lock",
        "work_directory": f"{tmp_path}/work",
        "cache_directory": f"{tmp_path}/cache",
        "stop_timeout": 1,
        "health_path": None,
        "health_host": None,
        "health_timeout": 5,
    }
    (tmp_path / "demo.json").write_text(json.dumps(values))
    (tmp_path / "repository").write_text("rest:https://web:s3cr3t-login@backup.example:8000/web/demo\n")
    (tmp_path / "password").write_text("s3cr3t-password\n")
    (tmp_path / "work").mkdir()
    return backup.load_settings("demo", tmp_path)


@pytest.fixture
def database(tmp_path):
    """A database with 100 rows in its write-ahead log, that a connection holds open."""
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "db.sqlite3"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE rows (value)")
    connection.executemany("INSERT INTO rows VALUES (?)", [(number,) for number in range(100)])
    connection.commit()
    yield file
    connection.close()


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Return a function that puts a shell script in the place of a program of the host; it appends to ``calls``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setitem(backup.ENVIRONMENT, "PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name, script):
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{script}\n')
        (folder / name).chmod(0o755)

    return make


def rows(file):
    with sqlite3.connect(file) as connection:
        return connection.execute("SELECT count(*) FROM rows").fetchone()[0]


def snapshot(key, host, time):
    return {"id": key, "hostname": host, "time": time}


SNAPSHOTS = [
    snapshot("aaaa1111", "web-1", "2026-11-20T03:17:00.123456789+01:00"),
    snapshot("aaaa2222", "web-1", "2026-11-21T03:17:00.5Z"),
    snapshot("bbbb3333", "web-2", "2026-11-22T03:17:00Z"),
]


def test_latest_is_the_newest_of_this_host():
    assert backup.choose_snapshot(SNAPSHOTS, "latest", "web-1")["id"] == "aaaa2222"


def test_an_id_may_be_of_any_host():
    assert backup.choose_snapshot(SNAPSHOTS, "bbbb", "web-1")["id"] == "bbbb3333"


@pytest.mark.parametrize(
    ("wanted", "host", "message"),
    [
        ("aaaa", "web-1", "2 snapshots begin with aaaa"),
        ("cccc", "web-1", "no snapshot cccc"),
        ("latest", "web-3", "no snapshot of web-3 in the repository; it holds: aaaa1111 (web-1, 2026-11-20T02:17:00Z)"),
    ],
)
def test_an_unclear_wish_lists_what_there_is(wanted, host, message):
    with pytest.raises(backup.BackupError, match="bbbb3333") as error:
        backup.choose_snapshot(SNAPSHOTS, wanted, host)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        (1, "Fatal: wrong password or no key found", "password"),
        (12, "", "password"),
        (11, "", "locked"),
        (1, "unable to create lock in backend: repository is already locked exclusively by PID 7", "locked"),
        (1, "Fatal: unable to open config file: unexpected HTTP response (401): 401 Unauthorized", "login"),
        (1, "Head: x509: certificate signed by unknown authority\nIs there a repository at", "certificate"),
        (1, "dial tcp 127.0.0.1:9: connect: connection refused\nIs there a repository at the following", "unreachable"),
        (1, "dial tcp: lookup backup.example: no such host\nIs there a repository at the following", "unreachable"),
        (1, "stat /srv/config: no such file\nIs there a repository at the following location?", "absent"),
        (10, "Fatal: repository does not exist", "absent"),
        (3, "something else", "failed"),
    ],
)
def test_the_reason_of_a_failure_is_told_apart(code, text, reason):
    assert backup.classify(code, text) == reason
    assert reason in backup.ADVICE


def test_secrets_do_not_reach_the_log():
    text = 'Head "https://web:s3cr3t-login@backup.example/": refused; tried s3cr3t-password'
    assert backup.redact(text, ["s3cr3t-password", ""]) == 'Head "https://***@backup.example/": refused; tried ***'


def test_retention_becomes_options_and_refuses_nonsense():
    assert backup.keep_options({"daily": 7, "monthly": 6}) == ["--keep-daily=7", "--keep-monthly=6"]
    for wrong in ({"dayly": 7}, {"daily": 0}):
        with pytest.raises(backup.BackupError, match="backup_retention"):
            backup.keep_options(wrong)


@pytest.mark.parametrize("name", ["other", "../etc/passwd", "Demo"])
def test_an_unknown_name_lists_the_known(settings, tmp_path, name):
    (tmp_path / "backup.json").unlink(missing_ok=True)
    with pytest.raises(backup.BackupError, match="there is: demo") as error:
        backup.load_settings(name, tmp_path)
    assert error.value.code == backup.MISCONFIGURED


def test_settings_that_lack_a_value_are_refused(tmp_path):
    (tmp_path / "demo.json").write_text('{"name": "demo"}')
    with pytest.raises(backup.BackupError, match=r"run provision\.yml"):
        backup.load_settings("demo", tmp_path)


def test_a_copy_has_what_is_only_in_the_log_yet_and_the_mode(database, tmp_path):
    database.chmod(0o640)
    copy = tmp_path / "copy" / "db.sqlite3"
    backup.copy_database(database, copy, backup.Deadline(60))
    assert rows(copy) == 100
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640
    backup.check_database(copy)


def test_a_copy_under_writes_is_of_one_moment(tmp_path):
    source = tmp_path / "db.sqlite3"
    with sqlite3.connect(source) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript("CREATE TABLE a (v); CREATE TABLE b (v);")
    done = threading.Event()

    def write():
        writer = sqlite3.connect(source, timeout=60, isolation_level=None)
        while not done.is_set():
            writer.executescript("BEGIN; INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); COMMIT;")
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(5):
            copy = tmp_path / f"copy-{number}"
            backup.copy_database(source, copy, backup.Deadline(60))
            with sqlite3.connect(copy) as connection:
                assert len(set(connection.execute("SELECT count(*) FROM a UNION ALL SELECT count(*) FROM b"))) == 1
    finally:
        done.set()
        thread.join()


def test_waiting_for_a_locked_database_ends_at_the_deadline(tmp_path):
    plain = tmp_path / "plain.sqlite3"
    with sqlite3.connect(plain) as connection:
        connection.execute("CREATE TABLE rows (value)")
    holder = sqlite3.connect(plain, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(backup.BackupError, match="locked"):
        backup.copy_database(plain, tmp_path / "copy", backup.Deadline(0.5))
    holder.close()


def test_a_damaged_database_is_noticed(database, tmp_path):
    copy = tmp_path / "copy.sqlite3"
    backup.copy_database(database, copy, backup.Deadline(60))
    content = bytearray(copy.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    copy.write_bytes(content)
    with pytest.raises(backup.BackupError, match="damaged") as error:
        backup.check_database(copy)
    assert error.value.reason == "corrupt"


def test_a_folder_may_be_missing_until_it_has_been_backed_up(settings, database):
    assert backup.present_sources(settings, []) == settings.sqlite_databases
    with pytest.raises(backup.BackupError, match="media does not exist"):
        backup.present_sources(settings, settings.targets)


def test_a_missing_database_and_a_link_are_errors(settings, database, tmp_path):
    (tmp_path / "data" / "media").symlink_to("/etc")
    with pytest.raises(backup.BackupError, match="media is not a folder"):
        backup.present_sources(settings, [])
    database.unlink()
    with pytest.raises(backup.BackupError, match=r"db\.sqlite3 does not exist"):
        backup.present_sources(settings, [])


def test_only_files_that_are_still_there_count_as_unread(tmp_path):
    (tmp_path / "kept").touch()

    def output(name):
        return json.dumps({"message_type": "error", "item": str(tmp_path / name)})

    backup.refuse_unread(output("gone") + "\nplain text\n")
    with pytest.raises(backup.BackupError, match="1 file"):
        backup.refuse_unread(output("gone") + "\n" + output("kept"))


def fetched_items(settings, tmp_path):
    """Return fetched data as ``fetch`` does: a database and a folder."""
    fetched = tmp_path / "work" / "tmp"
    (fetched / "media").mkdir(parents=True)
    (fetched / "media" / "card.txt").write_text("restored")
    (fetched / "db.sqlite3").write_text("restored")
    folder = {"uid": os.getuid(), "gid": os.getgid(), "mode": 0o750}
    live = [Path(path) for path in settings.targets]
    return [
        backup.Item(fetched / "db.sqlite3", live[0], folder, True),
        backup.Item(fetched / "media", live[1], folder, False),
    ]


def test_an_exchange_keeps_what_it_replaces_with_its_journals(settings, tmp_path):
    data = tmp_path / "data"
    (data / "media").mkdir(parents=True)
    (data / "media" / "new.txt").write_text("live")
    for name in ("db.sqlite3", "db.sqlite3-wal", "db.sqlite3-shm"):
        (data / name).write_text("live")
    backup.exchange(fetched_items(settings, tmp_path), tmp_path / "aside")
    assert sorted(path.name for path in data.rglob("*")) == ["card.txt", "db.sqlite3", "media"]
    assert (data / "db.sqlite3").read_text() == "restored"
    kept = Path(f"{tmp_path}/aside{data}")
    assert sorted(path.name for path in kept.rglob("*")) == [
        *("db.sqlite3", "db.sqlite3-shm", "db.sqlite3-wal"),
        *("media", "new.txt"),
    ]


def test_an_exchange_into_nothing_makes_the_folder_as_it_was(settings, tmp_path):
    backup.exchange(fetched_items(settings, tmp_path), tmp_path / "aside")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o750
    assert not (tmp_path / "aside").exists()


def test_an_exchange_that_fails_half_way_leaves_all_as_it_was(settings, tmp_path):
    data = tmp_path / "data"
    (data / "media").mkdir(parents=True)
    (data / "db.sqlite3").write_text("live")
    (data / "db.sqlite3-wal").write_text("live")
    items = fetched_items(settings, tmp_path)
    items[1] = backup.Item(tmp_path / "missing", items[1].live, items[1].folder, False)
    with pytest.raises(FileNotFoundError):
        backup.exchange(items, tmp_path / "aside")
    assert sorted(path.name for path in data.iterdir()) == ["db.sqlite3", "db.sqlite3-wal", "media"]
    assert (data / "db.sqlite3").read_text() == "live"


def test_data_of_another_instance_is_not_put_in_place(settings, tmp_path):
    items = fetched_items(settings, tmp_path)
    items[0] = backup.Item(items[0].fetched, tmp_path / "elsewhere", items[0].folder, True)
    with pytest.raises(backup.BackupError, match="not part of demo"):
        backup.require_movable(settings, items)


DOCKER = """
case "$1" in
  ps) echo web old task ;;
  inspect) case "$2" in
    --format*)
      echo web /demo-web true unless-stopped
      echo old /demo-old false unless-stopped
      echo task /demo-task true no ;;
    *) echo '[{"State": {"Running": true, "Restarting": false}, "NetworkSettings": {"Ports": {}}}]' ;;
  esac ;;
esac
"""
SYSTEMCTL = 'if [ "$1" = list-units ]; then echo "gantry-demo-task-hourly.timer loaded active waiting x"; fi'


def changes(tmp_path):
    """Return the calls that change something."""
    calls = (tmp_path / "calls").read_text().splitlines()
    return [call for call in calls if call.split()[1] in ("stop", "start")]


@pytest.mark.parametrize("fails", [False, True])
def test_what_ran_is_stopped_for_the_exchange_and_runs_again_however_it_ends(settings, tmp_path, program, fails):
    program("docker", DOCKER)
    program("systemctl", SYSTEMCTL)
    try:
        with backup.stopped(settings, backup.Deadline(10)):
            assert changes(tmp_path) == [
                "systemctl stop gantry-demo-task-hourly.timer",
                "docker stop --time=1 web task",
            ]
            if fails:
                raise OSError("no space left")
    except OSError:
        assert fails
    assert changes(tmp_path)[2:] == ["docker start web", "systemctl start gantry-demo-task-hourly.timer"]
    assert not (tmp_path / "work" / "stopped.json").exists()


def test_a_run_after_a_killed_restore_starts_what_that_one_stopped(settings, tmp_path, program):
    program("docker", DOCKER)
    program("systemctl", "")
    (tmp_path / "work" / "stopped.json").write_text('{"containers": ["old"], "timers": ["gantry-demo-task-x.timer"]}')
    with backup.stopped(settings, backup.Deadline(10)):
        pass
    assert changes(tmp_path)[-2:] == ["docker start web old", "systemctl start gantry-demo-task-x.timer"]


def test_a_command_ends_with_its_time(tmp_path, program):
    program("slow", "exec sleep 60")
    with pytest.raises(backup.subprocess.TimeoutExpired):
        backup.run(["slow"], 0.3)


def test_a_second_run_is_refused_and_leaves_the_state_alone(settings, tmp_path):
    with backup.locked(settings), pytest.raises(backup.BackupError, match="another run") as error:
        backup.back_up(settings)
    assert error.value.code == backup.BUSY
    assert not (tmp_path / "backup.json").exists()


def test_a_failed_run_is_in_the_state_and_keeps_the_last_success(settings, tmp_path, program):
    program("restic", "echo 'Fatal: wrong password or no key found' >&2; exit 1")
    earlier = {"last_success": "2026-11-20T03:17:00Z", "snapshot": "aaaa1111", "bytes": 5}
    (tmp_path / "backup.json").write_text(json.dumps(earlier))
    with pytest.raises(backup.BackupError):
        backup.back_up(settings)
    state = json.loads((tmp_path / "backup.json").read_text())
    assert state["result"] == "failed"
    assert (state["error"]["step"], state["error"]["reason"]) == ("repository", "password")
    assert {key: state[key] for key in earlier} == earlier


def test_a_repository_that_has_gone_is_not_silently_made_anew(settings, tmp_path, program):
    program("restic", "echo 'Is there a repository at the following location?' >&2; exit 1")
    (tmp_path / "backup.json").write_text('{"last_success": "2026-11-20T03:17:00Z"}')
    with pytest.raises(backup.BackupError, match="is gone"):
        backup.back_up(settings)
    assert "restic init" not in (tmp_path / "calls").read_text()
