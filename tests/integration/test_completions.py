"""Runs that complete at the same time share a statement, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4, uuid5

import asyncpg
import pytest
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.commands.trigger_run import check_trigger
from runengine_server.domain.errors import Fenced, StatementRefused, Unavailable
from runengine_server.domain.run import CampaignStatus, RunOutput
from runengine_server.repositories.campaign_repository import CampaignRepository
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.run_repository import RunRepository

from tests.faults.proxy import Proxy
from tests.support.own_worker import ACTOR, Engine, Ran, chain, locked, serving, until

RUNS, CAMPAIGNS = 6, 2


@pytest.fixture
async def engine(proxy: Proxy) -> AsyncIterator[Engine]:
    async with serving(proxy.url, chain(one=Ran().node("one"))) as engine:
        yield engine


async def at_their_end(engine: Engine, tenants: int = 1) -> list[HeldRunRepository]:
    """Runs of some tenants, and of CAMPAIGNS of each, whose only step has written and is not recorded yet."""
    held = []
    campaigns = [(f"{engine.tenant_id}_{each % tenants}", uuid4()) for each in range(tenants * CAMPAIGNS)]
    for tenant_id, campaign_id in campaigns:
        await CampaignRepository(engine.database.tenant(tenant_id)).insert(campaign_id)
    for number in range(RUNS):
        tenant_id, campaign_id = campaigns[number % len(campaigns)]
        request = TriggerRunRequest(workflow_name=engine.workflow)
        request.context["campaignId"] = str(campaign_id)
        await RunRepository(engine.database.tenant(tenant_id)).trigger(
            check_trigger(request), ACTOR, None, None
        )
        held.append(HeldRunRepository(engine.database, await engine.claim(), "worker:test"))
    for each in held:
        await write(each)
    return held


async def write(held: HeldRunRepository) -> None:
    """Its step has done its work."""
    step = uuid5(held.run.id, "one")  # whoever holds the run, as LangGraph has it
    await held.begin_step(step, "one", "one", False)
    rows = [(0, "seen", "null", b"")]
    await held.save_writes("", "1", str(step), "", rows, step, told(held), defer=True)


async def taken_over(
    engine: Engine, database: asyncpg.Connection, held: HeldRunRepository
) -> HeldRunRepository:
    """Its successor, in the same process, at the end of the run too."""
    await database.execute("UPDATE runs SET lease_expires_at = '2000-01-01' WHERE id = $1", held.run.id)
    (again,) = await engine.queue.claim_expired(1)
    successor = HeldRunRepository(engine.database, again, "worker:test")
    await write(successor)
    return successor


def told(held: HeldRunRepository) -> bytes:
    """What a holder of a run writes that no other does."""
    return f"{held.run.id} {held.run.epoch}".encode()


def complete(held: HeldRunRepository, bundle_url: str | None = None) -> asyncio.Task[None]:
    async def end() -> None:
        async with held.end() as ending:
            await ending.complete(RunOutput(told(held), None))
            assert held.run.campaign_id is not None
            await ending.update_campaign(
                held.run.campaign_id, CampaignStatus.LIVE, bundle_url or str(held.run.id), held.run.id
            )

    return asyncio.create_task(end())


def statements(proxy: Proxy) -> list[str]:
    """Those that have ended runs."""
    called = [sql.partition("(")[0].rpartition(".")[2] for sql in proxy.executed]
    return [name for name in called if name == "end_run" or name.startswith("complete_runs")]


async def found(database: asyncpg.Connection, held: Sequence[HeldRunRepository]) -> dict[UUID, list[str]]:
    """Of each run its tenant and status, its output, its steps, and its transitions."""
    rows = await database.fetch(
        """SELECT id, concat_ws(' ', tenant_id, status) AS run, encoded_output::text AS output,
            (SELECT array_agg(concat_ws(' ', step.status, step.encoded_update) ORDER BY seq)::text
                FROM run_steps AS step WHERE run_id = runs.id) AS steps,
            (SELECT array_agg(to_status ORDER BY seq)::text FROM run_events WHERE run_id = runs.id) AS events
        FROM runs WHERE id = ANY($1)""",
        [each.run.id for each in held],
    )
    return {row["id"]: list(row)[1:] for row in rows}


def completed(held: HeldRunRepository) -> list[str]:
    hexed = f"\\x{told(held).hex()}"
    steps = f'{{"completed \\{hexed}"}}'
    return [f"{held.run.tenant_id} completed", hexed, steps, "{queued,running,completed}"]


async def check_order(database: asyncpg.Connection, held: Sequence[HeldRunRepository]) -> None:
    """The end of a run is the last that is logged of it: its watchers read no further."""
    for each in held:
        logged = await database.fetch(
            """SELECT 'run ' || to_status AS what, seq FROM run_events WHERE run_id = $1
            UNION ALL SELECT 'step ' || status, seq FROM step_events WHERE run_id = $1 ORDER BY seq""",
            each.run.id,
        )
        assert [row["what"] for row in logged][-2:] == ["step completed", "run completed"]


async def check_campaigns(database: asyncpg.Connection, held: Sequence[HeldRunRepository]) -> None:
    """Each is live by its newest run, and its counts are exact."""
    for campaign in {each.run.campaign_id for each in held}:
        own = [each.run for each in held if each.run.campaign_id == campaign]
        row = await database.fetchrow("SELECT status, latest_run_id FROM campaigns WHERE id = $1", campaign)
        assert tuple(row or ()) == ("live", max(run.id for run in own))
        counts = await database.fetchrow(
            """SELECT sum(queued), sum(running), sum(completed), sum(failed), sum(cancelled)
            FROM campaign_run_counts WHERE campaign_id = $1""",
            campaign,
        )
        assert tuple(counts or ()) == (0, 0, len(own), 0, 0)


@pytest.mark.parametrize("tenants", [1, 3])
async def test_runs_that_complete_at_the_same_time_share_a_statement(
    engine: Engine, proxy: Proxy, database: asyncpg.Connection, tenants: int
) -> None:
    held = await at_their_end(engine, tenants)
    proxy.executed.clear()
    await asyncio.gather(*map(complete, held))
    assert statements(proxy) == ["complete_runs" if tenants == 1 else "complete_runs_of_tenants"]
    assert await found(database, held) == {each.run.id: completed(each) for each in held}
    await check_order(database, held)
    await check_campaigns(database, held)


@pytest.mark.parametrize("tenants", [1, 3])
async def test_a_run_that_is_lost_loses_no_other(
    engine: Engine, database: asyncpg.Connection, tenants: int
) -> None:
    """And is completed by who has it, in the same statement."""
    held = await at_their_end(engine, tenants)
    lost, other = held[3], held[5]
    successor, later = await taken_over(engine, database, lost), await taken_over(engine, database, other)
    ends = await asyncio.gather(*map(complete, [*held, successor]), return_exceptions=True)
    assert [each for each, end in zip(held, ends, strict=False) if isinstance(end, Fenced)] == [lost, other]
    assert ends[-1] is None
    rows = await found(database, held)
    assert rows.pop(other.run.id)[0] == f"{other.run.tenant_id} running"
    of_successor = rows.pop(lost.run.id)
    assert of_successor[1] == completed(successor)[1]
    assert told(successor).hex() in of_successor[2]
    assert told(lost).hex() not in of_successor[2]
    assert rows == {each.run.id: completed(each) for each in held if each not in (lost, other)}
    shown = "SELECT latest_run_id FROM campaigns WHERE id = $1"
    assert await database.fetchval(shown, other.run.campaign_id) != other.run.id
    await complete(later)
    await check_campaigns(database, held)


async def test_a_run_that_is_locked_holds_up_no_other(
    engine: Engine, database_url: str, database: asyncpg.Connection
) -> None:
    held = await at_their_end(engine)
    async with locked(database_url, held[3].run.id):
        ends = [complete(each) for each in held]
        await asyncio.gather(*ends[:3], *ends[4:])
        assert not ends[3].done()
    await ends[3]
    assert await found(database, held) == {each.run.id: completed(each) for each in held}
    await check_campaigns(database, held)


async def test_a_completion_that_is_refused_fails_alone(engine: Engine, database: asyncpg.Connection) -> None:
    held = await at_their_end(engine)
    ends = [complete(each, "no \0 in it" if each is held[3] else None) for each in held]
    refused = (await asyncio.gather(*ends, return_exceptions=True)).pop(3)
    assert isinstance(refused, StatementRefused)
    rows = await found(database, held)
    assert rows.pop(held[3].run.id)[0] == f"{held[3].run.tenant_id} running"
    assert rows == {each.run.id: completed(each) for each in held if each is not held[3]}
    await complete(held[3])
    await check_campaigns(database, held)


@pytest.mark.parametrize("applied", [True, False], ids=["committed", "rolled-back"])
async def test_a_batch_of_completions_whose_commit_was_lost_is_not_sent_again(
    engine: Engine, proxy: Proxy, database: asyncpg.Connection, applied: bool
) -> None:
    held = await at_their_end(engine)
    proxy.executed.clear()
    lost = proxy.lose_commit(applied, b"complete_runs")
    ends = await asyncio.gather(*map(complete, held), return_exceptions=True)
    await lost
    assert [type(end) for end in ends] == [Unavailable] * RUNS
    assert statements(proxy) == ["complete_runs"]

    async def statuses() -> set[str]:
        return {run[0].split()[1] for run in (await found(database, held)).values()}

    await until(statuses, lambda seen: seen == {"completed" if applied else "running"})
