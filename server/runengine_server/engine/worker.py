"""Claims runs and keeps them while the processor executes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import ClaimedRun
from runengine_server.repositories.database import Database
from runengine_server.repositories.queue_repository import QueueRepository

# Notifications are a hint, and may be lost; a poll this far apart finds what they missed.
_POLL_SECONDS = 2.0

# How often a worker looks for what has expired.
_FORGET_SECONDS = 3600.0

# How long a stopping worker waits for its nodes to notice.
_STOP_SECONDS = 2.0

_log = structlog.get_logger()


class Worker:
    """Up to `concurrency` runs at a time, each held by a lease that a heartbeat renews.

    `left_behind`, once it has stopped: whether a node would not end.
    """

    def __init__(
        self,
        database: Database,
        queue: QueueRepository,
        process: Callable[[ClaimedRun], Coroutine[Any, Any, None]],
        concurrency: int,
        lease_seconds: float,
    ) -> None:
        self._database = database
        self._queue = queue
        self._process = process
        self._concurrency = concurrency
        self._heartbeat_seconds = lease_seconds / 3
        self._held: dict[UUID, tuple[ClaimedRun, asyncio.Task[None]]] = {}
        self._left: list[ClaimedRun] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self.left_behind = False

    def stop(self) -> None:
        """Makes `work` return, after its runs are handed back."""
        self._stopping = True
        self._wake.set()

    async def work(self) -> None:
        """Works until `stop`; then stops its runs and hands them back at once."""
        duties = [
            asyncio.create_task(self._forever(self._keep_leases)),
            asyncio.create_task(self._forever(self._forget_old)),
            asyncio.create_task(
                self._forever(lambda: self._follow("runengine_queued", lambda _: self._wake.set()))
            ),
            asyncio.create_task(
                self._forever(lambda: self._follow("runengine_cancelled", self._stop_cancelled))
            ),
        ]
        try:
            while not self._stopping:
                self._wake.clear()
                claimed = 0
                try:
                    await self._hand_back_left()
                    claimed = await self._claim()
                except Unavailable:
                    pass
                except Exception as error:
                    _log.error("claim failed", exc_info=error)
                if (claimed == 0 or len(self._held) >= self._concurrency) and not self._stopping:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), _POLL_SECONDS)
        finally:
            for duty in duties:
                duty.cancel()
            await asyncio.gather(*duties, return_exceptions=True)
            # Runs are handed back only on the way out in good order. Whatever else ends the loop, a node
            # that calls sys.exit() above all, may be the run's doing, and has to count as a loss.
            if self._stopping:
                await self._stop_all()

    async def _claim(self) -> int:
        free = self._concurrency - len(self._held)
        claimed = 0
        # Each batch is started before the next is asked for, which may fail.
        for claim in (self._queue.claim_queued, self._queue.claim_expired):
            if claimed < free:
                runs = await claim(free - claimed)
                claimed += len(runs)
                for run in runs:
                    self._start(run)
        return claimed

    def _start(self, run: ClaimedRun) -> None:
        # It may be our own, whose lease ended while the database was away.
        if (before := self._held.pop(run.id, None)) is not None:
            before[1].cancel()
        task = asyncio.create_task(self._process(run), name=f"run {run.id}")
        self._held[run.id] = (run, task)
        task.add_done_callback(partial(self._let_go, run))

    def _let_go(self, run: ClaimedRun, task: asyncio.Task[None]) -> None:
        if self._held.get(run.id, (None, None))[1] is task:
            del self._held[run.id]
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, Unavailable):
                _log.warning("database went away under a run", run_id=str(run.id))
                self._left.append(run)
            else:
                # Handed back, it would be claimed again at once, for ever. Its lease runs out instead,
                # which counts as a loss, and after five of them the run fails.
                _log.error("run left to its lease", run_id=str(run.id), exc_info=error)
        self._wake.set()

    async def _hand_back_left(self) -> None:
        """Gives up what could not be ended, so that no lease has to run out and no loss is counted."""
        if left := list(self._left):
            await self._queue.hand_back(left)
            del self._left[: len(left)]

    def _stop_cancelled(self, notified: str) -> None:
        # With the attempt, so that a late word of an old cancel does not stop the retry.
        run_id, attempt = notified.split()
        run, task = self._held.get(UUID(run_id), (None, None))
        if run is not None and task is not None and run.attempt == int(attempt):
            task.cancel()

    async def _forever(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
            except Unavailable:
                await asyncio.sleep(_POLL_SECONDS)
            except Exception as error:
                # Without heartbeats all runs would be lost, and the process would look healthy.
                _log.error("worker's duty failed; starting it again", exc_info=error)
                await asyncio.sleep(_POLL_SECONDS)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            if held := list(self._held.values()):
                kept = await self._queue.heartbeat([run for run, _ in held])
                for run, task in held:
                    if run.id not in kept:
                        task.cancel()

    async def _forget_old(self) -> None:
        while True:
            await self._queue.forget_old()
            await asyncio.sleep(_FORGET_SECONDS)

    async def _follow(self, channel: str, heard: Callable[[str], None]) -> None:
        async with self._database.listen(channel) as queue:
            while (payload := await queue.get()) is not None:
                heard(payload)
        raise Unavailable

    async def _stop_all(self) -> None:
        held = list(self._held.values())
        for _, task in held:
            task.cancel()
        # A node may ignore it for as long as it likes; what it still writes is fenced off.
        if held:
            _, stubborn = await asyncio.wait([task for _, task in held], timeout=_STOP_SECONDS)
            self.left_behind = bool(stubborn)
        with suppress(Unavailable):
            await self._queue.hand_back([*self._left, *(run for run, _ in held)])
