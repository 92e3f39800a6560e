"""Of many who claim at once one gets a run, and nothing that is queued stays behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID, uuid4

import pytest

from tests.support.own_worker import Ran, chain, serving, until

pytestmark = pytest.mark.usefixtures("short_pauses")


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


async def test_of_many_claimers_one_gets_the_run(database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        for _ in range(20):
            run_id = await engine.trigger()
            claims = await asyncio.gather(*(engine.queue.claim_queued(1) for _ in range(50)))
            assert [run.id for claim in claims for run in claim] == [run_id]
            await engine.lose(run_id)
            claims = await asyncio.gather(*(engine.queue.claim_expired(1) for _ in range(50)))
            assert [(run.id, run.epoch) for claim in claims for run in claim] == [(run_id, 2)]


async def test_batches_of_runs_of_the_same_campaigns_are_claimed_at_once_without_deadlock(
    database_url: str,
) -> None:
    campaign_ids = [uuid4() for _ in range(8)]
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_ids = [
            await engine.trigger(campaign_id=campaign_id) for _ in range(20) for campaign_id in campaign_ids
        ]
        for _ in range(20):
            claims = await asyncio.gather(*(engine.queue.claim_queued(40) for _ in range(4)))
            claimed = Counter(run.id for claim in claims for run in claim)
            rest = await engine.queue.claim_queued(len(run_ids))
            assert claimed + Counter(run.id for run in rest) == Counter(run_ids)
            # In another order each time.
            await engine.tenant.fetch(
                """UPDATE runs SET status = 'queued', lease_expires_at = NULL,
                queued_at = now_ms() - random() * interval '1 hour' WHERE workflow_name = $1""",
                engine.workflow,
            )
