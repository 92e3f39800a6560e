"""Of many who claim at once one gets a run, and nothing that is queued stays behind."""

from __future__ import annotations

import asyncio
from uuid import UUID

from tests.support.own_worker import Ran, chain, serving, until


async def test_many_claimers_of_one_run_find_one_winner(database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        for _ in range(10):
            await engine.trigger()
            claims = await asyncio.gather(*(engine.queue.claim_queued(1) for _ in range(10)))
            assert sum(map(len, claims)) == 1


async def test_all_that_is_queued_is_claimed_although_claimers_pass_one_another_over(
    database_url: str,
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        ids = {await engine.trigger() for _ in range(40)}
        claimed: list[UUID] = []

        async def claimer() -> int:
            runs = await engine.queue.claim_queued(3)
            claimed.extend(run.id for run in runs)
            return len(runs)

        async def all_claimers() -> int:
            return sum(await asyncio.gather(*(claimer() for _ in range(8))))

        await until(all_claimers, lambda count: count == 0)
        assert len(claimed) == len(ids)
        assert set(claimed) == ids
