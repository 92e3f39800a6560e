"""A worker whose runs come by Temporal."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any
from uuid import UUID

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from runengine_server.database.pace import Pace
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.handover import Handover, handover_of
from runengine_server.domain.run import ClaimedRun
from runengine_server.metrics import CLAIMED, TAKEN_OVER
from runengine_server.repositories.handover_repository import HandoverRepository
from runengine_server.worker.temporal.cluster import UNANSWERED, Cluster
from runengine_server.worker.temporal.workflow import EXECUTE
from runengine_server.worker.worker import Worker

# How many runs a worker has handed over that nobody has claimed, for each that it may execute: so many that
# no place is free while Temporal passes the next on. What is triggered later and comes first waits for these.
_AHEAD = 2

# How often a second a worker looks for what is due while runs are triggered and end all the time, and how
# often in a row before. A look takes PostgreSQL a millisecond; without a limit there were four a run.
_LOOKS_PER_SECOND, _BURST = 20.0, 2.0

# How long Temporal may take to say that it was told what has become of the last runs.
_CLOSE_SECONDS = 1.0

# How long to leave Temporal alone that does not answer.
_PAUSE_SECONDS = 1.0

_END_CHORE = "end of handovers"


def _not_now(why: str) -> ApplicationError:
    """Has Temporal give the run to a worker again, this one or another; nobody has begun it."""
    return ApplicationError(why, type="NotNow", category=ApplicationErrorCategory.BENIGN)


class TemporalWorker(Worker):
    """Hands due runs over to Temporal in place of claiming them, and claims those that Temporal gives it. All
    else is as it is without Temporal: what holds a run is its row.
    """

    def __init__(
        self,
        handovers: HandoverRepository,
        cluster: Cluster,
        *arguments: Any,
        lease_seconds: float,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, lease_seconds=lease_seconds, **named)
        self._handovers = handovers
        self._cluster = cluster
        self._lease_seconds = lease_seconds
        # Noted as handed over, and not yet known to Temporal.
        self._unsent: set[Handover] = set()
        self._sending: asyncio.Future[list[BaseException | None]] = asyncio.Future()
        self._again_at = self._end_at = 0.0
        self._pace = Pace(_BURST, _LOOKS_PER_SECOND)
        self._cancelling: set[asyncio.Task[None]] = set()

    async def work(self) -> None:
        """As that of Worker."""
        polling = asyncio.create_task(self._cluster.poll(self.execute, self._concurrency))
        try:
            await super().work()
        finally:
            self._cluster.stop_polling()
            await asyncio.wait({polling}, timeout=_CLOSE_SECONDS)
            polling.cancel()

    def stop(self) -> None:
        """As that of Worker."""
        self._cluster.stop_polling()
        super().stop()
        self._sending.cancel()

    async def _claim(self) -> int:
        if not await self._send():
            return 0
        await self._pace.wait()
        if time.monotonic() >= self._end_at:
            self._end_at = time.monotonic() + self.poll_seconds
            await self._end_handovers()
        handed_over = await self._handovers.hand_over(_AHEAD * self._concurrency)
        self._unsent.update(handed_over)
        await self._send()
        return len(handed_over)

    async def _end_handovers(self) -> None:
        if await self._queue.begin_chore(_END_CHORE, self.poll_seconds / 2):
            for handover, queue in await self._handovers.end(self._lease_seconds):
                with suppress(*UNANSWERED):
                    await self._cluster.cancel(handover, queue)

    async def _send(self) -> bool:
        """Whether Temporal knows of all that is handed over. Where this process dies before, another worker
        hands over again what nobody claims.
        """
        if not self._unsent:
            return True
        if time.monotonic() < self._again_at:
            return False
        unsent = list(self._unsent)
        self._sending = asyncio.gather(*map(self._cluster.hand_over, unsent), return_exceptions=True)
        try:
            results = await self._sending
        except asyncio.CancelledError:
            if self._stopping:
                return False
            raise
        for handover, result in zip(unsent, results, strict=True):
            if result is None:
                self._unsent.remove(handover)
            elif isinstance(result, UNANSWERED):
                self._cluster.complain(result)
            else:
                raise result
        if self._unsent:
            self._again_at = time.monotonic() + _PAUSE_SECONDS
            return False
        self._cluster.is_fine()
        return True

    @activity.defn(name=EXECUTE)
    async def execute(self, handover: Handover) -> None:
        """Claims the run, unless it is no longer as it was when it was handed over, and executes it until it
        has ended or goes on elsewhere. That Temporal has lost it is no reason to stop: the row says whose the
        run is.
        """
        # In a task of its own, because a claim that is cancelled half-way may be one that nobody knows of.
        executing = asyncio.create_task(self._claim_and_execute(handover))
        is_cancelled = False
        while not executing.done():
            try:
                await asyncio.wait({executing}, timeout=self._cluster.heartbeat_seconds)
            except asyncio.CancelledError:
                details = activity.cancellation_details()
                if details is not None and details.cancel_requested:
                    is_cancelled = True
                    self._stop_execution(handover)
            activity.heartbeat()
        await executing
        if is_cancelled:
            raise asyncio.CancelledError

    async def _claim_and_execute(self, handover: Handover) -> None:
        if self._stopping:
            raise _not_now("The worker is stopping.")
        in_quarantine = sum(run.in_quarantine for run, _ in self._held.values())
        since = time.monotonic()
        try:
            run, was_held = await self._queue.claim_handed_over(handover, max(0, 1 - in_quarantine))
        except Unavailable:
            raise _not_now("The database cannot be reached.") from None
        if run is None:
            if in_quarantine:
                raise _not_now("It may be one for a worker that has nothing in quarantine.")
            return
        self._start([run], since, TAKEN_OVER if was_held else CLAIMED)
        # There is a place for another to be handed over.
        self._wake.set()
        _, task = self._held[run.id]
        await asyncio.wait({task})

    def _stop_execution(self, handover: Handover) -> None:
        run, task = self._held.get(handover.run_id, (None, None))
        if run is not None and task is not None and handover_of(run) == handover:
            task.cancel("run cancelled")

    def _on_cancelled(self, run_id: UUID, attempt: int) -> None:
        run, _ = self._held.get(run_id, (None, None))
        if run is not None and run.attempt == attempt:
            cancelling = asyncio.create_task(self._cancel(run))
            self._cancelling.add(cancelling)
            cancelling.add_done_callback(self._cancelling.discard)

    async def _cancel(self, run: ClaimedRun) -> None:
        """Tells Temporal first, so that the workflow is a cancelled one; stops the run whatever it says."""
        with suppress(*UNANSWERED):
            await self._cluster.cancel(handover_of(run), self._cluster.queue)
        super()._on_cancelled(run.id, run.attempt)
