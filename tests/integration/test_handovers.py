"""Which runs are handed over to Temporal, in which order, and that one is executed once for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import asyncpg
import pytest
from runengine_server.domain.handover import Handover, handover_of
from runengine_server.domain.run import ClaimedRun
from runengine_server.repositories.handover_repository import HandoverRepository

from tests.support.own_worker import LEASE_SECONDS, Engine, chain, serving
from tests.support.own_worker import Ran as Ran

NEVER = 3600.0


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        yield engine


def handovers_of(engine: Engine, running_limit: int | None = None) -> HandoverRepository:
    """Those of another worker each time."""
    return HandoverRepository(engine.database, [engine.workflow], LEASE_SECONDS, "queue", running_limit)


async def claim(engine: Engine, handover: Handover) -> ClaimedRun | None:
    run, _ = await engine.queue.claim_handed_over(handover, quarantine=1)
    return run


def ids(handed_over: Sequence[Handover]) -> list[UUID]:
    return [each.run_id for each in handed_over]


async def test_a_run_is_handed_over_once_and_claimed_once_however_often_it_is(engine: Engine) -> None:
    run_id = await engine.trigger()
    workers = [handovers_of(engine) for _ in range(5)]
    handed_over = await asyncio.gather(*(each.hand_over(10) for each in workers))
    (handover,) = (each for some in handed_over for each in some)
    assert handover == Handover(engine.tenant_id, run_id, 1, 0)
    claims = await asyncio.gather(*(claim(engine, handover) for _ in range(10)))
    (run,) = (each for each in claims if each is not None)
    assert (run.id, run.epoch, handover_of(run)) == (run_id, 1, handover)
    assert (await engine.process(run)).status == "completed"
    assert await claim(engine, handover) is None


async def test_a_run_is_handed_over_again_when_it_is_due_again(engine: Engine) -> None:
    handovers = handovers_of(engine)
    run_id = await engine.trigger()
    (first,) = await handovers.hand_over(10)
    assert await claim(engine, first) is not None
    assert await handovers.hand_over(10) == []
    await engine.lose(run_id)
    (second,) = await handovers.hand_over(10)
    assert (second.run_id, second.epoch) == (run_id, first.epoch + 1)
    assert await claim(engine, first) is None
    run, was_held = await engine.queue.claim_handed_over(second, quarantine=1)
    assert run is not None
    assert (run.losses, was_held) == (1, True)
    await engine.cancel(run_id)
    await engine.retry(run_id)
    (third,) = await handovers.hand_over(10)
    assert (third.run_id, third.attempt, third.epoch) == (run_id, 2, run.epoch)
    assert await claim(engine, second) is None


async def test_a_handover_that_nobody_claims_is_made_again(engine: Engine) -> None:
    handovers = handovers_of(engine)
    await engine.trigger()
    (lost,) = await handovers.hand_over(10)
    await handovers.end(NEVER)
    assert await handovers.hand_over(10) == []
    await handovers.end(0)
    assert await handovers.hand_over(10) == [lost]


async def test_all_that_is_due_is_handed_over_again_when_the_table_is_empty(
    engine: Engine, database: asyncpg.Connection
) -> None:
    handovers = handovers_of(engine)
    held, due = await engine.trigger(), await engine.trigger()
    (first, second) = await handovers.hand_over(10)
    assert await claim(engine, first) is not None
    await database.execute("TRUNCATE handovers")
    assert await handovers.hand_over(10) == [second]
    assert (first.run_id, second.run_id) == (held, due)


async def test_a_cancelled_run_is_named_once_for_its_workflow_to_end(engine: Engine) -> None:
    handovers = handovers_of(engine)
    queued, held = await engine.trigger(), await engine.trigger()
    first, second = await handovers.hand_over(10)
    assert await claim(engine, second) is not None
    for run_id in (queued, held):
        await engine.cancel(run_id)
    ended = [each for each in await handovers.end(NEVER) if each[0].tenant_id == engine.tenant_id]
    assert sorted(ended, key=lambda each: each[0].run_id) == [(first, "queue"), (second, "queue")]
    assert await handovers.end(NEVER) == []


async def test_the_number_of_unclaimed_handovers_of_each_worker_is_bounded(engine: Engine) -> None:
    one, other = handovers_of(engine), handovers_of(engine)
    for _ in range(7):
        await engine.trigger()
    handed_over = await one.hand_over(3)
    assert len(handed_over) == 3
    assert await one.hand_over(3) == []
    assert len(await other.hand_over(3)) == 3
    assert await claim(engine, handed_over[0]) is not None
    assert len(await one.hand_over(3)) == 1


async def test_tenants_are_handed_over_in_turn_and_within_their_limits(engine: Engine) -> None:
    handovers = handovers_of(engine, running_limit=2)
    greedy, modest = f"org_{uuid4().hex}", f"org_{uuid4().hex}"
    for tenant_id, count in ((greedy, 5), (modest, 1)):
        engine.runs, engine.tenant_id = type(engine.runs)(engine.database.tenant(tenant_id)), tenant_id
        for _ in range(count):
            await engine.trigger()
    assert sorted(each.tenant_id for each in await handovers.hand_over(2)) == sorted([greedy, modest])
    (third,) = await handovers.hand_over(10)
    assert third.tenant_id == greedy
    assert await claim(engine, third) is not None
    assert await handovers.hand_over(10) == []


async def test_a_run_of_the_highest_priority_is_handed_over_first(engine: Engine) -> None:
    usual, high = await engine.trigger(), await engine.trigger(priority=5)
    handovers = handovers_of(engine)
    assert ids(await handovers.hand_over(1)) == [high]
    assert ids(await handovers.hand_over(2)) == [usual]
