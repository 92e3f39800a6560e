"""What was a lost worker's goes on elsewhere, and what many want one gets."""

from __future__ import annotations

import os
import signal

import asyncpg
from runengine_client import RunEngineClient

from tests.faults import recovery
from tests.faults.arrivals import Arrivals
from tests.faults.claims import claiming
from tests.support.leases import LEASE_ENDS
from tests.support.stack import Stack


async def test_a_killed_workers_run_is_taken_over_each_time_and_not_before_its_lease_has_ended(
    stack: Stack, client: RunEngineClient, database: asyncpg.Connection
) -> None:
    lease = f"SELECT {LEASE_ENDS} FROM runs WHERE id = $1"
    # Its time is in whole milliseconds.
    taken_over = """SELECT at + interval '1 ms' FROM run_events
        WHERE run_id = $1 AND reason = 'TAKEN_OVER' ORDER BY seq LIMIT 1"""
    async with Arrivals() as arrivals:
        team = await recovery.start(stack, client, arrivals)
        try:
            for _ in range(2):
                run_id, killed = await team.hold()
                (other,) = team.workers
                # While the lease is looked at, nobody renews it or takes the run over.
                os.kill(other, signal.SIGSTOP)
                killed.kill()
                await killed.until_ended()
                ends = await database.fetchval(lease, run_id)
                os.kill(other, signal.SIGCONT)
                taken = await team.taken_over(run_id)
                assert await database.fetchval(taken_over, run_id) > ends
                await team.complete(taken)
                await team.add_worker()
        finally:
            for worker in team.workers.values():
                worker.kill()


async def test_of_fifty_claimers_of_one_run_one_gets_it(database_url: str) -> None:
    async with claiming(database_url, connections=25) as it:
        assert [await it.winners(50) for _ in range(20)] == [1] * 20


async def test_on_sixteen_workers_each_run_ends_once(database_url: str) -> None:
    async with claiming(database_url, connections=16) as it:
        ended = await it.executions(500, workers=16)
        assert max(ended.values()) == 1
        assert await it.events() == {("queued", 1): 500, ("completed", 1): 500}
