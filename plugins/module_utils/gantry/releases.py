"""What a release is, and which one comes next: decisions only, no I/O.

A release is one immutable record: an image digest, the environment and secrets it runs with, its limits, routes and
scheduled tasks, and who made it, when and from which commit. Going back to it brings all of that back.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class ScheduledTask:
    """A command of the application that runs on a schedule, in the release that is live.

    :ivar name: name of the timer.
    :ivar command: argument vector inside the container.
    :ivar schedule: systemd calendar expression, see ``man systemd.time``.
    :ivar timeout: seconds after which it is stopped.
    """

    name: str
    command: list[str]
    schedule: str
    timeout: int


@dataclass(frozen=True)
class Spec:
    """What runs, and how: everything of a release that makes it this release and not another.

    :ivar version: the version asked for, for people.
    :ivar image: image name with registry, without tag.
    :ivar digest: the image's digest; the only thing that is ever run.
    :ivar port: port that the application listens on inside its container.
    :ivar slots: the two loopback ports of the host that releases take in turn.
    :ivar route: name of the proxy's route.
    :ivar route_keys: the keys of that route in the proxy's map.
    :ivar uid: user and group id that the containers run as.
    :ivar data_path: folder of the host that containers see as ``/data``.
    :ivar health_path: path that answers 200 when the application can serve.
    :ivar health_host: host name the health check asks for.
    :ivar memory: memory limit of one container, such as ``512m``.
    :ivar cpus: CPU limit of one container, in cores.
    :ivar pids: process limit of one container.
    :ivar stop_timeout: seconds between SIGTERM and SIGKILL.
    :ivar scheduled_tasks: see :class:`ScheduledTask`.
    """

    version: str
    image: str
    digest: str
    port: int
    slots: list[int]
    route: str
    route_keys: list[str]
    uid: int
    data_path: str
    health_path: str
    health_host: str
    memory: str
    cpus: float
    pids: int
    stop_timeout: int
    scheduled_tasks: list[ScheduledTask]


@dataclass(frozen=True)
class Release:
    """The record of one release.

    :ivar id: sorts by time and names the version.
    :ivar app: instance, ``NAME-ENVIRONMENT``.
    :ivar spec: what runs.
    :ivar fingerprint: of the spec, the environment and the secrets together.
    :ivar created_at: UTC, ISO 8601.
    :ivar created_by: who asked for it, and on which controller.
    :ivar commit: revision of the Ansible project it was made from.
    :ivar predecessor: id of the release that served when this one first went live.
    :ivar live_at: when it first went live (UTC, ISO 8601); ``None`` while it has not.
    """

    id: str
    app: str
    spec: Spec
    fingerprint: str
    created_at: str
    created_by: str
    commit: str
    predecessor: str | None = None
    live_at: str | None = None

    def to_json(self) -> str:
        """Return the record as text."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Release:
        """Return the record that *text* holds.

        :raises ValueError: when the text is not a record.
        """
        try:
            fields = json.loads(text)
            spec = fields.pop("spec")
            tasks = [ScheduledTask(**task) for task in spec.pop("scheduled_tasks")]
            return cls(spec=Spec(scheduled_tasks=tasks, **spec), **fields)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a release record: {error}") from error


@dataclass(frozen=True)
class Live:
    """Which release serves, in which of its two slots, since when (UTC, ISO 8601) and by whom."""

    release: str
    slot: int
    since: str
    by: str

    def to_text(self) -> str:
        """Return it as ``NAME=value`` lines, which systemd units read too (``EnvironmentFile``)."""
        return f"RELEASE={self.release}\nSLOT={self.slot}\nSINCE={self.since}\nBY={self.by}\n"

    @classmethod
    def from_text(cls, text: str) -> Live:
        """Return what :meth:`to_text` wrote.

        :raises ValueError: when a line is missing or the slot is not a number.
        """
        values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        try:
            return cls(values["RELEASE"], int(values["SLOT"]), values["SINCE"], values["BY"])
        except KeyError as error:
            raise ValueError(f"the line {error} is missing") from error


def timestamp(now: datetime) -> str:
    """Return *now* in UTC as ISO 8601 to the second."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_id(now: datetime, version: str, taken: Iterable[str] = ()) -> str:
    """Return the id of a release made at *now*: it sorts by time, names the version and is not in *taken*."""
    stem = f"{now.astimezone(UTC):%Y%m%dT%H%M%S}Z"
    known = set(taken)
    candidate, count = f"{stem}-{version}", 1
    while candidate in known:
        count += 1
        candidate = f"{stem}.{count}-{version}"
    return candidate


def fingerprint(spec: Spec, env: Mapping[str, str], secrets: Mapping[str, str]) -> str:
    """Return a digest of everything that makes a release: equal means that there is nothing to release."""
    # The version is what people call it; the digest is what runs. A new name for the running image is a new release
    # too, because status and rollback speak in versions.
    text = json.dumps([asdict(spec), dict(env), dict(secrets)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def free_slot(live: Live | None) -> int:
    """Return the slot that nobody is served from."""
    return 0 if live is None else 1 - live.slot


def rollback_target(records: Mapping[str, Release], live: Live | None, wanted: str | None) -> Release:
    """Return the release to go back to.

    The rule: without a name it is the *predecessor* of the live release, that is the release that served when the live
    one first went live. Going back again goes one further back; it never swings between two releases.

    :param records: the releases on this host, by id.
    :param live: what serves now.
    :param wanted: id of a release, or ``None`` for the predecessor.
    :raises ValueError: when there is no such release; the message lists what there is.
    """
    if live is None:
        raise ValueError("nothing has been released on this host yet; run deploy.yml first")
    if wanted is None:
        current = records.get(live.release)
        wanted = current.predecessor if current else None
        if wanted is None:
            raise ValueError(f"no release served before {live.release}; {offer(records, live)}")
    target = records.get(wanted)
    if target is None or target.live_at is None:
        raise ValueError(f"release {wanted} is not on this host; {offer(records, live)}")
    return target


def offer(records: Mapping[str, Release], live: Live | None) -> str:
    """Return a sentence part that names the releases one can go back to."""
    ids = [record.id for record in served(records) if live is None or record.id != live.release]
    return f"releases to go back to: {', '.join(ids)} (-e app_release=ID)" if ids else "there is none to go back to"


def served(records: Mapping[str, Release]) -> list[Release]:
    """Return the releases that have been live, the newest first."""
    return sorted((r for r in records.values() if r.live_at), key=lambda r: r.id, reverse=True)


def prunable(records: Mapping[str, Release], live: Live, keep: int) -> list[str]:
    """Return the ids of the releases to remove.

    Releases that never went live go: they are what a failed or interrupted run left, and must not push out those that
    one can go back to. Of the others the live one, the chain of its predecessors and the newest stay, *keep* in all.
    """
    stays = [live.release]
    while len(stays) < keep:
        record = records.get(stays[-1])
        before = record.predecessor if record else None
        if before is None or before not in records or before in stays:
            break
        stays.append(before)
    for record in served(records):
        if len(stays) >= keep:
            break
        if record.id not in stays:
            stays.append(record.id)
    return sorted(set(records) - set(stays))


def env_text(env: Mapping[str, str]) -> str:
    """Return *env* as ``NAME=value`` lines, sorted.

    :raises ValueError: when a name is not a variable's name or a value has a line break, which no env file can carry.
    """
    for name, value in env.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is not a name for an environment variable")
        if "\n" in value:
            raise ValueError(f"the value of {name} has a line break; give it as a secret, which becomes a file")
    return "".join(f"{name}={env[name]}\n" for name in sorted(env))


def parse_env(text: str) -> dict[str, str]:
    """Return what :func:`env_text` wrote."""
    return dict(line.split("=", 1) for line in text.splitlines())


def describe(record: Release | None) -> dict[str, Any] | None:
    """Return what people and ``--diff`` may see of a release: no environment, no secret, no fingerprint."""
    if record is None:
        return None
    return {
        "id": record.id,
        "version": record.spec.version,
        "image": record.spec.image,
        "digest": record.spec.digest,
        "created_at": record.created_at,
        "created_by": record.created_by,
        "commit": record.commit,
    }
