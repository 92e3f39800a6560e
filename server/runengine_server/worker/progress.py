"""What the runs of a worker tell of their progress, on its way to the processes that watch them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from uuid import UUID

from runengine_server.database.channels import channel_of_watcher
from runengine_server.domain.progress import (
    DROPPED,
    MAX_EVENT_BYTES,
    OF_TENANT,
    WATCHED_SECONDS,
    ProgressEvent,
    WatchedTenants,
    encode_event,
    encode_payloads,
)
from runengine_server.domain.run import ClaimedRun
from runengine_server.repositories.progress_repository import Notification, ProgressRepository

# Between two statements, each with all that has come meanwhile; and how much may wait for the next, of a run
# and of the worker. So a run may tell a thousand events a second.
_INTERVAL_SECONDS = 0.05
MAX_WAITING = 50
_MAX_WAITING_BYTES = 1 << 20

# How long a statement may take; how long a run that ends waits for the last one; the pause after a failure.
_SEND_SECONDS = 2.0
_LAST_SECONDS = 0.5
FAILED_SECONDS = 1.0

# How many pairs of a run, which may be another worker's, and a watcher of it are remembered.
_MAX_WATCHED = 10_000


class RunProgress:
    """The progress of one execution of a run; `tell` may be called in any thread.

    `watchers` are the channels of the processes that get its events, and `hints` has what those that watch it
    are told when it has changed. Both are empty for most runs, and whoever has something to tell looks at
    them first: that is all that a run costs which nobody watches.
    """

    def __init__(self, outbox: ProgressOutbox, run: ClaimedRun) -> None:
        self._outbox = outbox
        self.run = run
        self.watchers: tuple[str, ...] = ()
        self.hints: tuple[tuple[str, str], ...] = ()
        self.waiting: list[tuple[int, bytes]] = []
        self.number = 0  # of the last event, dropped or not
        self.told = 0  # up to which number the watchers know of the events

    def tell(self, make: Callable[[], ProgressEvent]) -> None:
        """Sends the event that `make` returns to all watchers, soon. It is dropped, and `make` may not be
        called, where too many wait already; also where `make` raises, or what it returns is too large.
        """
        encoded = None
        if self._outbox.has_room(self):
            with suppress(Exception):
                encoded = encode_event(make())
        self._outbox.add(self, encoded)

    def tell_changed(self) -> None:
        """Tells those that watch it that the run has changed, after the commit."""
        if self.hints:
            self._outbox.tell_changed(self)


class ProgressOutbox:
    """Sends the progress of the runs that are watched: one statement for all runs, at most every 50 ms.

    Nothing waits for it. What comes faster, or while the database does not respond, is dropped, and the
    watchers learn how much.
    """

    def __init__(self, repository: ProgressRepository) -> None:
        self._repository = repository
        # By run, and by tenant with whether it gets events: until when each channel, on time.monotonic().
        self._watched: dict[UUID | tuple[str, bool], dict[str, float]] = {}
        self._held: dict[UUID, RunProgress] = {}
        # Of the four below, and of the state of each RunProgress.
        self._lock = threading.Lock()
        self._telling: set[RunProgress] = set()
        self._waiting_bytes = 0
        self._is_sending = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._order = asyncio.Lock()
        self._expiry: asyncio.TimerHandle | None = None

    # Who watches what.

    def on_watched(self, payload: str) -> None:
        """Takes a notification of a process that watches: its id, and those of runs; or WatchedTenants."""
        watched: Sequence[UUID | tuple[str, bool]]
        if payload.startswith("["):
            of_process = WatchedTenants.decode(payload)
            process_id, watched = of_process.process_id, of_process.tenants
        else:
            process_id, *watched = [UUID(each) for each in payload.split()]
        until = time.monotonic() + WATCHED_SECONDS
        for each in watched:
            if each in self._watched or len(self._watched) < _MAX_WATCHED:
                self._watched.setdefault(each, {})[channel_of_watcher(process_id)] = until
        self._update()
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(WATCHED_SECONDS, self._expire)

    def _expire(self) -> None:
        now, self._expiry = time.monotonic(), None
        for watched, watchers in list(self._watched.items()):
            for channel in [each for each, until in watchers.items() if until <= now]:
                del watchers[channel]
            if not watchers:
                del self._watched[watched]
        self._update()
        if self._watched:
            self._expiry = asyncio.get_running_loop().call_later(WATCHED_SECONDS, self._expire)

    def _update(self) -> None:
        for progress in self._held.values():
            self._update_run(progress)

    def _update_run(self, progress: RunProgress) -> None:
        run = progress.run
        of_run = self._watched.get(run.id, {})
        told, hinted = (self._watched.get((run.tenant_id, is_told), {}) for is_told in (True, False))
        progress.watchers = tuple({**of_run, **told})
        progress.hints = (
            *((channel, str(run.id)) for channel in of_run),
            *((channel, OF_TENANT + run.tenant_id) for channel in {**told, **hinted}),
        )

    # What is told.

    def open(self, run: ClaimedRun) -> RunProgress:
        """The progress of a run that is about to be executed."""
        self._loop = self._loop or asyncio.get_running_loop()
        progress = self._held[run.id] = RunProgress(self, run)
        if self._watched:
            self._update_run(progress)
            progress.tell_changed()
        return progress

    def close(self, progress: RunProgress) -> None:
        """The run is not executed here any more."""
        if self._held.get(progress.run.id) is progress:
            del self._held[progress.run.id]
        progress.watchers = progress.hints = ()

    def has_room(self, progress: RunProgress) -> bool:
        """Whether another event of the run may wait."""
        return len(progress.waiting) < MAX_WAITING and self._waiting_bytes < _MAX_WAITING_BYTES

    def add(self, progress: RunProgress, encoded: bytes | None) -> None:
        """Counts an event, and keeps it to be sent; None counts as dropped."""
        with self._lock:
            progress.number += 1
            if encoded is not None and len(encoded) <= MAX_EVENT_BYTES and self.has_room(progress):
                progress.waiting.append((progress.number, encoded))
                self._waiting_bytes += len(encoded)
            self._telling.add(progress)
            if self._is_sending:
                return
            self._is_sending = True
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self._start)

    def tell_changed(self, progress: RunProgress) -> None:
        """As RunProgress.tell_changed."""
        for hint in progress.hints:
            self._repository.tell_changed(*hint)

    async def flush(self, progress: RunProgress) -> None:
        """Sends what waits, before the run ends: then the fence would stop it. In half a second at most."""
        if progress in self._telling:
            with suppress(Exception):
                async with asyncio.timeout(_LAST_SECONDS):
                    await self._send({progress})

    # How it is sent.

    def _start(self) -> None:
        self._task = asyncio.create_task(self._send_waiting(), name="progress")

    async def _send_waiting(self) -> None:
        while True:
            with self._lock:
                telling = set(self._telling)
                if not telling:
                    self._is_sending = False
                    return
            is_sent = await self._send(telling)
            await asyncio.sleep(_INTERVAL_SECONDS if is_sent else FAILED_SECONDS)

    async def _send(self, telling: Collection[RunProgress]) -> bool:
        async with self._order:
            try:
                notifications = [each for progress in telling for each in self._take(progress)]
                if not notifications:
                    return True
                async with asyncio.timeout(_SEND_SECONDS):
                    await self._repository.send(notifications)
            except Exception:
                with self._lock:
                    for progress in telling:
                        if progress.watchers:
                            progress.told = 0
                            self._telling.add(progress)
                return False
            return True

    def _take(self, progress: RunProgress) -> list[Notification]:
        with self._lock:
            self._telling.discard(progress)
            events, progress.waiting = progress.waiting, []
            self._waiting_bytes -= sum(len(encoded) for _, encoded in events)
            if progress.number > max(progress.told, events[-1][0] if events else 0):
                events.append((progress.number, DROPPED))
            progress.told = progress.number
        run = progress.run
        payloads = encode_payloads(run.tenant_id, run.id, run.epoch, run.attempt, events)
        return [Notification(run, channel, each) for channel in progress.watchers for each in payloads]
