"""Claims runs and keeps them while the processor executes them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from runengine_server.database.channels import HANDED_BACK
from runengine_server.database.driver_errors import error_fields
from runengine_server.domain.errors import Denied, Unavailable
from runengine_server.domain.run import ClaimedRun
from runengine_server.repositories.queue_repository import QueueRepository
from runengine_server.worker.heartbeat import Heartbeat

# Notifications are a hint, and may be lost; a poll finds what they missed. A quarter of the lease, where
# that is less, so that a lost worker's runs go on 1.25 leases after its last heartbeat at the latest.
_POLL_SECONDS = 2.0

# How often a worker looks for what has expired.
_FORGET_SECONDS = 3600.0

# How often it says that it is there, of the two leases that this holds; and when it could not.
_REGISTER_LEASES = 0.5
_REGISTER_AGAIN_SECONDS = 1.0

# How long a stopping worker waits for its nodes to notice that they are cancelled, and then for the
# database to take the runs back; both with the default of `drain_seconds` less than `up` waits.
_STOP_SECONDS = 1.5
_HAND_BACK_SECONDS = 1.0

_log = structlog.get_logger()


class Worker:
    """Up to `concurrency` runs at a time, each held by a lease that a heartbeat renews.

    `drain` asks all graphs to stop after the nodes that they are in, for which a stopping worker waits
    `drain_seconds`. `sweep` is called once an hour. `blocked_seconds`, `end_process` and `is_told_to_stop`
    are as Heartbeat has them. `left_behind`, once it has stopped: whether a node would not end.
    """

    def __init__(
        self,
        queue: QueueRepository,
        process: Callable[[ClaimedRun, Callable[[], bool]], Coroutine[Any, Any, None]],
        drain: Callable[[], None],
        *,
        concurrency: int,
        lease_seconds: float,
        drain_seconds: float,
        blocked_seconds: float = math.inf,
        end_process: Callable[[], object] = lambda: None,
        is_told_to_stop: Callable[[], bool] = lambda: False,
        sweep: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._queue = queue
        self._hourly = [queue.purge_expired, *([sweep] if sweep else [])]
        self._process = process
        self._drain = drain
        self._concurrency = concurrency
        self._drain_seconds = drain_seconds
        self._poll_seconds = min(_POLL_SECONDS, lease_seconds / 4)
        self._register_seconds = lease_seconds * _REGISTER_LEASES
        self._heartbeat = Heartbeat(
            queue,
            lease_seconds,
            lose=self._lose,
            cancel=self._stop_cancelled,
            wake=self._woken,
            blocked_seconds=blocked_seconds,
            end_process=end_process,
            is_told_to_stop=is_told_to_stop,
            drain_seconds=drain_seconds,
        )
        self._held: dict[UUID, tuple[ClaimedRun, asyncio.Task[None]]] = {}
        self._left: list[ClaimedRun] = []
        self._wake = asyncio.Event()
        self._look_for_expired_at = 0.0
        self._stopping = False
        self._stopped_claiming = asyncio.Event()
        self._cannot_work: dict[str, str | None] | None = None
        self._was_denied = False
        self.left_behind = False

    def stop(self) -> None:
        """Makes `work` return, after its runs are handed back. No graph begins another node from now on, even
        while a claim is under way.
        """
        self._stopping = True
        self._drain()
        self._wake.set()

    async def work(self) -> None:
        """Works until `stop`; then stops its runs and hands them back at once."""
        forgetting = asyncio.create_task(self._purge_hourly())
        registering = asyncio.create_task(self._stay_registered())
        try:
            async with self._heartbeat:
                await self._claim_until_stopped()
                self._stopped_claiming.set()
                await self._stop_all()
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(_HAND_BACK_SECONDS):
                    await self._hand_back_left()
                    await registering
        finally:
            # On any other way out, a node that calls sys.exit() above all, which may be a run's doing,
            # no run is handed back, so that it counts as a loss.
            forgetting.cancel()
            registering.cancel()
            await asyncio.gather(forgetting, registering, return_exceptions=True)

    async def _claim_until_stopped(self) -> None:
        while not self._stopping:
            self._wake.clear()
            claimed = 0
            try:
                await self._hand_back_left()
                if self._was_denied:
                    await self._queue.check()
                    self._was_denied = False
                claimed = await self._claim()
                if self._cannot_work:
                    self._cannot_work = None
                    _log.info("the worker works again")
            except Unavailable as error:
                why = error_fields(error.__cause__ or error)
                # Again when the reason is another: a database that was away may not let us in now.
                if self._cannot_work is None or self._cannot_work["sqlstate"] != why["sqlstate"]:
                    self._cannot_work = why
                    _log.error("the worker cannot work", **why)
            except Exception as error:
                _log.error("claim failed", exc_info=error)
            if (claimed == 0 or len(self._held) >= self._concurrency) and not self._stopping:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._poll_seconds)

    async def _claim(self) -> int:
        claimed, now = 0, time.monotonic()
        if now >= self._look_for_expired_at and len(self._held) < self._concurrency:
            self._look_for_expired_at = now + self._poll_seconds
            suspects = sum(run.is_suspect for run, _ in self._held.values())
            free = self._concurrency - len(self._held)
            runs = await self._queue.claim_expired(free, suspects=max(0, 1 - suspects))
            claimed += self._start(runs, now)
        if len(self._held) < self._concurrency:
            now = time.monotonic()
            runs = await self._queue.claim_queued(self._concurrency - len(self._held))
            claimed += self._start(runs, now)
        return claimed

    def _start(self, runs: Sequence[ClaimedRun], since: float) -> int:
        for run in runs:
            # It may be our own, whose lease ended while the database was away.
            if (before := self._held.pop(run.id, None)) is not None:
                before[1].cancel()
            self._heartbeat.hold(run, since)
            holds = partial(self._heartbeat.holds, run)
            task = asyncio.create_task(self._process(run, holds), name=f"run {run.id}")
            self._held[run.id] = (run, task)
            task.add_done_callback(partial(self._let_go, run))
        return len(runs)

    def _let_go(self, run: ClaimedRun, task: asyncio.Task[None]) -> None:
        self._heartbeat.release(run)
        if self._held.get(run.id, (None, None))[1] is task:
            del self._held[run.id]
        if task.cancelled():
            # Without effect on one that was lost or cancelled.
            self._left.append(run)
        elif (error := task.exception()) is not None:
            if isinstance(error, Unavailable):
                # A TimeoutError or QueryCanceledError is a statement that took too long.
                why = error_fields(error.__cause__ or error)
                _log.warning("a run is handed back: the database failed", run_id=str(run.id), **why)
                self._left.append(run)
                # What no worker may store would be executed again and again.
                self._was_denied |= isinstance(error, Denied)
            else:
                # Handed back, it would be claimed again at once, for ever. Its lease runs out instead,
                # which counts as a loss, and after five of them the run fails.
                _log.error("run left to its lease", run_id=str(run.id), exc_info=error)
        if run.is_suspect:
            self._look_for_expired_at = 0.0
        self._wake.set()

    async def _hand_back_left(self) -> None:
        """Gives up what could not be ended, so that no lease has to run out and no loss is counted."""
        if left := list(self._left):
            locked = await self._queue.hand_back(left)
            self._left[: len(left)] = [run for run in left if run.id in locked]

    def _lose(self, lost: ClaimedRun) -> None:
        run, task = self._held.get(lost.id, (None, None))
        if run is not None and task is not None and run.epoch == lost.epoch:
            task.cancel()

    def _stop_cancelled(self, run_id: UUID, attempt: int) -> None:
        run, task = self._held.get(run_id, (None, None))
        if run is not None and task is not None and run.attempt == attempt:
            task.cancel()

    def _woken(self, payload: str) -> None:
        if payload == HANDED_BACK:
            self._look_for_expired_at = 0.0
        self._wake.set()

    async def _stay_registered(self) -> None:
        """Says again and again that its workflows are served, and that they are not once it is to stop:
        before its runs have stopped, which may take long.
        """
        while not self._stopped_claiming.is_set():
            pause = self._register_seconds
            try:
                await self._queue.register_workflows()
            except Exception:
                # After the database was away all workers may be taken to be gone.
                pause = min(pause, _REGISTER_AGAIN_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped_claiming.wait(), pause)
        with suppress(Exception):  # it expires
            await self._queue.withdraw_workflows()

    async def _purge_hourly(self) -> None:
        while True:
            for clean in self._hourly:
                try:
                    await clean()
                except Exception as error:
                    _log.warning("nothing purged this time", error=type(error).__name__)
            await asyncio.sleep(_FORGET_SECONDS)

    async def _stop_all(self) -> None:
        held = list(self._held.values())
        tasks = [task for _, task in held]
        if tasks:
            self._drain()  # those too that a claim under way has brought since
            _, working = await asyncio.wait(tasks, timeout=self._drain_seconds)
            for task in working:
                task.cancel()
            # A node may ignore it for as long as it likes; what it still writes is fenced off.
            _, stubborn = await asyncio.wait(tasks, timeout=_STOP_SECONDS)
            self.left_behind = bool(stubborn)
        self._left += [run for run, _ in held]
