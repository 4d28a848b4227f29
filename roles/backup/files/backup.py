#!/usr/bin/python3
"""Back up and restore an application's SQLite databases and files with restic.

One program for cron, for people and for Ansible. What it works on is in /etc/gantry/backup/NAME.json, from the role.

A backup copies each database by SQLite's online backup interface, stores the copies and the files in one snapshot, then
proves the snapshot: the repository's structure is checked, and each database is read back, compared and checked. How it
ended is in a state file that monitoring can read. A restore checks everything it has fetched before it replaces
anything, and moves what it replaces aside.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 75 another backup or restore is at work (try again later).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CONFIGURATION = Path("/etc/gantry/backup")
FAILED, MISCONFIGURED, BUSY = 1, 2, 75
# A repository that does not answer the first, small question is not worth the whole time-out. Seconds.
PROBE_SECONDS = 60
# Between two questions whether another machine has freed the repository's lock. Seconds.
LOCK_POLL_SECONDS = 5
# A lone page copy step must not hide the deadline from us; SQLite waits this long for a writer. Seconds.
BUSY_SECONDS = 0.1
# Of every program that we start: nothing of ours is inherited.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
MANIFEST = "manifest.json"
STAGE = "gantry-stage"
SIDE_FILES = ("-wal", "-shm", "-journal")

Json = dict[str, Any]


class BackupError(Exception):
    """An error that a person can act on.

    :param message: what happened and what to do next.
    :param reason: one word for monitoring: ``unreachable``, ``password``, ``login``, ``certificate``, ``absent``,
        ``locked``, ``timeout``, ``source``, ``corrupt``, ``configuration``, ``stopped``, ``engine`` or ``failed``.
    :param code: exit code of the program.
    """

    def __init__(self, message: str, reason: str = "failed", code: int = FAILED) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code


@dataclasses.dataclass(frozen=True)
class Settings:
    """What NAME.json says. Sizes in bytes, times in seconds, paths absolute."""

    name: str
    host: str
    sqlite_databases: list[str]
    paths: list[str]
    repository_file: str
    password_file: str
    ca_certificate_file: str | None
    retention: dict[str, int]
    timeout: int
    lock_timeout: int
    state_file: str
    release_lock: str
    work_directory: str
    cache_directory: str
    stop_timeout: int
    health_path: str | None
    health_host: str | None
    health_timeout: int

    @property
    def work(self) -> Path:
        """Folder for copies and fetched snapshots; only root may look into it."""
        return Path(self.work_directory)

    @property
    def targets(self) -> list[str]:
        """Every path that a backup holds and a restore may replace."""
        return [*self.sqlite_databases, *self.paths]


def load_settings(name: str, folder: Path = CONFIGURATION) -> Settings:
    """Read the settings of a backup.

    :param name: name of the backup, such as ``dblood-staging``.
    :param folder: where NAME.json is.
    :raises BackupError: when there is no such backup, or a value is missing, unknown or not a list of absolute paths.
    """
    file = folder / f"{name}.json"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or not file.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.json"))) or "none"
        raise BackupError(
            f"no backup named {name!r} is set up on this host (there is: {known})", "configuration", MISCONFIGURED
        )
    try:
        settings = Settings(**json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise BackupError(
            f"{file}: {error}; run provision.yml to write it anew", "configuration", MISCONFIGURED
        ) from error
    wrong = [path for path in settings.targets if not os.path.isabs(path) or os.path.normpath(path) != path]
    if wrong or not settings.targets:
        what = f"not a plain absolute path: {', '.join(wrong)}" if wrong else "neither a database nor a path is named"
        raise BackupError(f"{file}: {what}", "configuration", MISCONFIGURED)
    return settings


# Decide ---------------------------------------------------------------------------------------------------------------


def classify(code: int, text: str) -> str:
    """Tell why restic failed, in one word.

    restic 0.14 exits 1 for everything and says the reason in words; 0.17 and later have exit codes for some.

    :param code: restic's exit code.
    :param text: what restic wrote to standard error.
    """
    if code == 12 or "wrong password or no key found" in text:
        return "password"
    if code == 11 or "already locked" in text:
        return "locked"
    for reason, pattern in (
        ("login", r"\b40[13]\b.*(?:Unauthorized|Forbidden)|Permission denied \(|permission denied"),
        ("certificate", r"x509:|tls: |certificate"),
        (
            "unreachable",
            r"connection refused|no such host|i/o timeout|no route to host|network is unreachable|"
            r"connection reset|deadline exceeded|server misbehaving|\b50[0-9]\b|EOF",
        ),
    ):
        if re.search(pattern, text):
            return reason
    if code == 10 or "Is there a repository at the following location" in text:
        return "absent"
    return "failed"


ADVICE = {
    "password": "the repository exists but does not open with this password; nothing was changed. "
    "Is backup_repository_password the one that the repository was made with?",
    "locked": "another machine holds the repository's lock; try again when it has finished",
    "login": "the backup server refused the login or the access; see backup_server_username and backup_server_password",
    "certificate": "the backup server's certificate is not accepted; see backup_ca_certificate",
    "unreachable": "the repository cannot be reached; see backup_repository_url, the network and the backup server",
    "absent": "there is no repository at this address yet; the first backup makes it",
    "failed": "restic failed",
}


def redact(text: str, secrets: list[str]) -> str:
    """Return *text* without the *secrets*, longest first, and without the login part of any address."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"(?<=://)[^/\s@]+@", "***@", text)


def choose_snapshot(snapshots: list[Json], wanted: str, host: str) -> Json:
    """Pick the snapshot to restore.

    :param snapshots: as printed by ``restic snapshots --json``.
    :param wanted: ``latest``, or the beginning of a snapshot's id.
    :param host: ``latest`` means the newest of this host; an id may be of any host.
    :raises BackupError: when there is none, or the beginning fits several.
    """
    if wanted == "latest":
        found = sorted((one for one in snapshots if one["hostname"] == host), key=lambda one: moment(one["time"]))[-1:]
        what = f"no snapshot of {host}"
    else:
        found = [one for one in snapshots if one["id"].startswith(wanted)]
        what = f"no snapshot {wanted}"
    if len(found) != 1:
        what = f"{len(found)} snapshots begin with {wanted}" if found else what
        known = ", ".join(f"{one['id'][:8]} ({one['hostname']}, {when(one)})" for one in snapshots) or "none"
        raise BackupError(f"{what} in the repository; it holds: {known}", "absent")
    return found[0]


def moment(text: str) -> datetime:
    """Return restic's time stamp, which may have nanoseconds, as a time with its zone."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.replace("Z", "+00:00")))


def when(snapshot: Json) -> str:
    """Return a snapshot's time in UTC, to the second."""
    return utc(moment(snapshot["time"]))


def utc(time_: datetime) -> str:
    """Return a time in UTC, to the second, as in ``2026-11-22T03:17:00Z``."""
    return time_.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def keep_options(retention: dict[str, int]) -> list[str]:
    """Return the options of ``restic forget`` for ``{daily: 7, ...}``.

    :raises BackupError: when a period is not known to restic or a number is not positive.
    """
    for period, number in retention.items():
        if period not in ("last", "hourly", "daily", "weekly", "monthly", "yearly") or number < 1:
            raise BackupError(f"backup_retention: {period}: {number} is not possible", "configuration", MISCONFIGURED)
    return [f"--keep-{period}={number}" for period, number in retention.items()]


def messages(output: str) -> Iterator[Json]:
    """Yield the JSON objects among the lines of *output*; restic mixes them with plain text."""
    for line in output.splitlines():
        with contextlib.suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict):
                yield message


# Run ------------------------------------------------------------------------------------------------------------------


class Deadline:
    """The moment at which a run has to be over.

    :param seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds that are left, not below 0."""
        return max(0.0, self._end - time.monotonic())

    def check(self, doing: str) -> None:
        """Raise BackupError when the time is over, naming what was being done."""
        if not self.remaining():
            raise BackupError(f"not finished after {self.seconds:.0f} s, while {doing}; see backup_timeout", "timeout")


def run(command: list[str], seconds: float, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run a command that is sure to end: with the time-out, and with this program however it ends.

    :param command: program and arguments; no secret may be among them.
    :param seconds: time-out.
    :param stdout: where the output goes; the default collects it.
    :raises subprocess.TimeoutExpired: with what the command had written; it has been stopped.
    """
    process = subprocess.Popen(  # the kernel ends it when we are killed, so that none works on without a time-out
        ["setpriv", "--pdeathsig", "KILL", *command],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=ENVIRONMENT,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as expired:
        _, expired.stderr = _stop(process)
        raise
    except BaseException:
        _stop(process)
        raise
    return subprocess.CompletedProcess(command, process.returncode, output or "", errors)


def _stop(process: subprocess.Popen[str]) -> tuple[Any, Any]:
    process.send_signal(signal.SIGINT)  # restic removes its lock on this one, in all versions
    try:
        return process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


class Restic:
    """restic on the repository of a backup.

    :param settings: of the backup.
    :param deadline: of the whole run.
    """

    def __init__(self, settings: Settings, deadline: Deadline) -> None:
        self.deadline = deadline
        self._settings = settings
        self._secrets = []
        for file in (settings.repository_file, settings.password_file):
            self._secrets.append(Path(file).read_text().strip())
        certificate = ["--cacert", settings.ca_certificate_file] if settings.ca_certificate_file else []
        self._command = [
            "restic",
            "--repository-file",
            settings.repository_file,
            "--password-file",
            settings.password_file,
            "--cache-dir",
            settings.cache_directory,
            *certificate,
        ]

    @property
    def address(self) -> str:
        """Address of the repository without its login."""
        return re.sub(r"(?<=://)[^/\s@]+@", "", self._secrets[0])

    def __call__(
        self,
        *arguments: str,
        accept: tuple[int, ...] = (0,),
        limit: float | None = None,
        stdout: Any = subprocess.PIPE,
        wait: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a restic command; while another machine has the repository locked, wait for it.

        :param accept: exit codes that are no error.
        :param limit: seconds for this command, if less than what is left of the run.
        :param wait: whether to wait for a lock.
        :raises BackupError: when it fails or takes too long.
        """
        waiting = Deadline(self._settings.lock_timeout if wait else 0)
        while True:
            seconds = min(limit or self.deadline.remaining(), self.deadline.remaining())
            try:
                result = run([*self._command, *arguments], seconds, stdout)
            except subprocess.TimeoutExpired as expired:
                said = self._last(str(expired.stderr or ""))
                # A small question without an answer, or retry after retry: nobody is there.
                reason = "unreachable" if limit or classify(1, said) == "unreachable" else "timeout"
                advice = ADVICE.get(reason, "see backup_timeout")
                raise BackupError(
                    f"restic {arguments[0]}: not finished after {seconds:.0f} s: {advice} [{said}]", reason
                ) from None
            if result.returncode in accept:
                return result
            reason = classify(result.returncode, result.stderr)
            if reason != "locked" or min(waiting.remaining(), self.deadline.remaining()) < LOCK_POLL_SECONDS:
                raise BackupError(f"restic {arguments[0]}: {ADVICE[reason]} [{self._last(result.stderr)}]", reason)
            time.sleep(LOCK_POLL_SECONDS)  # the lock is a file on a server: nothing tells when it goes

    def _last(self, text: str) -> str:
        lines = [line.strip() for line in redact(text, self._secrets).splitlines() if line.strip()]
        return " | ".join(lines[-4:])

    def probe(self) -> str | None:
        """Return the repository's id, None when there is no repository.

        :raises BackupError: when it cannot be told: unreachable, wrong password, login refused.
        """
        try:
            answer = self("cat", "config", "--no-lock", limit=PROBE_SECONDS)
        except BackupError as error:
            if error.reason == "absent":
                return None
            raise
        return str(json.loads(answer.stdout)["id"])

    def snapshots(self, name: str) -> list[Json]:
        """Return the snapshots of backup *name*, of all hosts."""
        if self.probe() is None:
            raise BackupError(f"{self.address}: {ADVICE['absent']}", "absent")
        return json.loads(self("snapshots", "--no-lock", "--json", f"--tag={name}").stdout) or []


@contextlib.contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Hold the lock that keeps two runs of a backup apart; it goes with the process that holds it.

    :raises BackupError: when another run still holds it after ``lock_timeout`` seconds.
    """
    settings.work.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (settings.work / "lock").open("a+") as file:
        waiting = Deadline(settings.lock_timeout)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting.remaining():
                    file.seek(0)
                    holder = file.read().strip() or "unknown"
                    raise BackupError(
                        f"another run on {settings.name} is at work ({holder}); nothing was done. "
                        "Try again when it has finished",
                        "locked",
                        BUSY,
                    ) from None
                time.sleep(min(1.0, waiting.remaining()))
        file.truncate(0)
        file.write(f"process {os.getpid()} since {now()}")
        file.flush()
        for leftover in (STAGE, "tmp"):  # of a run that was killed
            shutil.rmtree(settings.work / leftover, ignore_errors=True)
        yield


@contextlib.contextmanager
def temporary(folder: Path) -> Iterator[Path]:
    """Make *folder*, for root alone, and remove it at the end."""
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def now() -> str:
    """Return the present time, as ``utc`` writes it."""
    return utc(datetime.now(UTC))


def say(text: str) -> None:
    """Write a line of the log."""
    print(text, flush=True)


def read_state(file: Path) -> Json:
    """Return the state of a backup, empty before its first run or when the file is damaged."""
    try:
        state = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write_state(file: Path, state: Json) -> None:
    """Replace the state file in one step; everybody may read it, there is no secret in it."""
    write_json(file, state, 0o644)


def write_json(file: Path, value: Any, mode: int = 0o600) -> None:
    """Replace *file* by *value* as JSON in one step that survives a crash."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    with fresh.open("w") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(json.dumps(value, indent=2) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(file)


# SQLite ---------------------------------------------------------------------------------------------------------------


def copy_database(source: Path, copy: Path, deadline: Deadline) -> None:
    """Copy a database that others may be writing to, as of one moment, with its owner and mode.

    One step copies all pages under a read lock: with a write-ahead log nobody waits for it, and no amount of writing
    can make it start again, as it can with a copy in many steps.

    :raises BackupError: when the source is no SQLite database, or stays locked until the deadline.
    """

    def progress(*_: int) -> None:
        deadline.check(f"waiting for {source}, which another process has locked")

    entry = source.stat()
    copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    address = f"file:{quoted(source)}?mode=rw"  # rw: a crashed application's journal has to be rolled back first
    try:
        with (
            contextlib.closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)) as live,
            contextlib.closing(sqlite3.connect(copy)) as other,
        ):
            live.backup(other, pages=-1, progress=progress, sleep=BUSY_SECONDS)
    except sqlite3.Error as error:
        raise BackupError(f"{source} cannot be copied: {error}", "source") from error
    os.chown(copy, entry.st_uid, entry.st_gid)
    copy.chmod(stat.S_IMODE(entry.st_mode))


def quoted(path: Path) -> str:
    """Return *path* for an SQLite address, where %, ? and # have a meaning."""
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def check_database(file: Path) -> None:
    """Have SQLite check every page of a database that nobody uses.

    :raises BackupError: when it is damaged.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quoted(file)}?mode=ro&immutable=1", uri=True)) as database:
            found = [row[0] for row in database.execute("PRAGMA integrity_check(3)")]
    except sqlite3.Error as error:
        found = [str(error)]
    if found != ["ok"]:
        raise BackupError(f"{file.name} is damaged: {'; '.join(found)}", "corrupt")


def digest(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# Back up --------------------------------------------------------------------------------------------------------------


def back_up(settings: Settings, make_repository: bool = False) -> None:
    """Make a snapshot, prove it, forget what the retention no longer keeps, and write down how it went.

    :param make_repository: make the repository even though an earlier backup had one that is gone now.
    :raises BackupError: when any step fails; the state file says which, unless another run holds the lock.
    """
    with locked(settings):
        file = Path(settings.state_file)
        begun, clock = now(), time.monotonic()
        state = {"version": 1, "name": settings.name, "last_success": None, "snapshot": None} | read_state(file)
        state |= {"last_attempt": begun, "result": "running", "error": None}
        write_state(file, state)
        steps = ["prepare"]
        try:
            _back_up(settings, state, begun, steps, make_repository)
        except BaseException as error:
            known = isinstance(error, BackupError)
            state |= {
                "result": "failed",
                "duration_seconds": round(time.monotonic() - clock, 1),
                "error": {
                    "step": steps[-1],
                    "reason": error.reason if known else "failed",  # type: ignore[attr-defined]
                    "message": str(error) if known else f"{type(error).__name__}: {error}",
                },
            }
            write_state(file, state)
            raise
        state |= {"result": "success", "duration_seconds": round(time.monotonic() - clock, 1)}
        write_state(file, state)
        say(
            f"done: snapshot {state['snapshot']} holds {state['bytes']} bytes, {state['bytes_added']} of them new, "
            f"in {state['duration_seconds']} s"
        )


def _back_up(settings: Settings, state: Json, begun: str, steps: list[str], make_repository: bool) -> None:
    restic = Restic(settings, Deadline(settings.timeout))
    keep = keep_options(settings.retention)

    def step(name: str, text: str) -> None:
        steps.append(name)
        say(f"{name}: {text}")

    step("repository", restic.address)
    repository = restic.probe()
    if repository is None:
        if state["last_success"] and not make_repository:
            raise BackupError(
                f"the repository of the earlier backups (last success {state['last_success']}) is gone "
                f"from {restic.address}. "
                f"Bring it back, or begin a new one with: backup {settings.name} --init",
                "absent",
            )
        restic("init", limit=PROBE_SECONDS)
        repository = restic.probe()
        say(f"made a new repository, {str(repository)[:8]}")
    state["repository"] = repository
    restic("unlock", limit=PROBE_SECONDS)  # removes only locks whose process is dead or that nobody has refreshed

    step("sources", f"{len(settings.targets)} path(s)")
    sources = present_sources(settings, state.get("sources", []))
    with temporary(settings.work / STAGE) as stage:
        step("copy", f"{len(settings.sqlite_databases)} SQLite database(s)")
        manifest = stage_databases(settings, sources, stage, restic.deadline)
        step("store", ", ".join(sources))
        # Databases first, files second: a file that a row of the copied database names is then in the snapshot, too.
        paths = [path for path in sources if path not in settings.sqlite_databases]
        result = restic(
            "backup",
            "--json",
            "--quiet",
            f"--host={settings.host}",
            f"--tag={settings.name}",
            "--",
            str(stage),
            *paths,
            accept=(0, 3),
        )
        refuse_unread(result.stderr + "\n" + result.stdout)
    summary = next(one for one in messages(result.stdout) if one.get("message_type") == "summary")
    snapshot = str(summary["snapshot_id"])[:8]

    step("prove", f"snapshot {snapshot}")
    restic("check", "--quiet", "--with-cache")
    for item in manifest["databases"]:
        fetched = settings.work / "tmp" / "proof.sqlite3"
        with temporary(fetched.parent):
            with fetched.open("w") as stream:
                restic("dump", "--quiet", snapshot, f"{stage}/{item['copy']}", stdout=stream)
            require_same(fetched, item)
            check_database(fetched)
    state |= {
        "last_success": begun,
        "snapshot": snapshot,
        "bytes": summary["total_bytes_processed"],
        "bytes_added": summary["data_added"],
        "sources": sources,
    }

    if keep:
        step("retention", ", ".join(f"{number} {period}" for period, number in settings.retention.items()))
        answer = restic(
            "forget",
            "--json",
            "--quiet",
            f"--host={settings.host}",
            f"--tag={settings.name}",
            "--group-by=host,tags",
            *keep,
        )
        removed = sum(len(group["remove"] or []) for group in json.loads(answer.stdout or "[]"))
        if removed:
            restic("prune", "--quiet")
            say(f"forgot {removed} snapshot(s)")


def present_sources(settings: Settings, earlier: list[str]) -> list[str]:
    """Return the paths there are to back up, in the order of the settings.

    A folder of files may not exist before its first use; one that an earlier backup held has been lost.

    :param earlier: the paths of the last successful backup.
    :raises BackupError: when a database or an earlier path is missing, or a path is not what it should be.
    """
    found = []
    for path in settings.targets:
        database = path in settings.sqlite_databases
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            if database or path in earlier:
                raise BackupError(
                    f"{path} does not exist; the last good snapshot is kept, restore it or correct the settings",
                    "source",
                ) from None
            say(f"skipped: {path} does not exist yet")
            continue
        # The application can write here. A link could lead us to any file of the host.
        if not (stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and not database)):
            raise BackupError(f"{path} is not a {'regular file' if database else 'folder or regular file'}", "source")
        found.append(path)
    return found


def stage_databases(settings: Settings, sources: list[str], stage: Path, deadline: Deadline) -> Json:
    """Copy the databases into *stage* and write the manifest beside them.

    :returns: the manifest: what the snapshot holds, where it belongs, and who owned the folder it was in.
    """
    manifest: Json = {
        "format": 1,
        "name": settings.name,
        "host": settings.host,
        "time": now(),
        "databases": [],
        "paths": [],
    }
    for path in sources:
        entry = os.stat(os.path.dirname(path))
        item: Json = {
            "path": path,
            "folder": {"uid": entry.st_uid, "gid": entry.st_gid, "mode": stat.S_IMODE(entry.st_mode)},
        }
        if path in settings.sqlite_databases:
            item["copy"] = "sqlite" + path
            copy = stage / item["copy"]
            copy_database(Path(path), copy, deadline)
            item["sha256"] = digest(copy)
            manifest["databases"].append(item)
        else:
            manifest["paths"].append(item)
    write_json(stage / MANIFEST, manifest)
    return manifest


def refuse_unread(output: str) -> None:
    """Fail when restic could not read a file that is still there; one deleted meanwhile is no loss.

    :param output: what ``restic backup --json`` wrote.
    :raises BackupError: naming the files.
    """
    errors = [one for one in messages(output) if one.get("message_type") == "error"]
    unread = [one["item"] for one in errors if os.path.lexists(one.get("item") or "/")]
    if unread:
        raise BackupError(f"{len(unread)} file(s) could not be read, among them {', '.join(unread[:3])}", "source")


def require_same(fetched: Path, item: Json) -> None:
    """Raise BackupError when a database that came back from the repository is not the one that went in."""
    if digest(fetched) != item["sha256"]:
        raise BackupError(f"{item['path']} came back different from the repository", "corrupt")


# Restore --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Item:
    """A fetched database or path, and where it belongs."""

    fetched: Path
    live: Path
    folder: dict[str, int]
    database: bool


def fetch(restic: Restic, snapshot: Json, folder: Path) -> list[Item]:
    """Fetch a snapshot into *folder* and check it.

    :returns: what it holds.
    :raises BackupError: when it is incomplete or damaged.
    """
    restic("restore", "--quiet", snapshot["id"], "--target", str(folder))
    stage = next((folder / path[1:] for path in snapshot["paths"] if os.path.basename(path) == STAGE), None)
    if stage is None or not (stage / MANIFEST).is_file():
        raise BackupError(f"snapshot {snapshot['id'][:8]} was not made by this program", "corrupt")
    manifest = json.loads((stage / MANIFEST).read_text())
    items = [Item(stage / one["copy"], Path(one["path"]), one["folder"], True) for one in manifest["databases"]]
    items += [Item(folder / one["path"][1:], Path(one["path"]), one["folder"], False) for one in manifest["paths"]]
    missing = [str(item.live) for item in items if not os.path.lexists(item.fetched)]
    if missing:
        raise BackupError(f"snapshot {snapshot['id'][:8]} lacks {', '.join(missing)}", "corrupt")
    for one, item in zip(manifest["databases"], items, strict=False):
        require_same(item.fetched, one)
        check_database(item.fetched)
    return items


def restore_into(settings: Settings, wanted: str, target: Path) -> None:
    """Put a snapshot's databases and files below *target*, for looking at, and touch nothing else.

    :param wanted: ``latest`` or the beginning of an id.
    :param target: a folder that does not exist or is empty.
    :raises BackupError: when it cannot be fetched or is damaged.
    """
    if target.exists() and any(target.iterdir()):
        raise BackupError(f"{target} is not empty", "configuration", MISCONFIGURED)
    with locked(settings):
        restic = Restic(settings, Deadline(settings.timeout))
        snapshot = choose_snapshot(restic.snapshots(settings.name), wanted, settings.host)
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        with temporary(target / ".fetched") as folder:
            for item in fetch(restic, snapshot, folder):
                place = target / str(item.live)[1:]
                make_folder(place.parent, item.folder)
                os.rename(item.fetched, place)
                say(f"restored: {place}")


def plan(settings: Settings, wanted: str) -> Json:
    """Say what a restore in place would do.

    :returns: snapshot, its time and host, and each path with what is there now.
    """
    with locked(settings):
        restic = Restic(settings, Deadline(settings.timeout))
        snapshot = choose_snapshot(restic.snapshots(settings.name), wanted, settings.host)
        running = [one.name for one in containers(settings) if one.running]
    return {
        "snapshot": snapshot["id"][:8],
        "time": when(snapshot),
        "host": snapshot["hostname"],
        "repository": restic.address,
        "stops": running,
        "replaces": {path: present(Path(path)) for path in settings.targets},
    }


def present(path: Path) -> str:
    """Describe what is at *path*, for a person who decides whether to replace it."""
    if not os.path.lexists(path):
        return "nothing is there"
    files = [path] if not path.is_dir() else [one for one in path.rglob("*") if one.is_file()]
    sizes = [one.lstat() for one in files]
    newest = max((one.st_mtime for one in sizes), default=path.lstat().st_mtime)
    newest_at = utc(datetime.fromtimestamp(newest, UTC))
    return f"{len(files)} file(s), {sum(one.st_size for one in sizes)} bytes, newest of {newest_at}"


def restore_in_place(settings: Settings, wanted: str) -> Json:
    """Replace the live data by a snapshot while the application's containers are stopped.

    Nothing is touched before all is fetched and checked. What is replaced is moved aside; when a move fails, all go
    back.

    :param wanted: ``latest`` or the beginning of an id.
    :returns: snapshot, where the replaced data is, and the containers that were stopped and started.
    :raises BackupError: when it could not be done, or a container does not come back.
    """
    with locked(settings):
        deadline = Deadline(settings.timeout)
        restic = Restic(settings, deadline)
        snapshot = choose_snapshot(restic.snapshots(settings.name), wanted, settings.host)
        say(f"fetch: snapshot {snapshot['id'][:8]} of {when(snapshot)} from {restic.address}")
        aside = settings.work / "replaced" / now().replace(":", "").replace("-", "")
        with temporary(settings.work / "tmp") as folder:
            items = fetch(restic, snapshot, folder)
            require_movable(settings, items)
            say("checked: every database is whole")
            with stopped(settings, deadline) as names:
                exchange(items, aside)
                replaced = str(aside) if aside.exists() else None
                record_restore(settings, snapshot, replaced)
                say(f"restored: {', '.join(str(item.live) for item in items)}")
                if replaced:
                    say(f"kept: what was replaced is in {replaced}; when it is no longer needed: rm -r {replaced}")
    return {"snapshot": snapshot["id"][:8], "replaced": replaced, "containers": names}


def record_restore(settings: Settings, snapshot: Json, replaced: str | None) -> None:
    """Write into the state file what was restored, and where the replaced data is."""
    file = Path(settings.state_file)
    restore = {"at": now(), "snapshot": snapshot["id"][:8], "replaced": replaced}
    write_state(file, {"version": 1, "name": settings.name} | read_state(file) | {"last_restore": restore})


def require_movable(settings: Settings, items: list[Item]) -> None:
    """Raise BackupError when an item is not of this backup or cannot be exchanged by renaming."""
    foreign = [str(item.live) for item in items if str(item.live) not in settings.targets]
    if foreign:
        raise BackupError(
            f"the snapshot holds {', '.join(foreign)}, which is not part of {settings.name} here; "
            "use --target to look at it",
            "configuration",
        )
    for item in items:
        above = next(one for one in item.live.parents if one.exists())
        if above.stat().st_dev != settings.work.stat().st_dev or os.path.ismount(item.live):
            raise BackupError(
                f"{item.live} is on another file system than {settings.work}; restore with --target "
                "and copy, or set backup_work_directory to a folder of that file system",
                "configuration",
            )


def exchange(items: list[Item], aside: Path) -> None:
    """Move what is live aside and what was fetched into its place; all or nothing.

    The journals beside a database go with it: SQLite would apply an old one to the restored database.

    :param aside: folder for what is replaced; the paths are kept below it.
    :raises OSError: when a move failed; the others have been undone.
    """
    done: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        os.rename(source, target)
        done.append((source, target))

    try:
        for item in items:
            for suffix in ("", *SIDE_FILES) if item.database else ("",):
                live = Path(f"{item.live}{suffix}")
                if os.path.lexists(live):
                    kept = aside / str(live)[1:]
                    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    move(live, kept)
            make_folder(item.live.parent, item.folder)
            move(item.fetched, item.live)
    except BaseException:
        for source, target in reversed(done):
            os.rename(target, source)
        raise


def make_folder(folder: Path, entry: dict[str, int]) -> None:
    """Make *folder* with the owner and mode it had, unless it exists; folders above it are root's."""
    if not folder.is_dir():
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.mkdir()
        os.chown(folder, entry["uid"], entry["gid"])
        folder.chmod(entry["mode"])


# The application's containers -----------------------------------------------------------------------------------------


def docker(*arguments: str, seconds: float) -> str:
    """Run a docker command and return its output.

    :raises BackupError: when it fails or takes longer than *seconds*.
    """
    try:
        result = run(["docker", *arguments], seconds)
    except subprocess.TimeoutExpired:
        raise BackupError(f"docker {arguments[0]}: no answer after {seconds:.0f} s", "engine") from None
    if result.returncode:
        raise BackupError(f"docker {arguments[0]}: {result.stderr.strip()}", "engine")
    return result.stdout


@dataclasses.dataclass(frozen=True)
class Container:
    """A container of the application; one that the engine would not restart by itself has a task and then ends."""

    key: str
    name: str
    running: bool
    serves: bool


def containers(settings: Settings) -> list[Container]:
    """Return the application's containers; none where there is no Docker."""
    if not shutil.which("docker"):
        return []
    keys = docker(
        "ps", "--all", "--quiet", "--no-trunc", f"--filter=label=gantry.app={settings.name}", seconds=30
    ).split()
    if not keys:
        return []
    form = "{{.Id}} {{.Name}} {{.State.Running}} {{.HostConfig.RestartPolicy.Name}}"
    found = []
    for line in docker("inspect", f"--format={form}", *keys, seconds=30).splitlines():
        key, name, running, policy = (line + " no").split()[:4]
        found.append(Container(key, name.lstrip("/"), running == "true", policy != "no"))
    return found


def systemctl(*arguments: str) -> str:
    """Run a systemctl command and return its output.

    :raises BackupError: when it fails.
    """
    result = run(["systemctl", *arguments], 60)
    if result.returncode:
        raise BackupError(f"systemctl {arguments[0]}: {result.stderr.strip()}", "engine")
    return result.stdout


@contextlib.contextmanager
def stopped(settings: Settings, deadline: Deadline) -> Iterator[list[str]]:
    """Stop the application's containers and timers for as long as the data is exchanged, then start what was running.

    Which they were is on disk first: a run after one that was killed in between starts them as well.

    :returns: names of the containers that will serve again.
    :raises BackupError: when a release is being changed, or a container cannot be stopped or does not serve afterwards.
    """
    note = settings.work / "stopped.json"
    earlier: Json = json.loads(note.read_text()) if note.exists() else {"containers": [], "timers": []}
    with release_lock(settings):
        every = containers(settings)
        running = [one for one in every if one.running]
        back = [one for one in every if one.serves and (one.running or one.key in earlier["containers"])]
        listed = systemctl(
            "list-units", "--plain", "--no-legend", "--state=active", f"gantry-{settings.name}-task-*.timer"
        )
        timers = sorted({line.split()[0] for line in listed.splitlines()} | set(earlier["timers"]))
        write_json(note, {"containers": [one.key for one in back], "timers": timers})
        try:
            if timers:
                systemctl("stop", *timers)
            if running:
                say(f"stop: {', '.join(one.name for one in running)}")
                seconds = len(running) * (settings.stop_timeout + 30)
                docker("stop", f"--time={settings.stop_timeout}", *(one.key for one in running), seconds=seconds)
            yield [one.name for one in back]
        finally:
            if back:
                say(f"start: {', '.join(one.name for one in back)}")
                docker("start", *(one.key for one in back), seconds=60 * len(back))
            if timers:
                systemctl("start", *timers)
            note.unlink()
        for one in back:
            wait_until_serving(settings, one, deadline)


@contextlib.contextmanager
def release_lock(settings: Settings) -> Iterator[None]:
    """Hold the lock under which releases change, so that none starts a container meanwhile.

    :raises BackupError: when a release is being changed.
    """
    with Path(settings.release_lock).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BackupError(
                f"{settings.name} is being changed by {file.read().strip() or 'somebody'}; nothing was "
                "replaced. Restore when that run has ended",
                "locked",
                BUSY,
            ) from None
        file.truncate(0)
        file.write(f"a restore since {now()}")
        file.flush()
        yield
        file.truncate(0)


def wait_until_serving(settings: Settings, container: Container, deadline: Deadline) -> None:
    """Wait until a container runs, is healthy where it has a health check, and answers where an address to ask is set.

    :raises BackupError: when it ends, becomes unhealthy, or does not get there in time.
    """
    waiting = Deadline(min(settings.health_timeout, deadline.remaining()))
    while True:
        details = json.loads(docker("inspect", container.key, seconds=30))[0]
        state = details["State"]
        health = state.get("Health", {}).get("Status", "healthy")
        problem = None if state["Running"] and not state["Restarting"] else "does not stay up"
        problem = problem or (None if health == "healthy" else f"is {health}") or unanswered(settings, details)
        if problem is None:
            return
        if not waiting.remaining():
            raise BackupError(
                f"the data is restored, but container {container.name} {problem}; see: docker logs {container.name}",
                "engine",
            )
        time.sleep(0.5)  # the engine has no call that waits for health


def unanswered(settings: Settings, details: Json) -> str | None:
    """Ask a container for its health by its published port.

    :param details: of the container, as ``docker inspect`` prints them.
    :returns: what is wrong; None when it answers 200, publishes no port, or there is no address to ask.
    """
    published = [one for ports in details["NetworkSettings"]["Ports"].values() for one in ports or []]
    if not published or not settings.health_path:
        return None
    connection = http.client.HTTPConnection(published[0]["HostIp"], int(published[0]["HostPort"]), timeout=2)
    # As the proxy would ask: the application may check its host name and redirect what did not come by https.
    headers = {"X-Forwarded-Proto": "https"} | ({"Host": settings.health_host} if settings.health_host else {})
    try:
        connection.request("GET", settings.health_path, headers=headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer ({error})"
    finally:
        connection.close()
    return None if status == 200 else f"answers {status} on {settings.health_path}"


# Command line ---------------------------------------------------------------------------------------------------------


def list_snapshots(settings: Settings, as_json: bool) -> None:
    """Print the snapshots, the newest last."""
    found = Restic(settings, Deadline(settings.timeout)).snapshots(settings.name)
    found.sort(key=lambda one: moment(one["time"]))
    if as_json:
        print(
            json.dumps(
                [{"snapshot": one["id"][:8], "time": when(one), "host": one["hostname"]} for one in found], indent=2
            )
        )
        return
    for one in found:
        print(f"{one['id'][:8]}  {when(one)}  {one['hostname']}")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="backup", description="Back up and restore an application's data with restic.")
    commands = top.add_subparsers(dest="command", required=True)
    one = commands.add_parser("backup", help="make a snapshot and prove it")
    one.add_argument("--init", action="store_true", help="make a new repository although the earlier one is gone")
    two = commands.add_parser("restore", help="bring a snapshot back")
    two.add_argument(
        "--snapshot", default="latest", metavar="ID", help="beginning of its id; default: the newest of this host"
    )
    where = two.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--target", type=Path, metavar="FOLDER", help="put it below an empty folder and touch nothing else"
    )
    where.add_argument(
        "--in-place", action="store_true", help="replace the live data; containers are stopped meanwhile"
    )
    where.add_argument("--plan", action="store_true", help="print what --in-place would do, as JSON")
    three = commands.add_parser("list", help="list the snapshots")
    three.add_argument("--json", action="store_true", help="as JSON")
    for command in (one, two, three):
        command.add_argument("name", metavar="NAME", help="name of the backup, such as dblood-production")
    return top


def stop(number: int, _: object) -> None:
    """Turn a signal into an error, so that what was begun is undone and the state file tells the truth."""
    raise BackupError(f"stopped by {signal.Signals(number).name}", "stopped")


def main(arguments: list[str]) -> int:
    """Run a command and return the exit code."""
    options = parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    os.umask(0o077)
    try:
        settings = load_settings(options.name)
        if options.command == "backup":
            os.nice(10)  # users come first
            back_up(settings, options.init)
        elif options.command == "list":
            list_snapshots(settings, options.json)
        elif options.plan:
            print(json.dumps(plan(settings, options.snapshot), indent=2))
        elif options.in_place:
            restore_in_place(settings, options.snapshot)
        else:
            restore_into(settings, options.snapshot, options.target)
    except BackupError as error:
        print(f"{options.command} {options.name}: failed: {error}", file=sys.stderr, flush=True)
        return error.code
    except OSError as error:
        print(f"{options.command} {options.name}: failed: {error}", file=sys.stderr, flush=True)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
