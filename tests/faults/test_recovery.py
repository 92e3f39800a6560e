"""What was a lost worker's goes on elsewhere, and what many want one gets."""

from __future__ import annotations

from runengine_client import RunEngineClient

from tests.faults import recovery
from tests.faults.arrivals import Arrivals
from tests.faults.claims import claiming
from tests.stack import Stack


async def test_a_killed_workers_run_is_taken_over_each_time(stack: Stack, client: RunEngineClient) -> None:
    async with Arrivals() as arrivals:
        team = await recovery.start(stack, client, arrivals)
        try:
            first = await team.kill_once()
            await team.add_worker()
            second = await team.kill_once()
        finally:
            for worker in team.workers.values():
                worker.kill()
    # Not before the lease ends, whose last renewal was a third of it ago at most.
    assert min(first, second) > recovery.LEASE_SECONDS / 2


async def test_of_fifty_claimers_of_one_run_one_gets_it(database_url: str) -> None:
    async with claiming(database_url, connections=25) as it:
        assert [await it.winners(50) for _ in range(20)] == [1] * 20


async def test_on_sixteen_workers_each_run_ends_once(database_url: str) -> None:
    async with claiming(database_url, connections=16) as it:
        ended = await it.executions(500, workers=16)
        assert max(ended.values()) == 1
        assert await it.events() == {("queued", 1): 500, ("completed", 1): 500}
