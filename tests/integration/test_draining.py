"""A worker that is told to stop ends what it can and hands the rest over."""

from __future__ import annotations

import asyncio

import pytest
from runengine_server.domain.run import ClaimedRun, RunStatus
from runengine_server.repositories.queue_repository import QueueRepository
from structlog.testing import capture_logs

from tests.support.own_worker import SECONDS, Held, Ran, chain, ended, serving, until


async def test_a_worker_that_is_told_to_stop_ends_its_nodes_and_hands_the_rest_over(
    database_url: str,
) -> None:
    held, ran = Held(), Ran()
    async with serving(database_url, chain(held=held.node, last=ran.node("last"))) as engine:
        run_id = await engine.trigger()
        async with engine.working(drain_seconds=SECONDS) as worker:
            execution = await held.next()
            worker.stop()
            execution.go.set()
        # The node it was in has ended, and the next one has not begun.
        assert await engine.executions(run_id) == ["held 1 completed"]
        assert ran.names == []
        (successor,) = await engine.queue.claim_expired(1)
        assert (successor.losses, successor.attempt) == (0, 1)
        assert (await engine.process(successor)).status is RunStatus.COMPLETED
        assert await engine.executions(run_id) == ["held 1 completed", "last 1 completed"]


async def test_a_drained_run_goes_on_at_once_with_a_worker_that_waits(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not because the other one looks again: that it does an hour later.
    monkeypatch.setattr("runengine_server.worker.worker.POLL_SECONDS", 3600.0)
    held = Held()
    async with (
        serving(database_url, chain(one=held.node, two=held.node), lease_seconds=4 * 3600) as engine,
        engine.working(drain_seconds=SECONDS) as leaving,
    ):
        run_id = await engine.trigger()
        execution = await held.next()
        async with engine.working():
            leaving.stop()
            execution.go.set()
            (await held.next()).go.set()
            assert await ended(engine, run_id) is RunStatus.COMPLETED


async def test_a_node_that_does_not_end_while_its_worker_drains_is_stopped_and_executed_elsewhere(
    database_url: str,
) -> None:
    held = Held()
    async with serving(database_url, chain(held=held.node)) as engine:
        run_id = await engine.trigger()
        async with engine.working(drain_seconds=0.05):
            await held.next()
        (successor,) = await engine.queue.claim_expired(1)
        assert successor.losses == 0
        again = asyncio.create_task(engine.process(successor))
        (await held.next()).go.set()
        assert (await again).status is RunStatus.COMPLETED
        assert await engine.executions(run_id) == ["held 1 failed WORKER_LOST", "held 2 completed"]


async def test_a_run_that_drains_while_its_worker_still_claims_is_handed_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, is_last, claims, go = Held(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    claim_queued = QueueRepository.claim_queued

    async def claim(queue: QueueRepository, limit: int) -> list[ClaimedRun]:
        if is_last.is_set():
            claims.set()
            await go.wait()
        return await claim_queued(queue, limit)

    monkeypatch.setattr(QueueRepository, "claim_queued", claim)
    async with serving(database_url, chain(one=held.node, two=held.node), lease_seconds=4 * 3600) as engine:
        await engine.trigger()
        with capture_logs() as logs:
            async with engine.working(drain_seconds=SECONDS) as leaving:
                execution = await held.next()
                is_last.set()
                await asyncio.wait_for(claims.wait(), SECONDS)
                leaving.stop()
                execution.go.set()
                await until(
                    lambda: asyncio.sleep(0.01, [each["event"] for each in logs]),
                    lambda events: "run drained" in events,
                )
                await asyncio.sleep(0)  # its task ends
                go.set()
        is_last.clear()
        (successor,) = await engine.queue.claim_expired(1)
        assert successor.losses == 0
