"""Many who claim at once, in one process: of a run that all want one gets it, and each run ends once."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uuid_utils.compat
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.database.database import Database
from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import ClaimedRun, NewRun
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.queue_repository import QueueRepository
from runengine_server.repositories.run_repository import Outcome, RunRepository
from runengine_server.worker.worker import Worker

_ACTOR = Actor("user_test", None)
_LEASE_SECONDS = 30.0


@dataclass
class Claiming:
    """A workflow of its own and a tenant with runs of it; nobody executes anything."""

    database: Database
    tenant_id: str
    workflow: str

    def queue(self, number: int) -> QueueRepository:
        """The queue as one of many workers sees it."""
        return QueueRepository(self.database, f"worker:test:{number}", [self.workflow], _LEASE_SECONDS)

    async def trigger(self) -> str:
        """One more run."""
        new = NewRun(uuid_utils.compat.uuid7(), TriggerRunRequest(workflow_name=self.workflow))
        result = await RunRepository(self.database.tenant(self.tenant_id)).trigger(new, _ACTOR, None, None)
        assert result.outcome is Outcome.APPLIED
        return str(new.id)

    async def winners(self, claimers: int) -> int:
        """How many of so many get the one run that there is."""
        await self.trigger()
        claims = [self.queue(number).claim_queued(1) for number in range(claimers)]
        claimed = [run for runs in await asyncio.gather(*claims) for run in runs]
        for run in claimed:
            await self._end(run)
        return len(claimed)

    async def executions(self, runs: int, workers: int) -> Counter[str]:
        """How often each of so many runs was taken to its end by so many workers, as these know."""
        ended: Counter[str] = Counter()

        async def process(run: ClaimedRun, holds: Callable[[], bool]) -> None:
            await self._end(run)
            ended[str(run.id)] += 1

        team = [
            Worker(
                self.queue(number),
                process,
                lambda: None,
                concurrency=10,
                lease_seconds=_LEASE_SECONDS,
                drain_seconds=0,
            )
            for number in range(workers)
        ]
        working = [asyncio.create_task(worker.work()) for worker in team]
        try:
            for _ in range(0, runs, 50):
                await asyncio.gather(*(self.trigger() for _ in range(min(50, runs))))
            # Not until all are counted: a heartbeat that finds a run ended stops the worker from hearing
            # that it was the one to end it.
            while await self._are_active():  # noqa: ASYNC110 - it waits for what is stored
                await asyncio.sleep(0.05)
        finally:
            for worker in team:
                worker.stop()
            await asyncio.gather(*working)
        return ended

    async def _are_active(self) -> bool:
        try:
            return bool(
                await self.database.tenant(self.tenant_id).fetch(
                    "SELECT FROM runs WHERE status IN ('queued', 'running') LIMIT 1"
                )
            )
        except Unavailable:
            return True

    async def events(self) -> Counter[tuple[str, int]]:
        """How many runs have how many transitions to each status; those to running, one a claim, aside."""
        rows = await self.database.tenant(self.tenant_id).fetch(
            "SELECT run_id, to_status, count(*) FROM run_events GROUP BY run_id, to_status"
        )
        return Counter((row["to_status"], row["count"]) for row in rows if row["to_status"] != "running")

    async def _end(self, run: ClaimedRun) -> None:
        async with HeldRunRepository(self.database, run, "worker:test").end() as ending:
            await ending.complete()


@asynccontextmanager
async def claiming(database_url: str, connections: int) -> AsyncIterator[Claiming]:
    """On so many connections."""
    database = Database(database_url, connections)
    await database.open()
    try:
        it = Claiming(database, f"org_{uuid.uuid4().hex}", f"workflow-{uuid.uuid4().hex}")
        await it.queue(0).register_workflows()
        yield it
    finally:
        await database.close()


async def measure(database_url: str, rounds: int, claimers: int, runs: int, workers: int) -> list[str]:
    """The full size of both, in words; those that begin with VIOLATION are."""
    lines = []
    async with claiming(database_url, claimers) as it:
        won = Counter([await it.winners(claimers) for _ in range(rounds)])
        lines.append(f"{rounds} rounds of {claimers} claimers of one run: {dict(won)} winners")
        if won != {1: rounds}:
            lines.append("VIOLATION I5: a run was claimed by several, or by nobody")
    async with claiming(database_url, workers * 4) as it:
        ended = await it.executions(runs, workers)
        events = await it.events()
        lines.append(f"{runs} runs on {workers} workers: {events['completed', 1]} ended once")
        if max(ended.values()) > 1 or events != {("queued", 1): runs, ("completed", 1): runs}:
            lines.append(f"VIOLATION I4: not every run ended once: {dict(events)}")
    return lines
