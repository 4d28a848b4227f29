"""What an operator sees of backups: live data comes back, and every failure says so and harms nothing."""

import json
import re
import shlex
import time
import uuid

import pytest

testinfra_hosts = ["ansible://app_hosts"]

PROGRAM = "/usr/local/lib/gantry/backup"
STATE = "/var/lib/gantry/demo/backup.json"
DATA = "/var/lib/gantry/demo/data"
AS_APPLICATION = "setpriv --reuid=10001 --regid=10001 --clear-groups"
WORK = "/var/lib/gantry/demo/backup"

# Each transaction adds one row to both tables: a copy of half a transaction shows.
WRITER = f"""
import pathlib, sqlite3, time
database = sqlite3.connect("{DATA}/db.sqlite3", timeout=60, isolation_level=None)
database.execute("PRAGMA journal_mode=WAL")
database.execute("PRAGMA synchronous=OFF")
database.executescript("CREATE TABLE IF NOT EXISTS a (v); CREATE TABLE IF NOT EXISTS b (v);")
number = 0
while True:
    rows = f"INSERT INTO a VALUES (hex(randomblob(200))); INSERT INTO b VALUES ({{number}});"
    database.executescript(f"BEGIN; {{rows}} COMMIT;")
    if number % 500 == 0:
        pathlib.Path(f"{DATA}/media/{{number}}.bin").write_bytes(bytes(1000))
    number += 1
    time.sleep(0.001)
"""
COUNT = f"""
import sqlite3
database = sqlite3.connect("{DATA}/db.sqlite3", timeout=60)
one = lambda query: database.execute(query).fetchone()[0]
print(one("PRAGMA integrity_check"), one("SELECT count(*) FROM a"), one("SELECT count(*) FROM b"))
"""


def sudo(host, command, accept=0):
    """Run a shell command as root and return its result; *accept* is the exit code it has to end with."""
    result = host.run(f"sudo sh -c {shlex.quote(command)}")
    assert accept is None or result.rc == accept, f"{command}: {result.rc}\n{result.stdout}\n{result.stderr}"
    return result


def python(host, text):
    """Run a Python program on the host as the application's user and return what it prints."""
    return sudo(host, f"{AS_APPLICATION} python3 -c {shlex.quote(text)}").stdout.strip()


def count(host):
    """Return SQLite's own verdict on the live database, and the rows of both tables."""
    verdict, first, second = python(host, COUNT).split()
    return verdict, int(first), int(second)


def state(host):
    """Return the state file's content."""
    return json.loads(sudo(host, f"cat {STATE}").stdout)


def wait_until(condition, seconds=60):
    """Wait until *condition* holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def cron_command(host):
    """Return what cron runs, as it stands in the cron file."""
    line = sudo(host, "grep ' root ' /etc/cron.d/gantry-backup-demo").stdout.strip()
    return re.sub(r"^(\S+ ){5}root ", "", line)


def run_as_cron_does(host):
    """Run the cron file's command in the environment that cron gives it."""
    return sudo(
        host,
        f"cd /root && env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root sh -c {shlex.quote(cron_command(host))}",
    )


def snapshots(host):
    """Return the ids of the repository's snapshots."""
    return [one["snapshot"] for one in json.loads(sudo(host, f"{PROGRAM} list demo --json").stdout)]


@pytest.fixture
def variant(host):
    """Return a function that makes a second set of settings for the same data and returns its name."""
    made = []

    def make(repository=None, password=None, **changes):
        name = f"variant-{uuid.uuid4().hex[:8]}"
        made.append(name)
        base = "/etc/gantry/backup"
        settings = json.loads(sudo(host, f"cat {base}/demo.json").stdout) | changes
        settings |= {"state_file": f"/var/lib/gantry/demo/{name}.json"}
        for key, value in (("repository_file", repository), ("password_file", password)):
            if value:
                settings[key] = f"{base}/{name}.{key}"
                sudo(host, f"umask 077; echo {shlex.quote(value)} > {settings[key]}")
        sudo(host, f"umask 077; echo {shlex.quote(json.dumps(settings))} > {base}/{name}.json")
        return name

    yield make
    for name in made:
        sudo(host, f"rm -f /etc/gantry/backup/{name}.* /var/lib/gantry/demo/{name}.json")


@pytest.fixture
def data(host):
    """Give the application fresh data: a database with a thousand rows and an uploaded file."""
    sudo(host, f"rm -rf {DATA} && install -d -o 10001 -g 10001 {DATA} {DATA}/media {DATA}/media/2026")
    python(host, WRITER.replace("while True:", "while number < 1000:"))
    python(host, f"import pathlib; pathlib.Path('{DATA}/media/2026/donor card é.txt').write_text('O negative')")
    yield
    sudo(host, f"rm -rf {WORK}/replaced")


@pytest.fixture
def writer(host, data):
    """Run an application that writes without a pause; return a function that kills it as a power cut would."""
    name = f"writer-{uuid.uuid4().hex[:8]}"
    program = f"/run/{name}.py"
    sudo(host, f"echo {shlex.quote(WRITER)} > {program}")
    sudo(host, f"systemd-run --quiet --unit={name} {AS_APPLICATION} python3 {program}")
    wait_until(lambda: count(host)[1] > 1200)

    def kill():
        sudo(host, f"systemctl kill --signal=KILL {name}", accept=None)
        wait_until(lambda: host.run(f"systemctl is-active {name}").rc != 0)
        sudo(host, f"systemctl reset-failed {name}", accept=None)

    yield kill
    kill()
    sudo(host, f"rm {program}")


def test_data_written_during_the_backup_comes_back_whole(host, writer):
    before = count(host)[1]
    run_as_cron_does(host)
    snapshot = state(host)
    assert snapshot["result"] == "success", snapshot
    assert snapshot["bytes"] > 0
    assert snapshot["snapshot"] == snapshots(host)[-1]
    writer()
    after = count(host)[1]
    assert after > before, "nothing was written meanwhile: this proves nothing"
    sudo(host, f"rm -rf {DATA}")

    sudo(host, f"{PROGRAM} restore demo --in-place")

    verdict, first, second = count(host)
    assert verdict == "ok"
    assert first == second
    assert before <= first <= after
    assert python(host, f"print(open('{DATA}/media/2026/donor card é.txt').read())") == "O negative"
    owners = sudo(host, f"find {DATA} -printf '%U:%G\\n' | sort -u").stdout.split()
    assert owners == ["10001:10001"]
    log = sudo(host, "journalctl --quiet --output=cat --identifier=gantry-backup-demo").stdout
    assert f"done: snapshot {snapshot['snapshot']}" in log


def test_a_restore_is_not_spoilt_by_the_journal_of_the_data_it_replaces(host, writer):
    sudo(host, f"{PROGRAM} backup demo")
    writer()  # leaves a write-ahead log beside the database
    assert host.run(f"sudo test -s {DATA}/db.sqlite3-wal").rc == 0
    sudo(host, f"{AS_APPLICATION} touch {DATA}/media/later.txt")

    output = sudo(host, f"{PROGRAM} restore demo --in-place").stdout

    verdict, first, second = count(host)
    assert verdict == "ok"
    assert first == second
    assert host.run(f"sudo test -e {DATA}/media/later.txt").rc == 1
    kept = re.search(r"kept: what was replaced is in (\S+);", output)[1]
    assert host.run(f"sudo test -s {kept}{DATA}/db.sqlite3-wal").rc == 0
    assert host.run(f"sudo test -e {kept}{DATA}/media/later.txt").rc == 0


@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_a_repository_out_of_reach_is_an_error_in_time(host, data, variant, kind):
    unit = f"silent-{uuid.uuid4().hex[:8]}"
    if kind == "silent":  # accepts a connection and never says a word
        listen = (
            "import socket, time; s = socket.create_server(('127.0.0.1', 8999)); c = [s.accept() for _ in range(9)]"
        )
        sudo(host, f"systemd-run --quiet --unit={unit} python3 -c {shlex.quote(listen)}")
        wait_until(lambda: host.socket("tcp://127.0.0.1:8999").is_listening)
    port = {"refused": 9, "silent": 8999}[kind]
    name = variant(repository=f"rest:http://someone:s3cret@127.0.0.1:{port}/x", timeout=10)
    begun = time.monotonic()
    result = sudo(host, f"{PROGRAM} backup {name}", accept=1)
    assert time.monotonic() - begun < 30
    sudo(host, f"systemctl stop {unit}", accept=None)
    seen = json.loads(sudo(host, f"cat /var/lib/gantry/demo/{name}.json").stdout)
    assert seen["result"] == "failed"
    assert seen["last_success"] is None
    assert seen["error"]["step"] == "repository"
    assert seen["error"]["reason"] == "unreachable"
    assert "backup_repository_url" in result.stderr
    assert "s3cret" not in result.stderr + json.dumps(seen)


def test_a_wrong_password_is_told_and_overwrites_nothing(host, data, variant):
    sudo(host, f"{PROGRAM} backup demo")
    before = count(host)
    kept = snapshots(host)
    name = variant(password="not the one")
    for command in ("backup", "restore --in-place"):
        assert "backup_repository_password" in sudo(host, f"{PROGRAM} {command} {name}", accept=1).stderr
    assert count(host) == before
    assert snapshots(host) == kept


def test_of_two_at_once_one_waits_or_gives_up(host, data, variant):
    hasty = variant(lock_timeout=0)
    sudo(host, f"systemd-run --quiet --unit=first {PROGRAM} backup demo")
    wait_until(
        lambda: (
            sudo(host, f"grep -c process {WORK}/lock", accept=None).stdout.strip() == "1"
            and state(host)["result"] == "running"
        )
    )
    refused = sudo(host, f"{PROGRAM} backup {hasty}", accept=75)
    assert "another run" in refused.stderr
    sudo(host, f"{PROGRAM} backup demo")  # waits for the first
    assert host.run("systemctl is-active first").stdout.strip() != "active"
    assert state(host)["result"] == "success"


def test_the_run_after_a_killed_one_works(host, data):
    sudo(host, f"systemd-run --quiet --unit=killed {PROGRAM} backup demo")
    wait_until(lambda: host.run("pgrep --exact restic").rc == 0)
    sudo(host, "systemctl kill --signal=KILL --kill-whom=main killed", accept=None)
    wait_until(lambda: host.run("pgrep --exact restic").rc == 1, seconds=5)
    sudo(host, "systemctl reset-failed killed", accept=None)
    assert state(host)["result"] == "running"
    sudo(host, f"{PROGRAM} backup demo")
    assert state(host)["result"] == "success"
    assert sudo(host, f"ls {WORK}").stdout.split() == ["lock"]


def test_the_retention_decides_how_many_are_kept(host, data, variant):
    two = variant(name="demo", retention={"last": 2})
    for _ in range(3):
        sudo(host, f"{PROGRAM} backup {two}")
    assert len(snapshots(host)) == 2
    sudo(host, f"{PROGRAM} backup {variant(name='demo', retention={'last': 1})}")
    assert len(snapshots(host)) == 1


def test_no_secret_shows_in_the_process_list(host, data):
    login = sudo(host, "cat /etc/gantry/backup/demo.repository").stdout.strip()
    secrets = [sudo(host, "cat /etc/gantry/backup/demo.password").stdout.strip(), login.split("@")[0].split(":")[-1]]
    sudo(host, f"systemd-run --quiet --unit=watched {PROGRAM} backup demo")
    seen = ""
    while host.run("systemctl is-active watched").stdout.strip() == "active":
        seen += sudo(
            host, "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'", accept=None
        ).stdout
    assert "--password-file" in seen
    assert not [one for one in secrets if one in seen]
    assert state(host)["result"] == "success"


def test_only_root_reads_the_settings(host):
    assert host.run("sudo -u nobody ls /etc/gantry/backup").rc != 0
    assert host.run(f"sudo -u nobody ls {WORK}").rc != 0
    assert host.run(f"sudo -u nobody cat {STATE}").rc == 0
