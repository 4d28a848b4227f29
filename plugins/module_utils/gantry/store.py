"""The files of releases on a host: records, what is live, the ledger, and the lock over them.

::

    /var/lib/gantry/APP-ENV/
        lock                  held while a release is changed; says by whom
        live                  which release serves, in which slot, since when, by whom
        history.jsonl         one line for every attempt, with its result
        releases/ID/          record.json, env (0600), secrets/NAME (0600)
        data/                 the application's own (/data in its containers)
    /run/gantry/APP-ENV/ID/   the secrets again, in tmpfs, as the containers see them; made by systemd-tmpfiles
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.gantry.haproxy import write_atomically
from ansible.module_utils.gantry.releases import Live, Release, env_text, parse_env, timestamp

STATE = Path("/var/lib/gantry")
SECRETS = Path("/run/gantry")
TMPFILES = Path("/etc/tmpfiles.d")


class StoreError(Exception):
    """The host's records cannot be used; the message says why and what to do."""


def write(path: Path, text: str, mode: int = 0o644) -> bool:
    """Give a file its content and mode; a run that is cut off leaves the old or the new file and nothing between.

    :returns: whether its content or its mode was another one before.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.read_text() == text and path.stat().st_mode & 0o777 == mode:
            return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(str(path), text, mode)
    return True


class Store:
    """The records of one instance of an application."""

    def __init__(self, app: str, state: Path = STATE, secrets: Path = SECRETS, tmpfiles: Path = TMPFILES) -> None:
        """Take the instance's name, such as ``dblood-staging``; the folders are parameters for the tests."""
        self.app = app
        self.root = state / app
        self.secrets_root = secrets / app
        self.tmpfiles = tmpfiles / f"gantry-{app}.conf"

    @contextlib.contextmanager
    def lock(self, who: str) -> Iterator[None]:
        """Hold the instance's lock; it frees itself when the process ends, however it ends.

        :param who: whom to name to others who want it.
        :raises StoreError: when somebody holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip() or "somebody"
                raise StoreError(
                    f"{self.app} is being changed by {holder}; wait until that run ends, then run again"
                ) from error
            file.truncate(0)
            file.write(f"{who} since {timestamp(datetime.now(UTC))}")
            file.flush()
            yield
            file.truncate(0)

    def records(self) -> dict[str, Release]:
        """Return the releases on this host, by id.

        :raises StoreError: when a record cannot be read; it names the file.
        """
        found = {}
        for path in sorted(self.root.glob("releases/*/record.json")):
            try:
                record = Release.from_json(path.read_text())
            except ValueError as error:
                raise StoreError(f"{path} is damaged ({error}); move its folder away and run again") from error
            found[record.id] = record
        return found

    def live(self) -> Live | None:
        """Return what serves by the records, or ``None`` before the first release.

        :raises StoreError: when the file cannot be read.
        """
        path = self.root / "live"
        try:
            return Live.from_text(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError(f"{path} is damaged ({error}); remove it and deploy again") from error

    def set_live(self, live: Live) -> bool:
        """Record what serves; return whether that is new."""
        return write(self.root / "live", live.to_text())

    def folder(self, release: str) -> Path:
        """Return the folder of a release's record."""
        return self.root / "releases" / release

    def add(self, record: Release, env: Mapping[str, str], secrets: Mapping[str, str]) -> None:
        """Write a new release; the record comes last, so that a folder without one is nothing."""
        folder = self.folder(record.id)
        folder.mkdir(parents=True)
        folder.chmod(0o700)
        write(folder / "env", env_text(env), 0o600)
        for name, value in secrets.items():
            write(folder / "secrets" / name, value, 0o600)
        self.save(record)

    def save(self, record: Release) -> None:
        """Write a release's record again."""
        write(self.folder(record.id) / "record.json", record.to_json(), 0o600)

    def env(self, release: str) -> dict[str, str]:
        """Return the environment that a release runs with."""
        return parse_env((self.folder(release) / "env").read_text())

    def secret_names(self, release: str) -> list[str]:
        """Return the names of a release's secrets."""
        return sorted(path.name for path in self.folder(release).glob("secrets/*"))

    def secret_values(self, release: str) -> list[str]:
        """Return the values of a release's secrets, to keep them out of messages."""
        return [path.read_text() for path in self.folder(release).glob("secrets/*")]

    def remove(self, release: str) -> None:
        """Forget a release."""
        shutil.rmtree(self.folder(release), ignore_errors=True)

    def secrets_folder(self, release: str) -> Path:
        """Return the tmpfs folder whose files a release's containers see as ``/run/secrets``."""
        return self.secrets_root / release

    def expose_secrets(self, records: Iterable[Release]) -> None:
        """Put the secrets of these releases, and of no others, into tmpfs: now, and at every boot before Docker starts.

        :raises StoreError: when systemd-tmpfiles cannot do it.
        """
        shown = list(records)
        lines = [f"d {self.secrets_root.parent} 0755 root root", f"d {self.secrets_root} 0755 root root"]
        for record in shown:
            lines.append(f"d {self.secrets_folder(record.id)} 0755 root root")
            for name in self.secret_names(record.id):
                source = self.folder(record.id) / "secrets" / name
                lines.append(
                    f"C {self.secrets_folder(record.id) / name} 0400 {record.spec.uid} {record.spec.uid} - {source}"
                )
        write(self.tmpfiles, "\n".join(lines) + "\n")
        done = subprocess.run(
            ["/usr/bin/systemd-tmpfiles", "--create", str(self.tmpfiles)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise StoreError(f"systemd-tmpfiles could not make {self.secrets_root}: {done.stderr.strip()}")
        for folder in self.secrets_root.glob("*"):
            if folder.name not in {record.id for record in shown}:
                shutil.rmtree(folder)

    def note(self, **fields: object) -> None:
        """Append a line to the ledger: what was tried, by whom, and what came of it."""
        path = self.root / "history.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        with os.fdopen(descriptor, "a") as file:
            file.write(json.dumps({"at": timestamp(datetime.now(UTC)), **fields}, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
