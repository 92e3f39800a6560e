"""Runs that may kill their worker are taken one at a time, and fail when they have lost too many."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from runengine_server.domain.run import MAX_LOSSES, RunStatus

from tests.support.own_worker import Engine, Held, Ran, chain, ended, serving


@pytest.fixture
async def quarantined(database_url: str) -> AsyncIterator[tuple[Engine, Held, list[UUID]]]:
    """Three runs that two workers and more were lost with, those lost most often first."""
    held = Held()
    async with serving(database_url, chain(held=held.node)) as engine:
        ids = [await engine.trigger() for _ in range(3)]
        await engine.queue.claim_queued(3)
        for losses, run_id in zip((3, 2, 1), ids, strict=True):
            await engine.tenant.fetch("UPDATE runs SET losses = $2 WHERE id = $1", run_id, losses)
            await engine.lose(run_id)
        yield engine, held, ids


async def test_a_run_in_quarantine_is_taken_alone_and_the_one_lost_most_often_last(
    quarantined: tuple[Engine, Held, list[UUID]],
) -> None:
    engine, _, ids = quarantined
    assert await engine.queue.claim_expired(3, quarantine=0) == []
    taken = [await engine.queue.claim_expired(3) for _ in ids]
    assert [[run.id for run in runs] for runs in taken] == [[ids[2]], [ids[1]], [ids[0]]]


async def test_a_worker_executes_one_run_in_quarantine_at_a_time_beside_others(
    quarantined: tuple[Engine, Held, list[UUID]],
) -> None:
    engine, held, ids = quarantined
    fresh = await engine.trigger()
    async with engine.working():
        first, second = await held.next(), await held.next()
        assert {first.run_id, second.run_id} == {ids[2], fresh}
        one_more = await engine.trigger()
        third = await held.next()
        assert third.run_id == one_more
        assert held.waiting() == 0
        for execution in (first, second, third):
            execution.go.set()
        for expected in (ids[1], ids[0]):
            execution = await held.next()
            assert execution.run_id == expected
            execution.go.set()
        for run_id in ids:
            assert await ended(engine, run_id) is RunStatus.COMPLETED


async def test_a_run_that_loses_its_worker_too_often_fails_and_a_retry_starts_its_losses_anew(
    database_url: str,
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        await engine.claim()
        for _ in range(MAX_LOSSES):
            claimed = await engine.take_over(run_id)
        run = await engine.process(claimed)
        assert run.error is not None
        assert (run.status, run.error.code) == ("failed", "WORKER_LOST")
        await engine.retry(run_id)
        assert (await engine.process(await engine.claim())).status is RunStatus.COMPLETED
