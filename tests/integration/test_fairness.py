"""Tenants are served in turn, within their limits, each in the order of its priorities."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import asyncpg
import pytest
from runengine.v1.run_pb2 import RunStatus as WireStatus
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_client import QuotaExceeded
from runengine_server.commands.trigger_run import check_trigger, trigger_run
from runengine_server.database.connecting import Connection
from runengine_server.database.functions import dispatch_function
from runengine_server.domain.run import ClaimedRun, RunStatus
from runengine_server.repositories.queue_repository import QueueRepository
from runengine_server.repositories.run_repository import RunRepository

from tests.support.own_worker import ACTOR, LEASE_SECONDS, Engine, Ran, chain, run_of, serving
from tests.support.stack import Stack


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        yield engine


async def queue(engine: Engine, tenant_id: str, count: int) -> list[UUID]:
    """Triggers runs of a tenant, one after the other."""
    ids = []
    for _ in range(count):
        new = check_trigger(TriggerRunRequest(workflow_name=engine.workflow))
        await trigger_run(RunRepository(engine.database.tenant(tenant_id)), new, ACTOR, None, None)
        ids.append(new.id)
    return ids


def some_tenants(count: int) -> list[str]:
    prefix = uuid4().hex
    return [f"org_{prefix}_{number}" for number in range(count)]


def tenants_of(runs: Sequence[ClaimedRun]) -> list[str]:
    return sorted(run.tenant_id for run in runs)


async def test_a_tenant_with_many_queued_runs_does_not_keep_others_waiting(engine: Engine) -> None:
    greedy, second, third = some_tenants(3)
    await queue(engine, greedy, 30)
    await queue(engine, second, 1)
    await queue(engine, third, 2)
    served = [(await engine.queue.claim_queued(1))[0].tenant_id for _ in range(7)]
    assert served == [greedy, second, third, greedy, third, greedy, greedy]


async def test_a_batch_is_shared_between_the_tenants_whose_turn_it_is(engine: Engine) -> None:
    first, second, third = some_tenants(3)
    for tenant_id, count in ((first, 30), (second, 1), (third, 30)):
        await queue(engine, tenant_id, count)
    assert tenants_of(await engine.queue.claim_queued(9)) == [first] * 3 + [second] + [third] * 3
    # The next turn begins after the one that was served last.
    assert tenants_of(await engine.queue.claim_queued(1)) == [first]
    assert tenants_of(await engine.queue.claim_queued(1)) == [third]


async def test_a_batch_smaller_than_the_tenants_goes_on_where_the_last_one_ended(engine: Engine) -> None:
    tenant_ids = some_tenants(5)
    for tenant_id in tenant_ids:
        await queue(engine, tenant_id, 3)
    served = [tenants_of(await engine.queue.claim_queued(2)) for _ in range(5)]
    assert sorted(itertools.chain(*served)) == sorted(tenant_ids * 2)
    assert sorted(itertools.chain(*served[:2])) == tenant_ids[:4]


async def test_within_a_tenant_the_greatest_priority_goes_first_and_then_the_oldest(engine: Engine) -> None:
    low, usual, high, usual_too = [
        await engine.trigger(priority=priority) for priority in (-100, 0, 100, 0)
    ]  # fmt: skip
    claimed = [(await engine.claim()).id for _ in range(4)]
    assert claimed == [high, usual, usual_too, low]
    assert (await engine.get(high)).priority == 100


async def test_runs_that_nobody_here_serves_are_passed_over(engine: Engine, database_url: str) -> None:
    tenant_id = some_tenants(1)[0]
    async with serving(database_url, chain(one=Ran().node("one"))) as elsewhere:
        await queue(elsewhere, tenant_id, 5)
        served = await queue(engine, tenant_id, 1)
        assert [run.id for run in await engine.queue.claim_queued(10)] == served


async def test_no_more_runs_of_a_tenant_are_running_than_it_may_have_on_all_workers(engine: Engine) -> None:
    busy, other = some_tenants(2)
    run_ids = await queue(engine, busy, 20)
    await queue(engine, other, 1)
    workers = [
        QueueRepository(engine.database, f"worker:{number}", [engine.workflow], LEASE_SECONDS, 3)
        for number in range(8)
    ]
    for _ in range(3):
        claimed = await asyncio.gather(*(worker.claim_queued(2) for worker in workers))
        running = [run for batch in claimed for run in batch]
        if not running:
            break
        held = running
    runs = RunRepository(engine.database.tenant(busy))
    seen = [run_of(await runs.get(each) or b"") for each in run_ids]
    assert sum(run.status is RunStatus.RUNNING for run in seen) == 3
    # Once one of them has ended, there is room for one more.
    await engine.processor.process(next(run for run in held if run.tenant_id == busy))
    assert tenants_of(await workers[0].claim_queued(5)) == [busy]
    assert await workers[1].claim_queued(5) == []


async def test_of_many_triggers_at_once_as_many_are_taken_as_the_tenant_may_have_queued(
    stack: Stack, database_url: str, organisation: str
) -> None:
    limited = Stack(database_url, stack.state_dir)
    await limited.start("serve", TENANT_QUEUED_LIMIT="5")
    try:
        async with limited.client(limited.token(organisation)) as client:
            outcomes = await asyncio.gather(
                *(client.trigger_run("unserved") for _ in range(30)), return_exceptions=True
            )
            taken = [run for run in outcomes if not isinstance(run, BaseException)]
            refusals = [error for error in outcomes if isinstance(error, QuotaExceeded)]
            assert (len(taken), len(refusals)) == (5, 25)
            assert str(refusals[0]).startswith("The organisation has 5 runs queued")
            assert refusals[0].retry_after_seconds == 1

            # A run that left the queue makes room; its retry needs room, too.
            await client.cancel_run(taken[0].id)
            await client.trigger_run("unserved")
            with pytest.raises(QuotaExceeded):
                await client.retry_run(taken[0].id)
            run = await client.get_run(taken[0].id)
            assert (run.status, run.attempt) == (WireStatus.RUN_STATUS_CANCELLED, 1)

            async with limited.client(limited.token(f"{organisation}_2")) as other:
                await other.trigger_run("unserved")
    finally:
        await limited.stop()


async def read_rows(transaction: Connection) -> tuple[int, int]:
    """(rows of runs read by going through them all, rows fetched by an index) in this transaction."""
    row = await transaction.fetchrow(
        "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'runs'"
    )
    assert row is not None
    return int(row["seq_tup_read"]), int(row["idx_tup_fetch"])


@pytest.mark.parametrize("tenants", [1, 100])
@pytest.mark.parametrize("limit", [None, 1000])
async def test_a_claim_reads_what_it_takes_however_many_are_queued(
    engine: Engine, database: asyncpg.Connection, tenants: int, limit: int | None
) -> None:
    for status in ("completed", "queued"):
        await database.execute(
            """INSERT INTO runs (tenant_id, id, workflow_name, encoded_input, status)
            SELECT $1 || number % $2::int, gen_random_uuid(), $3, '', $4
            FROM generate_series(1, 20000) AS number""",
            engine.tenant_id,
            tenants,
            engine.workflow,
            status,
        )
    await database.execute("ANALYZE runs")
    arguments = ([engine.workflow], 10, LEASE_SECONDS, uuid4(), "worker:test", "", limit, *[None] * 4)
    async with engine.database.dispatch().transaction() as transaction:
        taken = await transaction.fetch(dispatch_function("claim_queued").call, *arguments)
        all_read, fetched = await read_rows(transaction)
    assert len(taken) == 10
    assert all_read == 0
    # Each is found, locked and updated, and each tenant's turn is a look at one.
    assert fetched <= 10 * len(taken)


async def test_a_look_for_lost_runs_reads_no_others(engine: Engine, database: asyncpg.Connection) -> None:
    # What earlier tests have left to its lease is not lost yet.
    await database.execute(
        "UPDATE runs SET lease_expires_at = clock_timestamp() + interval '1 hour' WHERE status = 'running'"
    )
    await database.execute(
        """INSERT INTO runs (tenant_id, id, workflow_name, encoded_input, status, lease_seconds,
            lease_expires_at)
        SELECT $1, gen_random_uuid(), $2, '', 'running', 7200, CASE WHEN number <= 5 THEN '2000-01-01'
            ELSE clock_timestamp() + interval '1 hour' END FROM generate_series(1, 20000) AS number""",
        engine.tenant_id,
        engine.workflow,
    )
    await database.execute("ANALYZE runs")
    arguments = ([engine.workflow], 10, 7200.0, uuid4(), "worker:test", 2, 1, *[None] * 4)
    async with engine.database.dispatch().transaction() as transaction:
        taken = await transaction.fetch(dispatch_function("claim_expired").call, *arguments)
        all_read, fetched = await read_rows(transaction)
    assert len(taken) == 5
    assert all_read == 0
    assert fetched <= 10 * len(taken)
