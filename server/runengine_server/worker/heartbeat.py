"""Renews the leases of a worker's runs, and receives the notifications for it."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from uuid import UUID

import structlog
import uvloop

from runengine_server.database.channels import CANCELLED, TENANTS_WATCHED, WATCHED
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import ClaimedRun
from runengine_server.metrics import HEARTBEAT_FAILURES, LOOP_BLOCKED
from runengine_server.repositories.queue_repository import LeaseRenewer, QueueRepository
from runengine_server.worker.graph.log_fields import fields_of_frame, run_id_of, stack_of
from runengine_server.worker.loop_watch import CHECK_SECONDS, LoopWatch

# How often the connection is checked, and how long a heartbeat may take: while a network silently drops the
# connection, notifications and heartbeats are lost.
_CHECK_SECONDS = 2.5
_HEARTBEAT_SECONDS = 5.0
# After how long a blocked event loop is logged; and how long handing back its runs may take at the end.
_LOG_SECONDS = 2.0
HAND_BACK_SECONDS = 5.0

_log = structlog.get_logger()


@dataclass(slots=True)
class _Lease:
    """`until` is on time.monotonic()."""

    run: ClaimedRun
    until: float


class Heartbeat:
    """Renews the lease of all runs with one statement every third of it, from a thread and on a connection of
    its own: a node that blocks the worker's event loop does not lose its run. Runs that others have locked
    are renewed as soon as they are unlocked.

    The callbacks named on_… are called in the event loop that enters the heartbeat. `on_lost` gets a run that
    is no longer the worker's, or whose lease could not be renewed until shortly before its end, by the
    worker's own monotonic clock; `on_cancelled` the id and attempt of a run that was cancelled;
    `on_runs_to_claim` the payload of a notification that there are runs to claim, `on_watched` that of one
    which says what runs are watched.

    A node that blocks the loop holds up all other runs, and nothing can stop it. After `blocked_seconds` the
    other runs are handed back and `end_process` is called, in the thread; the lease of the run that blocks
    runs out, which counts as a loss. While `is_stop_requested`, by a signal that the loop does not see,
    `drain_seconds` are enough, or two, and all runs are handed back.
    """

    def __init__(
        self,
        queue: QueueRepository,
        lease_seconds: float,
        *,
        on_lost: Callable[[ClaimedRun], None],
        on_cancelled: Callable[[UUID, int], None],
        on_runs_to_claim: Callable[[str], None],
        on_watched: Callable[[str], None] = lambda payload: None,
        blocked_seconds: float = math.inf,
        end_process: Callable[[], object] = lambda: None,
        is_stop_requested: Callable[[], bool] = lambda: False,
        drain_seconds: float = 0,
    ) -> None:
        self._queue = queue
        self._blocked_seconds = blocked_seconds
        self._end_process = end_process
        self._is_stop_requested = is_stop_requested
        self._drain_seconds = min(max(_LOG_SECONDS, drain_seconds), blocked_seconds)
        self._interval = lease_seconds / 3
        self._retry_seconds = min(0.5, self._interval / 4)
        # A sixth of the lease is left for graphs to stop in, and for clocks that differ in speed.
        self._spare_seconds = lease_seconds / 6
        self._kept_seconds = lease_seconds - self._spare_seconds
        self._renewed_until = 0.0
        self._on_lost, self._on_cancelled = on_lost, on_cancelled
        self._on_runs_to_claim, self._on_watched = on_runs_to_claim, on_watched
        self._held: dict[UUID, _Lease] = {}
        # Of _held, which both threads read and change.
        self._lock = threading.Lock()

    def hold(self, run: ClaimedRun, since: float) -> None:
        """Renews from now on the lease of a run that was claimed not before `since`, on time.monotonic()."""
        with self._lock:
            until = max(self._renewed_until, since + run.lease_left - self._spare_seconds)
            self._held[run.id] = _Lease(run, until)

    def holds_lease(self, run: ClaimedRun) -> bool:
        """Whether the run's lease, as last renewed, is known not to have ended."""
        with self._lock:
            held = self._held.get(run.id)
            return held is not None and held.run.epoch == run.epoch and time.monotonic() < held.until

    def release(self, run: ClaimedRun) -> bool:
        """Stops renewing the lease of a run. Returns whether it was renewed until now."""
        with self._lock:
            held = self._held.get(run.id)
            if held is None or held.run.epoch != run.epoch:
                return False
            del self._held[run.id]
            return True

    def _all_held(self) -> list[_Lease]:
        with self._lock:
            return list(self._held.values())

    async def __aenter__(self) -> Heartbeat:
        self._workers_loop = asyncio.get_running_loop()
        self._watch = LoopWatch()
        self._ended = asyncio.Event()
        self._started = threading.Event()
        # A daemon, so that nothing that it waits for keeps the process alive.
        threading.Thread(target=self._run_thread, name="heartbeat", daemon=True).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._started.wait()
        self._loop.call_soon_threadsafe(self._stopping.set)
        await self._ended.wait()

    def _run_thread(self) -> None:
        try:
            # Like the worker's own loop: asyncio's takes 60 µs longer to pass on a notification, for which a
            # run waits that was just triggered.
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._beat_until_stopped())
        finally:
            self._call_in_workers_loop(self._ended.set)

    def _call_in_workers_loop(self, callback: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the worker's loop is closed: the process is ending
            self._workers_loop.call_soon_threadsafe(callback, *arguments)

    async def _beat_until_stopped(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._blocked = asyncio.Event()
        self._started.set()
        duties = [
            asyncio.create_task(duty())
            for duty in (self._beat_while_connected, self.watch_leases, self._watch_workers_loop)
        ]
        await self._stopping.wait()
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)

    async def _beat_while_connected(self) -> None:
        while True:
            try:
                async with self._queue.lease_renewer(self._on_notification) as renewer:
                    # Notifications since the last connection are lost.
                    self._call_in_workers_loop(self._on_runs_to_claim, "")
                    await self._beat(renewer)
            except Unavailable:
                HEARTBEAT_FAILURES.inc()
            except Exception as error:
                HEARTBEAT_FAILURES.inc()
                # Without heartbeats all runs would be lost, and the process would look healthy.
                _log.error("heartbeat failed; starting it again", exc_info=error)
            await asyncio.sleep(self._retry_seconds)

    async def _beat(self, renewer: LeaseRenewer) -> None:
        while True:
            due = time.monotonic() + self._interval
            locked = await self._renew(renewer, self._all_held())
            while locked and not self._blocked.is_set() and time.monotonic() + self._retry_seconds < due:
                await self._wait(renewer, until=time.monotonic() + self._retry_seconds)
                locked = await self._renew(renewer, self._all_held())
            await self._wait(renewer, until=due)
            if self._blocked.is_set():
                await renewer.hand_back([each.run for each in self._all_held()], self._interval)
                self._end_process()

    async def _renew(self, renewer: LeaseRenewer, held: list[_Lease]) -> list[_Lease]:
        """Renews leases, and returns those of runs that others have locked. Such a run is not taken over
        while it is locked; once it is unlocked, its lease may have ended.
        """
        sent = time.monotonic()
        kept, locked = await renewer.heartbeat(
            [each.run for each in held], min(self._interval, _HEARTBEAT_SECONDS)
        )
        self._renewed_until = sent + self._kept_seconds
        for each in held:
            if each.run.id in kept:
                each.until = self._renewed_until
            elif each.run.id not in locked:
                self._give_up(each)
        return [each for each in held if each.run.id in locked]

    async def _wait(self, renewer: LeaseRenewer, until: float) -> None:
        """Returns at `until`, or once the worker's loop is blocked for too long."""
        while (left := until - time.monotonic()) > 0 and not self._blocked.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._blocked.wait(), min(left, _CHECK_SECONDS))
            if left > _CHECK_SECONDS and not self._blocked.is_set():
                await renewer.check_connection(_CHECK_SECONDS)

    async def _watch_workers_loop(self) -> None:
        is_logged = False
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            blocked = self._watch.check()
            if blocked < min(_LOG_SECONDS, self._blocked_seconds):
                is_logged = False
                continue
            self._watch.interrupt()
            frame = self._watch.frame()
            fields = fields_of_frame(frame)
            if not is_logged:
                is_logged = True
                LOOP_BLOCKED.inc()
                _log.error(
                    "the event loop is blocked", **fields, seconds=round(blocked, 1), place=stack_of(frame)
                )
            if self._is_stop_requested() and blocked >= self._drain_seconds:
                await self._hand_back_and_end(None)
            elif blocked >= self._blocked_seconds:
                await self._hand_back_and_end(run_id_of(fields))

    async def _hand_back_and_end(self, blocking: UUID | None) -> None:
        """Ends the process. All runs are handed back, except the one that blocks the loop."""
        held = self._all_held()
        _log.critical("the worker ends, for its event loop is blocked", handed_back=len(held))
        for each in held:
            if each.run.id == blocking:
                self.release(each.run)
        self._blocked.set()
        # _beat hands the runs back and ends the process; where the database is away, this does.
        await asyncio.sleep(HAND_BACK_SECONDS)
        self._end_process()

    async def watch_leases(self) -> None:
        """Gives up each run whose lease could not be renewed in time."""
        while True:
            await asyncio.sleep(self._interval / 8)
            now = time.monotonic()
            for each in self._all_held():
                if each.until <= now:
                    self._give_up(each)

    def _give_up(self, lease: _Lease) -> None:
        # A run that has ended in the meantime is not lost.
        if self.release(lease.run):
            self._call_in_workers_loop(self._on_lost, lease.run)

    def _on_notification(self, channel: str, payload: str) -> None:
        if channel == CANCELLED:
            # With the attempt, so that a late notification of an old cancel does not stop the retry.
            run_id, attempt = payload.split()
            self._call_in_workers_loop(self._on_cancelled, UUID(run_id), int(attempt))
        elif channel in (WATCHED, TENANTS_WATCHED):
            self._call_in_workers_loop(self._on_watched, payload)
        else:
            self._call_in_workers_loop(self._on_runs_to_claim, payload)
