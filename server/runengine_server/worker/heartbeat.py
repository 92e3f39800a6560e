"""Keeps the leases of a worker's runs, and hears what is notified to it."""

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

from runengine_server.database.channels import CANCELLED
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import ClaimedRun
from runengine_server.repositories.queue_repository import Line, QueueRepository
from runengine_server.worker.graph.whereabouts import of_frame, place, run_of
from runengine_server.worker.loop_watch import LOOK_SECONDS, LoopWatch

# How often it is seen whether the connection is alive, and how long an answer may take: a network that
# forgets it without a word costs notifications, and the beats until then.
_LOOK_SECONDS = 2.5
_ANSWER_SECONDS = 5.0
# After how long a blocked event loop is told of in the log, and how long the handing back may take then.
_TELL_SECONDS = 2.0
_LEAVE_SECONDS = 5.0

_log = structlog.get_logger()


@dataclass(slots=True)
class _Held:
    run: ClaimedRun
    until: float


class Heartbeat:
    """One statement every third of the lease renews all of them, from a thread and on a connection of
    its own: a node that blocks the worker's event loop does not lose its run. Those that others have
    locked are renewed as soon as they no longer are.

    All callbacks are called in the event loop that enters it. `lose` gets a run that is no longer the
    worker's, or that it could not keep until shortly before its lease ends, by the worker's own
    monotonic clock; `cancel` the id and attempt of a run that was cancelled; `wake` what was
    notified of runs to claim.

    A node that blocks the loop holds up all other runs, and nothing can stop it. After `blocked_seconds`
    the other runs are handed back and `end_process` is called, in the thread; the lease of the run that
    blocks runs out, which counts as a loss. When it `is_told_to_stop`, by a signal that the loop does not
    see, `drain_seconds` are enough, or two, and all runs are handed back.
    """

    def __init__(
        self,
        queue: QueueRepository,
        lease_seconds: float,
        *,
        lose: Callable[[ClaimedRun], None],
        cancel: Callable[[UUID, int], None],
        wake: Callable[[str], None],
        blocked_seconds: float = math.inf,
        end_process: Callable[[], object] = lambda: None,
        is_told_to_stop: Callable[[], bool] = lambda: False,
        drain_seconds: float = 0,
    ) -> None:
        self._queue = queue
        self._blocked_seconds = blocked_seconds
        self._end_process = end_process
        self._is_told_to_stop = is_told_to_stop
        self._drain_seconds = min(max(_TELL_SECONDS, drain_seconds), blocked_seconds)
        self._interval = lease_seconds / 3
        self._soon = min(0.5, self._interval / 4)
        # A sixth of the lease is left for graphs to stop in, and for clocks that differ in speed.
        self._keeps = lease_seconds * 5 / 6
        self._lose, self._cancel, self._wake = lose, cancel, wake
        self._held: dict[UUID, _Held] = {}
        # Both threads look at it and change it.
        self._lock = threading.Lock()

    def hold(self, run: ClaimedRun, since: float) -> None:
        """Keeps the lease of a run that was claimed at `since`, or later, on time.monotonic()."""
        with self._lock:
            self._held[run.id] = _Held(run, since + self._keeps)

    def holds(self, run: ClaimedRun) -> bool:
        """Whether its lease, as last renewed, is known not to have ended."""
        with self._lock:
            held = self._held.get(run.id)
            return held is not None and held.run.epoch == run.epoch and time.monotonic() < held.until

    def release(self, run: ClaimedRun) -> bool:
        """Lets the lease of a run that has ended be. Whether it was kept until now."""
        with self._lock:
            held = self._held.get(run.id)
            if held is None or held.run.epoch != run.epoch:
                return False
            del self._held[run.id]
            return True

    def _all_held(self) -> list[_Held]:
        with self._lock:
            return list(self._held.values())

    async def __aenter__(self) -> Heartbeat:
        self._workers_loop = asyncio.get_running_loop()
        self._watch = LoopWatch()
        self._ended = asyncio.Event()
        self._started = threading.Event()
        # A daemon, so that nothing it waits for keeps the process alive.
        threading.Thread(target=self._thread, name="heartbeat", daemon=True).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._started.wait()
        self._loop.call_soon_threadsafe(self._stopping.set)
        await self._ended.wait()

    def _thread(self) -> None:
        try:
            asyncio.run(self._beat_until_stopped())
        finally:
            self._tell(self._ended.set)

    def _tell(self, callback: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the worker's loop is closed: the process is ending
            self._workers_loop.call_soon_threadsafe(callback, *arguments)

    async def _beat_until_stopped(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._blocked = asyncio.Event()
        self._started.set()
        duties = [
            asyncio.create_task(duty())
            for duty in (self._stay_connected, self._watch_the_clock, self._watch_the_loop)
        ]
        await self._stopping.wait()
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)

    async def _stay_connected(self) -> None:
        while True:
            try:
                async with self._queue.line(self._hear) as line:
                    # Whatever was notified in between was not heard.
                    self._tell(self._wake, "")
                    await self._beat(line)
            except Unavailable:
                pass
            except Exception as error:
                # Without heartbeats all runs would be lost, and the process would look healthy.
                _log.error("heartbeat failed; starting it again", exc_info=error)
            await asyncio.sleep(self._soon)

    async def _beat(self, line: Line) -> None:
        while True:
            due = time.monotonic() + self._interval
            locked = await self._renew(line, self._all_held())
            while locked and not self._blocked.is_set() and time.monotonic() + self._soon < due:
                await self._rest(line, until=time.monotonic() + self._soon)
                locked = await self._renew(line, locked)
            await self._rest(line, until=due)
            if self._blocked.is_set():
                await line.hand_back([each.run for each in self._all_held()], self._interval)
                self._end_process()

    async def _renew(self, line: Line, held: list[_Held]) -> list[_Held]:
        """Those that others have locked. Nobody takes such a run over as long as it is locked; once it no
        longer is, its lease may have ended.
        """
        sent = time.monotonic()
        kept, locked = await line.heartbeat([each.run for each in held], min(self._interval, _ANSWER_SECONDS))
        for each in held:
            if each.run.id in kept:
                each.until = sent + self._keeps
            elif each.run.id not in locked:
                self._give_up(each)
        return [each for each in held if each.run.id in locked]

    async def _rest(self, line: Line, until: float) -> None:
        """Until the next beat is due, or the loop is blocked for too long."""
        while (left := until - time.monotonic()) > 0 and not self._blocked.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._blocked.wait(), min(left, _LOOK_SECONDS))
            if left > _LOOK_SECONDS and not self._blocked.is_set():
                await line.look(_LOOK_SECONDS)

    async def _watch_the_loop(self) -> None:
        told = False
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            still = self._watch.look()
            if still < min(_TELL_SECONDS, self._blocked_seconds):
                told = False
                continue
            frame = self._watch.frame()
            found = of_frame(frame)
            if not told:
                told = True
                _log.error("the event loop is blocked", **found, seconds=round(still, 1), place=place(frame))
            if self._is_told_to_stop() and still >= self._drain_seconds:
                await self._leave(None)
            elif still >= self._blocked_seconds:
                await self._leave(run_of(found))

    async def _leave(self, blocking: UUID | None) -> None:
        held = self._all_held()
        _log.critical("the worker ends, for its event loop is blocked", handed_back=len(held))
        for each in held:
            if each.run.id == blocking:
                self.release(each.run)
        self._blocked.set()
        # Whether the database hears of it or not.
        await asyncio.sleep(_LEAVE_SECONDS)
        self._end_process()

    async def _watch_the_clock(self) -> None:
        while True:
            await asyncio.sleep(self._interval / 8)
            now = time.monotonic()
            for each in self._all_held():
                if each.until <= now:
                    self._give_up(each)

    def _give_up(self, held: _Held) -> None:
        # One that has ended in the meantime is not lost.
        if self.release(held.run):
            self._tell(self._lose, held.run)

    def _hear(self, channel: str, payload: str) -> None:
        if channel == CANCELLED:
            # With the attempt, so that a late word of an old cancel does not stop the retry.
            run_id, attempt = payload.split()
            self._tell(self._cancel, UUID(run_id), int(attempt))
        else:
            self._tell(self._wake, payload)
