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

_log = structlog.get_logger()


class Worker:
    """Up to `concurrency` runs at a time, each held by a lease that a heartbeat renews."""

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
        self._wake = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        """Makes `work` return, after its runs are handed back."""
        self._stopping = True
        self._wake.set()

    async def work(self) -> None:
        """Works until `stop`; then stops its runs and hands them back at once."""
        helpers = [
            asyncio.create_task(self._keep_leases()),
            asyncio.create_task(self._follow("runengine_queued", lambda _: self._wake.set())),
            asyncio.create_task(self._follow("runengine_cancelled", self._stop_cancelled)),
        ]
        try:
            while not self._stopping:
                self._wake.clear()
                try:
                    claimed = await self._claim()
                except Unavailable:
                    claimed = 0
                if (claimed == 0 or len(self._held) >= self._concurrency) and not self._stopping:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), _POLL_SECONDS)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self._hand_back()

    async def _claim(self) -> int:
        free = self._concurrency - len(self._held)
        if free <= 0:
            return 0
        claimed = await self._queue.claim_queued(free)
        if len(claimed) < free:
            claimed += await self._queue.claim_expired(free - len(claimed))
        for run in claimed:
            task = asyncio.create_task(self._process(run), name=f"run {run.id}")
            self._held[run.id] = (run, task)
            task.add_done_callback(partial(self._let_go, run))
        return len(claimed)

    def _let_go(self, run: ClaimedRun, task: asyncio.Task[None]) -> None:
        if self._held.get(run.id, (None, None))[1] is task:
            del self._held[run.id]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("run left to its lease", run_id=str(run.id), exc_info=error)
        self._wake.set()

    def _stop_cancelled(self, notified: str) -> None:
        # With the attempt, so that a late word of an old cancel does not stop the retry.
        run_id, attempt = notified.split()
        run, task = self._held.get(UUID(run_id), (None, None))
        if run is not None and task is not None and run.attempt == int(attempt):
            task.cancel()

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            if not (held := list(self._held.values())):
                continue
            with suppress(Unavailable):
                kept = await self._queue.heartbeat([run for run, _ in held])
                for run, task in held:
                    if run.id not in kept:
                        task.cancel()

    async def _follow(self, channel: str, heard: Callable[[str], None]) -> None:
        while True:
            with suppress(Unavailable):
                async with self._database.listen(channel) as queue:
                    while (payload := await queue.get()) is not None:
                        heard(payload)
            await asyncio.sleep(_POLL_SECONDS)

    async def _hand_back(self) -> None:
        held = list(self._held.values())
        for _, task in held:
            task.cancel()
        await asyncio.gather(*(task for _, task in held), return_exceptions=True)
        with suppress(Unavailable):
            await self._queue.hand_back([run for run, _ in held])
