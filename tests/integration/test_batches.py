"""Triggers that come at the same time share a statement, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.commands.trigger_run import check_trigger
from runengine_server.database.batcher import Batcher
from runengine_server.database.functions import each_call
from runengine_server.domain.errors import StatementRefused, Unavailable
from runengine_server.domain.run import NewRun
from runengine_server.repositories.campaign_repository import CampaignRepository
from runengine_server.repositories.run_repository import (
    IdempotencyKey,
    MutationResult,
    Outcome,
    RunRepository,
)

from tests.faults.proxy import Proxy
from tests.support.own_database import own_database
from tests.support.own_worker import ACTOR, Engine, Ran, chain, run_of, serving, until

TRIGGER = each_call("trigger_run", "trigger_runs_of_tenants", turns=4)
MANY, ONE = TRIGGER.many, TRIGGER.one.call

# The arguments of a call.
CALL = [None] * TRIGGER.one.parameters

# Keeps the order in which rows of counts are inserted or locked.
LOCKED = """
CREATE TABLE public.locked (place bigserial, campaign_id uuid);
CREATE FUNCTION public.note_locked() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN
    INSERT INTO public.locked (campaign_id) VALUES (NEW.campaign_id);
    RETURN NEW;
END$$;
CREATE TRIGGER note_locked BEFORE INSERT ON public.campaign_run_counts
    FOR EACH ROW EXECUTE FUNCTION public.note_locked();
"""


@pytest.fixture
async def engine(proxy: Proxy) -> AsyncIterator[Engine]:
    async with serving(proxy.url, chain(one=Ran().node("one"))) as engine:
        yield engine


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    owner = await asyncpg.connect(database_url.replace("runengine_app@", "postgres@"))
    yield owner
    await owner.close()


def new_run(engine: Engine, campaign_id: UUID | None = None, **changes: Any) -> NewRun:
    request = TriggerRunRequest(workflow_name=engine.workflow)
    if campaign_id is not None:
        request.context.update({"campaignId": str(campaign_id)})
    for name, value in changes.items():
        setattr(request, name, value)
    return check_trigger(request)


def trigger(engine: Engine, new: NewRun, tenant_id: str | None = None) -> asyncio.Task[MutationResult]:
    runs = RunRepository(engine.database.tenant(tenant_id or engine.tenant_id))
    return asyncio.create_task(runs.trigger(new, ACTOR, None, None))


async def trigger_all(engine: Engine, news: Sequence[NewRun]) -> list[MutationResult | BaseException]:
    """The first is a statement of its own, and the others are one."""
    return await asyncio.gather(*(trigger(engine, new) for new in news), return_exceptions=True)


async def test_triggers_that_come_at_the_same_time_are_one_statement(engine: Engine, proxy: Proxy) -> None:
    proxy.executed.clear()
    news = [new_run(engine, priority=number) for number in range(20)]
    results = await trigger_all(engine, news)
    statements = [sql for sql in proxy.executed if sql in (ONE, MANY)]
    assert statements == [ONE, MANY]
    for new, result in zip(news, results, strict=True):
        assert isinstance(result, MutationResult)
        run = run_of(result.response)
        assert (run.id, run.priority) == (new.id, new.request.priority)


async def test_a_trigger_alone_is_a_statement_of_its_own(engine: Engine, proxy: Proxy) -> None:
    proxy.executed.clear()
    for _ in range(3):
        await trigger(engine, new_run(engine))
    assert [sql for sql in proxy.executed if sql in (ONE, MANY)] == [ONE] * 3


async def test_tenants_share_a_statement_and_no_row(engine: Engine) -> None:
    tenants = [f"org_{uuid4().hex}" for _ in range(3)]
    campaign_id = uuid4()
    calls = [(tenants[number % 3], new_run(engine, campaign_id)) for number in range(30)]
    await asyncio.gather(*(trigger(engine, new, tenant_id) for tenant_id, new in calls))
    for tenant_id in tenants:
        runs = RunRepository(engine.database.tenant(tenant_id))
        seen = {new.id for _, new in calls if await runs.get(new.id)}
        assert seen == {new.id for owner, new in calls if owner == tenant_id}
        page = await runs.list_of_campaign(campaign_id, [], 1, 0, None)
        assert page.counts[0] == 10


async def test_a_trigger_in_a_batch_says_whether_its_campaign_is_there(engine: Engine) -> None:
    campaigns = CampaignRepository(engine.tenant)
    there, missing = uuid4(), uuid4()
    await campaigns.insert(there)
    calls = [(there, True), (there, True), (missing, True), (missing, False)]
    results = await asyncio.gather(
        *(
            engine.runs.trigger(new_run(engine, campaign_id), ACTOR, None, None, check_campaign=check)
            for campaign_id, check in calls
        )
    )
    assert [result.has_campaign for result in results] == [True, True, False, None]


async def test_a_trigger_that_is_refused_refuses_no_other(engine: Engine) -> None:
    news = [new_run(engine) for _ in range(9)]
    news[5] = new_run(engine, workflow_name="nobody's")
    results = await trigger_all(engine, news)
    outcomes = [result.outcome for result in results if isinstance(result, MutationResult)]
    assert outcomes == [Outcome.APPLIED] * 5 + [Outcome.UNKNOWN_WORKFLOW] + [Outcome.APPLIED] * 3


async def test_a_trigger_that_fails_fails_alone(engine: Engine) -> None:
    news = [new_run(engine) for _ in range(9)]
    news[7] = NewRun(news[0].id, news[7].request, None)  # that id is taken
    results = await trigger_all(engine, news)
    assert isinstance(results.pop(7), StatementRefused)
    assert all(isinstance(result, MutationResult) for result in results)
    assert all([await engine.runs.get(new.id) for new in news])


async def test_a_call_that_is_given_up_leaves_the_others_in_place(engine: Engine) -> None:
    news = [new_run(engine) for _ in range(6)]
    calls = [trigger(engine, new) for new in news]
    await asyncio.sleep(0)  # they wait for their statements
    calls[4].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results.pop(4), asyncio.CancelledError)
    assert all(isinstance(result, MutationResult) for result in results)


async def test_triggers_of_other_campaigns_do_not_wait_for_a_campaign_that_is_locked(
    engine: Engine, owner: asyncpg.Connection
) -> None:
    locked, free = uuid4(), uuid4()
    await trigger_all(engine, [new_run(engine, locked) for _ in range(200)])  # and so has all rows of counts
    async with owner.transaction():
        await owner.execute("SELECT FROM campaign_run_counts WHERE campaign_id = $1 FOR UPDATE", locked)
        held = [trigger(engine, new_run(engine, locked)) for _ in range(8)]
        results = await trigger_all(engine, [new_run(engine, free) for _ in range(8)])
        assert all(isinstance(result, MutationResult) for result in results)
        assert not any(call.done() for call in held)
    assert {(await call).outcome for call in held} == {Outcome.APPLIED}


async def test_a_batch_locks_the_counts_of_campaigns_in_the_order_of_claims() -> None:
    campaign_ids = sorted(uuid4() for _ in range(4))
    async with own_database() as (url, superuser):
        await superuser.execute(LOCKED)
        async with serving(url, chain(one=Ran().node("one"))) as engine:
            of_each = [new_run(engine, campaign_id) for campaign_id in reversed(campaign_ids)]
            await trigger_all(engine, [new_run(engine), *of_each])
        locked = await superuser.fetch("SELECT campaign_id FROM locked ORDER BY place")
    assert [campaign_id for (campaign_id,) in locked] == campaign_ids


async def test_a_trigger_in_a_batch_stores_what_one_alone_stores(
    engine: Engine, owner: asyncpg.Connection
) -> None:
    campaign_id = uuid4()
    await trigger_all(engine, news := [new_run(engine, campaign_id, priority=3) for _ in range(3)])
    alone, *together = [
        await owner.fetchrow(
            """SELECT to_jsonb(runs) - '{id,created_at,updated_at,queued_at}'::text[]
                    - '{encoded_input,encoded_state}'::text[],
                (SELECT jsonb_agg(to_jsonb(event) - '{run_id,seq,at,transaction}'::text[])
                    FROM run_events AS event WHERE run_id = id),
                substring(encoded_input FROM 39), created_at = updated_at AND created_at = queued_at,
                created_at = (SELECT at FROM run_events WHERE run_id = id)
            FROM runs WHERE id = $1""",
            new.id,
        )
        for new in news
    ]
    assert together == [alone, alone]
    counts = "SELECT sum(queued), sum(running + completed + failed + cancelled) FROM campaign_run_counts"
    (counted,) = await owner.fetch(f"{counts} WHERE campaign_id = $1", campaign_id)
    assert tuple(counted) == (3, 0)


async def test_a_trigger_with_a_key_is_no_part_of_a_batch(engine: Engine, proxy: Proxy) -> None:
    proxy.executed.clear()
    keyed = IdempotencyKey(uuid4().hex, b"hash")
    calls = [engine.runs.trigger(new_run(engine), ACTOR, keyed, None) for _ in range(8)]
    outcomes = sorted(result.outcome for result in await asyncio.gather(*calls))
    assert outcomes == [Outcome.APPLIED] + [Outcome.REPLAYED] * 7
    assert MANY not in proxy.executed


async def test_a_batch_that_may_have_been_committed_is_not_sent_again() -> None:
    sent: list[str] = []
    is_sent = asyncio.Event()

    async def lose(sql: str, *_: Any) -> Any:
        sent.append(sql)
        await is_sent.wait()
        raise ConnectionResetError

    batcher = Batcher(TRIGGER, lose)
    calls = [asyncio.create_task(batcher.call(*CALL)) for _ in range(6)]
    await until(lambda: asyncio.sleep(0, len(sent)), lambda count: count == 1)
    is_sent.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert sent == [ONE, MANY]


async def test_a_statement_whose_calls_are_all_given_up_is_given_up() -> None:
    begun: list[str] = []
    ended: list[str] = []

    async def never(sql: str, *_: Any) -> Any:
        begun.append(sql)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(sql)

    batcher = Batcher(TRIGGER, never)
    calls = [asyncio.create_task(batcher.call(*CALL)) for _ in range(4)]
    # A statement that does not end is soon not waited for any more, so all are under way.
    await until(lambda: asyncio.sleep(0.01, len(begun)), lambda count: count == 2)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await until(lambda: asyncio.sleep(0, len(ended)), lambda count: count == 2)
    assert sorted(ended) == sorted([ONE, MANY])
