"""What a worker records for several runs at the same time shares a statement, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import asyncpg
import pytest
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.commands.trigger_run import check_trigger
from runengine_server.domain.errors import Fenced, StatementRefused
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.record_progress import RECORD_PROGRESS, Call
from runengine_server.repositories.run_repository import RunRepository

from tests.faults.proxy import Proxy
from tests.support.own_worker import ACTOR, Engine, Ran, chain, locked, serving

RUNS = 6


@pytest.fixture
async def engine(proxy: Proxy) -> AsyncIterator[Engine]:
    async with serving(proxy.url, chain(one=Ran().node("one"))) as engine:
        yield engine


async def claim(engine: Engine, tenants: int = 1) -> list[HeldRunRepository]:
    held = []
    for number in range(RUNS):
        tenant_id = engine.tenant_id if number % tenants == 0 else f"{engine.tenant_id}_{number % tenants}"
        runs = RunRepository(engine.database.tenant(tenant_id))
        await runs.trigger(check_trigger(TriggerRunRequest(workflow_name=engine.workflow)), ACTOR, None, None)
        held.append(HeldRunRepository(engine.database, await engine.claim(), "worker:test"))
    return held


def begin(held: HeldRunRepository, skill_id: str = "one") -> asyncio.Task[int]:
    return asyncio.create_task(held.begin_step(uuid4(), "one", skill_id, False))


def statements(proxy: Proxy) -> list[str]:
    return [sql.partition("(")[0].rpartition(".")[2] for sql in proxy.executed if "record_progress" in sql]


async def begun(database: asyncpg.Connection, held: Sequence[HeldRunRepository]) -> dict[UUID, str]:
    """The tenant of each of the runs that has a step."""
    ids = [each.run.id for each in held]
    rows = await database.fetch("SELECT run_id, tenant_id FROM run_steps WHERE run_id = ANY($1)", ids)
    return {row["run_id"]: row["tenant_id"] for row in rows}


async def test_runs_that_are_recorded_at_the_same_time_share_a_statement(
    engine: Engine, proxy: Proxy
) -> None:
    held = await claim(engine)
    proxy.executed.clear()
    assert await asyncio.gather(*map(begin, held)) == [1] * RUNS
    assert statements(proxy) == ["record_progress"]


async def test_tenants_share_a_statement_and_no_row(
    engine: Engine, proxy: Proxy, database: asyncpg.Connection
) -> None:
    held = await claim(engine, tenants=3)
    proxy.executed.clear()
    assert await asyncio.gather(*map(begin, held)) == [1] * RUNS
    assert statements(proxy) == ["record_progress_of_tenants"]
    assert await begun(database, held) == {each.run.id: each.run.tenant_id for each in held}
    assert len({each.run.tenant_id for each in held}) == 3


@pytest.mark.parametrize("tenants", [1, 3])
async def test_a_run_that_is_lost_loses_no_other(
    engine: Engine, database: asyncpg.Connection, tenants: int
) -> None:
    held = await claim(engine, tenants)
    await engine.lose(held[3].run.id)
    (again,) = await engine.queue.claim_expired(1)
    assert again.id == held[3].run.id
    for each in held:
        await each.save_writes("", "1", "task", "", [(0, "seen", "null", b"")], None, defer=True)
    attempts = await asyncio.gather(*map(begin, held), return_exceptions=True)
    assert isinstance(attempts.pop(3), Fenced)
    assert attempts == [1] * (RUNS - 1)
    assert again.id not in await begun(database, held)
    written = "SELECT run_id FROM checkpoint_writes WHERE run_id = ANY($1)"
    rows = await database.fetch(written, [each.run.id for each in held])
    assert {row["run_id"] for row in rows} == {each.run.id for each in held} - {again.id}


@pytest.mark.parametrize("tenants", [1, 3])
async def test_a_run_that_its_own_worker_has_taken_over_is_told_apart_by_epoch(
    engine: Engine, tenants: int
) -> None:
    held = await claim(engine, tenants)
    await engine.lose(held[3].run.id)
    (again,) = await engine.queue.claim_expired(1)
    successor = HeldRunRepository(engine.database, again, "worker:test")
    step_id = uuid4()

    def begin_step(of: HeldRunRepository) -> asyncio.Task[int]:
        return asyncio.create_task(of.begin_step(step_id, "one", "one", False))

    attempts = await asyncio.gather(
        *map(begin, held[:3]),
        begin_step(held[3]),
        begin_step(successor),
        *map(begin, held[4:]),
        return_exceptions=True,
    )
    assert isinstance(attempts.pop(3), Fenced)
    assert attempts == [1] * RUNS


async def test_a_step_that_both_holders_complete_has_what_the_later_one_wrote(
    engine: Engine, proxy: Proxy, database: asyncpg.Connection
) -> None:
    (former, *_) = await claim(engine)
    await engine.lose(former.run.id)
    (again,) = await engine.queue.claim_expired(1)
    successor = HeldRunRepository(engine.database, again, "worker:test")
    step_id = uuid4()
    await successor.begin_step(step_id, "one", "one", False)
    for held, update in [(former, b"former"), (successor, b"later")]:
        await held.save_writes("", "1", "task", "", [(0, "seen", "null", b"")], step_id, update, defer=True)
    proxy.executed.clear()
    fenced, stored = await asyncio.gather(former.flush(), successor.flush(), return_exceptions=True)
    assert statements(proxy) == ["record_progress"]
    assert isinstance(fenced, Fenced)
    assert stored is None
    rows = await database.fetch("SELECT status, encoded_update FROM run_steps WHERE id = $1", step_id)
    assert [tuple(row) for row in rows] == [("completed", b"later")]


@pytest.mark.parametrize("tenants", [1, 3])
async def test_a_refusal_of_one_run_refuses_nothing_of_another(engine: Engine, tenants: int) -> None:
    held = await claim(engine, tenants)
    begins = [begin(each, "no \0 name" if each is held[3] else "one") for each in held]
    attempts = await asyncio.gather(*begins, return_exceptions=True)
    assert isinstance(attempts.pop(3), StatementRefused)
    assert attempts == [1] * (RUNS - 1)


async def test_a_run_that_is_locked_holds_up_no_other(engine: Engine, database_url: str) -> None:
    held = await claim(engine)
    async with locked(database_url, held[3].run.id):
        begins = list(map(begin, held))
        late = begins.pop(3)
        assert await asyncio.gather(*begins, return_exceptions=True) == [1] * (RUNS - 1)
        assert not late.done()
    assert await late == 1


def test_a_batch_locks_its_runs_in_the_order_of_their_ids() -> None:
    ids = [uuid4() for _ in range(RUNS)]
    for tenants in (1, 3):
        calls: list[Call] = [(f"org_{n % tenants}", run_id, 1, []) for n, run_id in enumerate(ids)]
        _, arguments = RECORD_PROGRESS.statement(calls)
        assert arguments[1] == sorted(ids)


async def test_a_statement_writes_for_the_runs_of_its_tenant_alone(
    engine: Engine, database: asyncpg.Connection
) -> None:
    held = await claim(engine, tenants=2)
    of_both: list[Call] = [(engine.tenant_id, each.run.id, each.run.epoch, []) for each in held]
    sql, arguments = RECORD_PROGRESS.statement(of_both)
    rows = await engine.tenant.fetch(sql, *arguments)
    assert {arguments[1][row["place"] - 1] for row in rows} == {
        each.run.id for each in held if each.run.tenant_id == engine.tenant_id
    }
