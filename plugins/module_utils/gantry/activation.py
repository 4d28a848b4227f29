"""Put a release live: start, check, switch, drain, retire, record; and undo all of it when a step fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.gantry import haproxy, timers
from ansible.module_utils.gantry.engine import WEB, Engine, EngineError, probe
from ansible.module_utils.gantry.releases import Live, Release, free_slot, prunable, timestamp
from ansible.module_utils.gantry.store import Store, StoreError

FAILURES = (EngineError, StoreError, haproxy.HaproxyError, OSError)


class ActivationError(Exception):
    """The release did not go live, and what served before still does.

    :ivar step: the step that failed.
    :ivar log: the last log lines of the container concerned, if there is one.
    """

    def __init__(self, message: str, step: str, log: str) -> None:
        """Take the message, the failed step and the container's last log lines."""
        super().__init__(message)
        self.step = step
        self.log = log


@dataclass
class Proxy:
    """Where HAProxy's map and socket are."""

    map_file: str = haproxy.ROUTES_MAP
    socket: str = haproxy.RUNTIME_SOCKET

    def point(self, release: Release, slot: int) -> dict[str, str]:
        """Send the release's routes to *slot*, on disk and in the running proxy; return the entries before."""
        backend = haproxy.backend_name(release.spec.route, slot)
        return haproxy.switch(self.map_file, self.socket, dict.fromkeys(release.spec.route_keys, backend))

    def slot(self, release: Release) -> int | None:
        """Return the slot that users of all the release's routes reach, or ``None`` when there is no such one."""
        entries = haproxy.Runtime(self.socket).map_entries(self.map_file)
        backends = {entries.get(key, haproxy.MAINTENANCE) for key in release.spec.route_keys}
        return haproxy.slot_of(backends.pop()) if len(backends) == 1 else None

    def in_flight(self, release: Release, slot: int) -> int:
        """Return how many requests *slot* is working on."""
        return haproxy.Runtime(self.socket).in_flight(haproxy.backend_name(release.spec.route, slot))


@dataclass
class Timeouts:
    """Seconds: for the application to become healthy, and for requests in flight to end."""

    health: float
    drain: float


class Activation:
    """One attempt to put a release live on this host."""

    def __init__(self, store: Store, engine: Engine, proxy: Proxy, timeouts: Timeouts) -> None:
        """Take the parts to work with."""
        self.store, self.engine, self.proxy, self.timeouts = store, engine, proxy, timeouts
        self.seconds: dict[str, float] = {}
        self.step = "start"

    def is_live(self, release: Release) -> bool:
        """Whether *release* serves already, as it should in every part."""
        live = self.store.live()
        web = self.engine.web(release.id)
        return (
            live is not None
            and live.release == release.id
            and web is not None
            and web.status == "running"
            and web.labels["gantry.slot"] == str(live.slot)
            and self.proxy.slot(release) == live.slot
            and timers.in_place(release, self.store.root / "live")
            and probe(release, live.slot)[0]
        )

    def reconcile(self) -> Live | None:
        """Return what serves, and mend the record when a run was cut off between the switch and its recording.

        Users see what the proxy says; so that is the truth.
        """
        live = self.store.live()
        records = self.store.records()
        for web in self.engine.containers(process=WEB):
            record = records.get(web.labels["gantry.release"])
            slot = int(web.labels["gantry.slot"])
            serves = record is not None and web.status == "running" and self.proxy.slot(record) == slot
            if record is not None and serves and (live is None or (live.release, live.slot) != (record.id, slot)):
                live = self._record_live(record, slot, "an interrupted run", live)
        return live

    def run(self, release: Release, by: str, keep: int) -> None:
        """Put *release* live.

        :param by: who asked for it.
        :param keep: how many releases stay on the host.
        :raises ActivationError: when it did not go live; the users still have what they had.
        """
        before = self.reconcile()
        records = self.store.records()
        old = records.get(before.release) if before and before.release != release.id else None
        # The live release itself is healed where it is; another one starts beside it.
        slot = before.slot if before and before.release == release.id else free_slot(before)
        switched = None
        web = None
        try:
            web = self._timed("start", lambda: self._start(release, slot, old))
            self._timed("check", lambda: self.engine.wait_healthy(web, release, slot, self.timeouts.health))
            self.engine.keep_running(web)
            switched = self._timed("switch", lambda: self.proxy.point(release, slot))
            live = self._record_live(release, slot, by, before)
            timers.apply(release, self.store.root / "live")
        except FAILURES as error:
            raise self._undo(error, release, old, before, switched, web) from error
        if before and old:
            self._timed("drain", lambda: self._drain(old, before.slot))
            self._timed("retire", lambda: self._retire(old))
        self._prune(live, keep)

    def _start(self, release: Release, slot: int, old: Release | None) -> Any:
        for container in self.engine.containers(process=WEB):
            is_live = old is not None and container.labels["gantry.release"] == old.id
            is_target = container.labels["gantry.release"] == release.id
            fits = is_target and container.labels["gantry.slot"] == str(slot)
            # What an interrupted run left running holds the slot's port; a stopped one waits for its rollback.
            if (is_target and not fits) or (not is_live and not is_target and container.status != "exited"):
                container.remove(force=True)
        self.store.expose_secrets([record for record in (old, release) if record])
        web = self.engine.web(release.id) or self.engine.create_web(release, slot)
        self.engine.create_tasks(release)
        if web.status != "running":
            self.engine.start(web)
        elif not probe(release, slot)[0]:
            web.restart(timeout=release.spec.stop_timeout)
        return web

    def _record_live(self, release: Release, slot: int, by: str, before: Live | None) -> Live:
        now = timestamp(datetime.now(UTC))
        if release.live_at is None:
            predecessor = before.release if before and before.release != release.id else None
            self.store.save(replace(release, live_at=now, predecessor=predecessor))
        live = Live(release.id, slot, now, by)
        self.store.set_live(live)
        return live

    def _drain(self, old: Release, slot: int) -> int:
        """Wait until nobody is being answered by the old release; return the requests left when the time was up."""
        deadline = time.monotonic() + self.timeouts.drain
        while (left := self.proxy.in_flight(old, slot)) and time.monotonic() < deadline:
            time.sleep(0.1)  # the pause between two questions of a bounded wait
        return left

    def _retire(self, old: Release) -> None:
        web = self.engine.web(old.id)
        if web is not None:
            self.engine.stop(web, old.spec.stop_timeout)

    def _prune(self, live: Live, keep: int) -> None:
        records = self.store.records()
        for release in prunable(records, live, keep):
            self._remove(records[release])
        self.store.expose_secrets([records[live.release]])

    def _remove(self, release: Release) -> None:
        for container in self.engine.containers(release=release.id):
            container.remove(force=True)
        self.store.remove(release.id)
        if all(record.spec.digest != release.spec.digest for record in self.store.records().values()):
            self.engine.remove_image(release.spec.image, release.spec.digest)

    def _undo(
        self,
        error: BaseException,
        release: Release,
        old: Release | None,
        before: Live | None,
        switched: dict[str, str] | None,
        web: Any,
    ) -> ActivationError:
        """Bring back what served before, remove what was started, and return what to tell."""
        log = getattr(error, "log", "") or (self.engine.log(web) if web is not None else "")
        if switched is not None:
            haproxy.switch(
                self.proxy.map_file, self.proxy.socket, {key: switched[key] for key in release.spec.route_keys}
            )
        if old and before:
            self.store.set_live(before)
            timers.apply(old, self.store.root / "live")
            self.store.expose_secrets([old])
        if before is None or release.id != before.release:
            if release.live_at is None:
                self._remove(release)
            elif web is not None:
                self.engine.stop(web, release.spec.stop_timeout)
        serving = f"version {old.spec.version} ({old.id}) still serves" if old else "nothing else was serving"
        return ActivationError(f"{error}; {serving}", self.step, log)

    def _timed(self, step: str, action: Callable[[], Any]) -> Any:
        self.step = step
        begin = time.monotonic()
        try:
            return action()
        finally:
            self.seconds[step] = round(time.monotonic() - begin, 2)
