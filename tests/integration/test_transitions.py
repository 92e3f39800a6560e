"""Counts and times are exact whatever happens to the runs of a campaign at once."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg
import pytest
from runengine_server.domain.errors import WrongState
from runengine_server.domain.run import RunStatus

from tests.support.own_worker import SECONDS, State, chain, serving

pytestmark = pytest.mark.usefixtures("short_pauses")


async def test_counts_are_exact_and_time_goes_on_whatever_happens_at_once(
    database_url: str, database: asyncpg.Connection
) -> None:
    chance = random.Random(7)
    campaign_ids = [uuid4() for _ in range(3)]
    run_ids: list[UUID] = []

    async def work(state: State) -> State:
        if state["fail"]:
            raise RuntimeError("It was to fail.")
        return {}

    async with serving(database_url, chain(work=work)) as engine:

        async def act() -> None:
            what = chance.choice(["trigger", "execute", "execute", "take over", "cancel", "retry", "retry"])
            if what == "trigger" or not run_ids:
                campaign_id = chance.choice(campaign_ids)
                run_ids.append(await engine.trigger({"fail": chance.random() < 0.7}, campaign_id))
            elif what == "execute":
                for run in await engine.queue.claim_queued(chance.randint(1, 3)):
                    await engine.processor.process(run)
            elif what == "take over":
                claimed = await engine.queue.claim_queued(1)
                for run in claimed:
                    await engine.lose(run.id)
                for run in await engine.queue.claim_expired(5):
                    await engine.processor.process(run)
            else:
                with suppress(WrongState):
                    await (engine.cancel if what == "cancel" else engine.retry)(chance.choice(run_ids))

        async def actor() -> None:
            for _ in range(30):
                await act()

        async with asyncio.timeout(3 * SECONDS):
            await asyncio.gather(*(actor() for _ in range(8)))
        statuses = {(await engine.get(run_id)).status for run_id in run_ids}
        assert statuses >= {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}

    counted = await database.fetch(
        """SELECT campaign_id, sum(queued) AS queued, sum(running) AS running, sum(completed) AS completed,
            sum(failed) AS failed, sum(cancelled) AS cancelled
        FROM campaign_run_counts WHERE tenant_id = $1 GROUP BY campaign_id ORDER BY campaign_id""",
        engine.tenant_id,
    )
    actual = await database.fetch(
        """SELECT campaign_id, count(*) FILTER (WHERE status = 'queued') AS queued,
            count(*) FILTER (WHERE status = 'running') AS running,
            count(*) FILTER (WHERE status = 'completed') AS completed,
            count(*) FILTER (WHERE status = 'failed') AS failed,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled
        FROM runs WHERE tenant_id = $1 GROUP BY campaign_id ORDER BY campaign_id""",
        engine.tenant_id,
    )
    assert [dict(row) for row in counted] == [dict(row) for row in actual]
    # The time of a transition is the run's updated_at that it made. A takeover changes nothing visible.
    not_later = await database.fetch(
        """SELECT run_id, at FROM (
            SELECT run_id, at, lag(at) OVER (PARTITION BY run_id ORDER BY seq) AS before
            FROM run_events WHERE tenant_id = $1 AND reason <> 'TAKEN_OVER'
        ) AS transitions WHERE at <= before""",
        engine.tenant_id,
    )
    assert not_later == []
    last = await database.fetch(
        """SELECT id FROM runs WHERE tenant_id = $1 AND updated_at <> (
            SELECT max(at) FROM run_events
            WHERE run_events.tenant_id = $1 AND run_id = runs.id AND reason <> 'TAKEN_OVER')""",
        engine.tenant_id,
    )
    assert last == []


async def test_updated_at_rises_with_every_transition_although_the_clock_was_set_back(
    database_url: str,
) -> None:
    async def work(state: State) -> State:
        if state["fail"]:
            raise RuntimeError("It was to fail.")
        return {}

    async with serving(database_url, chain(work=work)) as engine:

        async def from_the_future(run_id: UUID) -> datetime:
            row = await engine.tenant.fetchrow(
                """UPDATE runs SET updated_at = updated_at + interval '1 hour' WHERE id = $1
                RETURNING updated_at""",
                run_id,
            )
            assert row is not None
            updated_at: datetime = row["updated_at"]
            return updated_at

        failing, fine = await engine.trigger({"fail": True}), await engine.trigger({"fail": False})
        for run_id in (failing, fine):
            before = await from_the_future(run_id)
            claimed = await engine.claim()
            assert (await engine.get(run_id)).updated_at > before
            before = await from_the_future(run_id)
            assert (await engine.process(claimed)).updated_at > before
        before = await from_the_future(failing)
        assert (await engine.retry(failing)).updated_at > before
        before = await from_the_future(failing)
        cancelled = await engine.cancel(failing)
        assert cancelled.updated_at > before
        assert await engine.cancel(failing) == cancelled
