"""Claims runs, and keeps their leases while the processor executes them."""

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
from prometheus_client import Counter

from runengine_server.database.channels import HANDED_BACK
from runengine_server.database.driver_errors import error_fields
from runengine_server.domain.errors import Denied, Unavailable
from runengine_server.domain.run import ClaimedRun
from runengine_server.garbage import collect_in_pause
from runengine_server.metrics import (
    CLAIMED,
    CONCURRENCY,
    LEASES_LOST,
    RUNS_HANDED_BACK,
    RUNS_HELD,
    TAKEN_OVER,
)
from runengine_server.repositories.queue_repository import QueueRepository
from runengine_server.worker.heartbeat import Heartbeat

# Notifications are a hint, and may be lost; a poll finds what they missed. A quarter of the lease, where
# that is less, so that a lost worker's runs go on 1.25 leases after its last heartbeat at the latest.
POLL_SECONDS = 2.0

# A claim that brought fewer runs than there were places has most likely taken all that there were, and a
# notification or the end of a run wakes the worker before. The next claim at once would keep those that it
# brought from their first nodes: by 0.25 ms of 3.5.
_CLAIM_AGAIN_SECONDS = 0.02

# How often a worker purges what has expired.
_PURGE_SECONDS = 3600.0

# How often a worker renews its registration, in leases, of which a registration holds for two; and how soon
# it tries again when that failed.
_REGISTER_LEASES = 0.5
_REGISTER_AGAIN_SECONDS = 1.0

# How long a stopping worker waits for cancelled nodes to end, and then for the database to take the runs
# back. Together with the default of `drain_seconds` that is less than `up` waits for its children.
STOP_SECONDS = 1.5
_HAND_BACK_SECONDS = 1.0

_log = structlog.get_logger()


class Worker:
    """Executes up to `concurrency` runs at a time, each held by a lease that a heartbeat renews.

    `drain` asks all graphs to stop after their current nodes, for which a stopping worker waits
    `drain_seconds`. `hourly` is called once an hour. `on_watched`, `blocked_seconds`, `end_process` and
    `is_stop_requested` are those of Heartbeat. `has_uncancellable` says, once the worker has stopped, whether
    a run would not end although it was cancelled.
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
        is_stop_requested: Callable[[], bool] = lambda: False,
        hourly: Sequence[Callable[[], Awaitable[None]]] = (),
        on_watched: Callable[[str], None] = lambda payload: None,
    ) -> None:
        self._queue = queue
        self._hourly = [queue.purge_expired, *hourly]
        self._process = process
        self._drain = drain
        self._concurrency = concurrency
        self._drain_seconds = drain_seconds
        self.poll_seconds = min(POLL_SECONDS, lease_seconds / 4)
        self._register_seconds = lease_seconds * _REGISTER_LEASES
        self._heartbeat = Heartbeat(
            queue,
            lease_seconds,
            on_lost=self.on_lost,
            on_cancelled=self._on_cancelled,
            on_runs_to_claim=self._on_runs_to_claim,
            on_watched=on_watched,
            blocked_seconds=blocked_seconds,
            end_process=end_process,
            is_stop_requested=is_stop_requested,
            drain_seconds=drain_seconds,
        )
        self._held: dict[UUID, tuple[ClaimedRun, asyncio.Task[None]]] = {}
        self._to_hand_back: list[ClaimedRun] = []
        self._wake = asyncio.Event()
        self._claim_expired_at = 0.0
        self._stopping = False
        self._stopped_claiming = asyncio.Event()
        CONCURRENCY.set(concurrency)
        RUNS_HELD.set_function(lambda: len(self._held))
        self._trouble: dict[str, str | None] | None = None
        self._was_denied = False
        self.has_uncancellable = False

    def stop(self) -> None:
        """Makes `work` hand back its runs and return. No graph begins another node from now on, not even one
        that a claim under way brings.
        """
        self._stopping = True
        self._drain()
        self._wake.set()

    async def work(self) -> None:
        """Works until `stop` is called; then stops its runs and hands them back at once."""
        purging = asyncio.create_task(self._purge_hourly())
        registering = asyncio.create_task(self._keep_registered())
        try:
            async with self._heartbeat:
                await self._claim_until_stopped()
                self._stopped_claiming.set()
                await self._stop_all()
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(_HAND_BACK_SECONDS):
                    await self._hand_back()
                    await registering
        finally:
            # Where this raised, which may be the fault of a run, no run is handed back: its lease runs out,
            # which counts as a loss.
            purging.cancel()
            registering.cancel()
            await asyncio.gather(purging, registering, return_exceptions=True)

    async def _claim_until_stopped(self) -> None:
        while not self._stopping:
            self._wake.clear()
            claimed, free = 0, self._concurrency - len(self._held)
            try:
                await self._hand_back()
                if self._was_denied:
                    await self._queue.check()
                    self._was_denied = False
                claimed = await self._claim()
                if self._trouble:
                    self._trouble = None
                    _log.info("the worker works again")
            except Unavailable as error:
                why = error_fields(error.__cause__ or error)
                # Logged once for each reason in a row: a database that was away may refuse us now.
                if self._trouble is None or self._trouble["sqlstate"] != why["sqlstate"]:
                    self._trouble = why
                    _log.error("the worker cannot work", **why)
            except Exception as error:
                _log.error("claim failed", exc_info=error)
            if not self._stopping:
                is_short = 0 < claimed < free and len(self._held) < self._concurrency
                seconds = min(_CLAIM_AGAIN_SECONDS, self.poll_seconds) if is_short else self.poll_seconds
                if not self._held:
                    collect_in_pause()
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._wake.wait()

    async def _claim(self) -> int:
        claimed, now = 0, time.monotonic()
        if now >= self._claim_expired_at and len(self._held) < self._concurrency:
            self._claim_expired_at = now + self.poll_seconds
            in_quarantine = sum(run.in_quarantine for run, _ in self._held.values())
            free = self._concurrency - len(self._held)
            runs = await self._queue.claim_expired(free, quarantine=max(0, 1 - in_quarantine))
            claimed += self._start(runs, now, TAKEN_OVER)
        if len(self._held) < self._concurrency:
            now = time.monotonic()
            runs = await self._queue.claim_queued(self._concurrency - len(self._held))
            claimed += self._start(runs, now, CLAIMED)
        return claimed

    def _start(self, runs: Sequence[ClaimedRun], since: float, counted: Counter) -> int:
        for run in runs:
            counted.labels(run.workflow_name).inc()
            # It may be this worker's own, whose lease ended while the database was away.
            if (former := self._held.pop(run.id, None)) is not None:
                former[1].cancel()
            self._heartbeat.hold(run, since)
            holds_lease = partial(self._heartbeat.holds_lease, run)
            task = asyncio.create_task(self._process(run, holds_lease), name=f"run {run.id}")
            self._held[run.id] = (run, task)
            task.add_done_callback(partial(self._on_processed, run))
        return len(runs)

    def _on_processed(self, run: ClaimedRun, task: asyncio.Task[None]) -> None:
        self._heartbeat.release(run)
        if self._held.get(run.id, (None, None))[1] is task:
            del self._held[run.id]
        if task.cancelled():
            # To hand back has no effect on a run that was lost or cancelled.
            self._to_hand_back.append(run)
        elif (error := task.exception()) is not None:
            if isinstance(error, Unavailable):
                # A TimeoutError or QueryCanceledError is a statement that took too long.
                why = error_fields(error.__cause__ or error)
                _log.warning("a run is handed back: the database failed", run_id=str(run.id), **why)
                self._to_hand_back.append(run)
                # No more is claimed before the grants are back: what cannot be stored would be executed again
                # and again.
                self._was_denied |= isinstance(error, Denied)
            else:
                # If it were handed back, it would be claimed again at once, for ever. When its lease runs
                # out that counts as a loss, and after five losses the run fails.
                _log.error("run left to its lease", run_id=str(run.id), exc_info=error)
        elif self._stopping:
            # It may have drained before _stop_all looked; one that has ended is not changed by this.
            self._to_hand_back.append(run)
        if run.in_quarantine:
            self._claim_expired_at = 0.0
        self._wake.set()

    async def _hand_back(self) -> None:
        """Hands back the runs that could not be ended, so that no lease has to run out and no loss is
        counted; those that others have locked stay in the list.
        """
        if runs := list(self._to_hand_back):
            locked = await self._queue.hand_back(runs)
            RUNS_HANDED_BACK.inc(len(runs) - len(locked))
            self._to_hand_back[: len(runs)] = [run for run in runs if run.id in locked]

    def on_lost(self, lost: ClaimedRun) -> None:
        """Stops the execution of a run whose lease is lost."""
        LEASES_LOST.inc()
        run, task = self._held.get(lost.id, (None, None))
        if run is not None and task is not None and run.epoch == lost.epoch:
            task.cancel("run is no longer ours")

    def _on_cancelled(self, run_id: UUID, attempt: int) -> None:
        run, task = self._held.get(run_id, (None, None))
        if run is not None and task is not None and run.attempt == attempt:
            task.cancel("run cancelled")

    def _on_runs_to_claim(self, payload: str) -> None:
        if payload == HANDED_BACK:
            self._claim_expired_at = 0.0
        self._wake.set()

    async def _keep_registered(self) -> None:
        """Renews the registration of the worker's workflows, and withdraws it once the worker claims no more:
        before its runs have stopped, which may take long.
        """
        while not self._stopped_claiming.is_set():
            pause = self._register_seconds
            try:
                await self._queue.register_workflows()
            except Exception:
                # When the database was away, the registrations of all workers may have expired.
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
                    _log.warning("nothing purged this time", exc_info=error)
            await asyncio.sleep(_PURGE_SECONDS)

    async def _stop_all(self) -> None:
        held = list(self._held.values())
        tasks = [task for _, task in held]
        if tasks:
            self._drain()  # for what a claim that was under way has brought since
            _, working = await asyncio.wait(tasks, timeout=self._drain_seconds)
            for task in working:
                task.cancel()
            # A node may ignore that for as long as it likes; what it still writes is fenced off.
            _, uncancellable = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            self.has_uncancellable = bool(uncancellable)
        self._to_hand_back += [run for run, _ in held]
