"""A worker keeps what it claims until it ends it or hands it back, and many share one queue."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import ClaimedRun, RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.queue_repository import LeaseRenewer

from tests.support.own_worker import (
    SECONDS,
    Held,
    Ran,
    State,
    chain,
    database_goes_away,
    ended,
    fork,
    happened,
    serving,
    until,
)

pytestmark = pytest.mark.usefixtures("short_pauses")


async def test_runs_are_executed_although_the_next_claim_fails(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [Unavailable()] * 3

    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        real = engine.queue.claim_expired

        async def away(limit: int, quarantine: int = 1) -> list[ClaimedRun]:
            if failures:
                raise failures.pop()
            return await real(limit, quarantine)

        run_id = await engine.trigger()
        monkeypatch.setattr(engine.queue, "claim_expired", away)
        async with engine.working():
            assert await ended(engine, run_id) is RunStatus.COMPLETED


async def test_garbage_of_runs_is_collected_once_the_worker_has_none(database_url: str) -> None:
    collected = asyncio.Event()
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        gc.collect()
        gc.disable()
        gc.callbacks.append(note := lambda phase, _: collected.set())
        try:
            async with engine.working():
                assert await ended(engine, run_id) is RunStatus.COMPLETED
                await happened(collected)
        finally:
            gc.callbacks.remove(note)
            gc.enable()


async def test_heartbeats_go_on_after_one_has_failed_in_an_unforeseen_way(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beaten, loop = asyncio.Event(), asyncio.get_running_loop()
    failures = [RuntimeError("the handler is closed")]
    heartbeat = LeaseRenewer.heartbeat

    async def beat(renewer: LeaseRenewer, runs: list[ClaimedRun], seconds: float) -> Any:
        if failures:
            raise failures.pop()
        kept = await heartbeat(renewer, runs, seconds)
        loop.call_soon_threadsafe(beaten.set)
        return kept

    monkeypatch.setattr(LeaseRenewer, "heartbeat", beat)
    held = Held()
    async with serving(database_url, chain(held=held.node)) as engine:
        run_id = await engine.trigger()
        async with engine.working(lease_seconds=0.9):
            execution = await held.next()
            await happened(beaten)
            execution.go.set()
            assert await ended(engine, run_id) is RunStatus.COMPLETED


async def test_a_worker_that_takes_over_its_own_run_stops_its_old_execution(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, beaten, loop = Held(), asyncio.Event(), asyncio.get_running_loop()
    heartbeat = LeaseRenewer.heartbeat

    async def beat(renewer: LeaseRenewer, runs: list[ClaimedRun], seconds: float) -> Any:
        kept = await heartbeat(renewer, runs, seconds)
        loop.call_soon_threadsafe(beaten.set)
        return kept

    monkeypatch.setattr(LeaseRenewer, "heartbeat", beat)
    # So long that after the first one, when it connects, no heartbeat renews the lease that is taken from it.
    async with serving(database_url, chain(held=held.node), lease_seconds=3600) as engine:
        run_id = await engine.trigger()
        async with engine.working():
            first = await held.next()
            await happened(beaten)
            await engine.lose(run_id)
            second = await held.next()
            await happened(first.ended)
            assert not second.ended.is_set()
            # The worker still knows the second one: it is told of the cancel.
            await engine.cancel(run_id)
            await happened(second.ended)
        assert await engine.executions(run_id) == [
            "held 1 failed WORKER_LOST", "held 2 failed RUN_CANCELLED",
        ]  # fmt: skip


async def test_a_node_that_will_not_stop_does_not_keep_the_worker_from_handing_back_all_runs(
    database_url: str,
) -> None:
    held, released = Held(), asyncio.Event()
    uncancellable = iter([True])

    async def node(state: State, runtime: Runtime[RunContext]) -> State:
        if not next(uncancellable, False):
            return await held.node(state, runtime)
        held.arrive(runtime)
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return {}

    async with serving(database_url, chain(held=node)) as engine:
        run_ids = {await engine.trigger(), await engine.trigger()}
        before = asyncio.all_tasks()
        try:
            async with engine.working():
                for _ in run_ids:
                    await held.next()
            runs = await engine.queue.claim_expired(2)
            assert {run.id for run in runs} == run_ids
            assert {run.losses for run in runs} == {0}
            executions = [await engine.executions(run_id) for run_id in run_ids]
        finally:
            released.set()
        # What the uncancellable one still writes counts for nothing.
        await asyncio.wait(asyncio.all_tasks() - before, timeout=SECONDS)
        assert [await engine.executions(run_id) for run_id in run_ids] == executions


async def test_a_run_is_not_lost_however_often_the_database_goes_away(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        database_goes_away(monkeypatch, "begin_step", times=7)
        run_id = await engine.trigger()
        async with engine.working():
            assert await ended(engine, run_id) is RunStatus.COMPLETED
        assert await engine.losses(run_id) == 0


async def test_a_late_word_of_a_cancelled_attempt_does_not_stop_the_next_one(
    database_url: str, database: asyncpg.Connection
) -> None:
    held = Held()
    async with serving(database_url, chain(held=held.node)) as engine:
        run_id, other_id = await engine.trigger(), await engine.trigger()
        async with engine.working():
            executions = {each.run_id: each for each in (await held.next(), await held.next())}
            await engine.cancel(run_id)
            await happened(executions[run_id].ended)
            await engine.retry(run_id)
            second = await held.next()
            await database.execute("SELECT pg_notify('runengine_cancelled', $1)", f"{run_id} 1")
            # The next word on the same channel: when it has arrived, the late one had.
            await engine.cancel(other_id)
            await happened(executions[other_id].ended)
            second.go.set()
            assert await ended(engine, run_id) is RunStatus.COMPLETED


async def test_writes_of_a_step_are_stored_before_the_run_fails_for_another(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, order = Ran(), list[str]()
    writing, written = asyncio.Event(), asyncio.Event()
    save_writes, fail_step, end = (
        HeldRunRepository.save_writes,
        HeldRunRepository.fail_step,
        HeldRunRepository.end,
    )

    async def slow_write(held: HeldRunRepository, *arguments: Any, **named: Any) -> None:
        if "left" not in ran.names or writing.is_set():
            return await save_writes(held, *arguments, **named)
        writing.set()
        await written.wait()
        await save_writes(held, *arguments, **named)
        order.append("written")
        return None

    async def fail(held: HeldRunRepository, *arguments: Any, **named: Any) -> None:
        await fail_step(held, *arguments, **named)
        # Late enough for an engine that does not wait to have ended the run.
        asyncio.get_running_loop().call_later(0.2, written.set)

    def noted_end(held: HeldRunRepository) -> Any:
        order.append("ended")
        return end(held)

    async def right(state: State) -> State:
        await writing.wait()
        raise RuntimeError("Right.")

    monkeypatch.setattr(HeldRunRepository, "save_writes", slow_write)
    monkeypatch.setattr(HeldRunRepository, "fail_step", fail)
    monkeypatch.setattr(HeldRunRepository, "end", noted_end)
    async with serving(database_url, fork(left=ran.node("left"), right=right)) as engine:
        run = await engine.execute()
        assert order == ["written", "ended"]
        assert sorted(await engine.executions(run.id)) == [
            "left 1 completed", "right 1 failed STEP_FAILED",
        ]  # fmt: skip


async def test_nothing_is_written_any_more_once_a_stopped_execution_has_ended(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    writes: list[object] = []
    save_writes = HeldRunRepository.save_writes

    async def note(repository: HeldRunRepository, *arguments: Any, **named: Any) -> None:
        writes.append("begun")
        await save_writes(repository, *arguments, **named)
        writes.append("done")

    monkeypatch.setattr(HeldRunRepository, "save_writes", note)
    async with serving(database_url, fork(one=held.node, two=held.node)) as engine:
        await engine.trigger()
        claimed = await engine.claim()
        before = asyncio.all_tasks()
        execution = asyncio.create_task(engine.processor.process(claimed))
        await held.next()
        await held.next()
        execution.cancel()
        await asyncio.wait([execution], timeout=SECONDS)
        assert execution.cancelled()
        at_the_end = list(writes)
        if left := asyncio.all_tasks() - before:
            await asyncio.wait(left, timeout=SECONDS)
        assert writes == at_the_end
        assert writes.count("begun") == writes.count("done")


async def test_a_node_that_ignores_being_cancelled_does_not_keep_its_place(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runengine_server.worker.processor.GRACE_SECONDS", 0.1)
    entered, go = asyncio.Event(), asyncio.Event()

    async def deaf(state: State) -> State:
        entered.set()
        while not go.is_set():
            with suppress(asyncio.CancelledError):
                await go.wait()
        return {"seen": ["deaf"]}

    async with serving(database_url, chain(node=deaf)) as engine:
        run_id = await engine.trigger()
        async with engine.working(concurrency=1):
            await happened(entered)
            await engine.cancel(run_id)
            entered.clear()
            # The only place of this worker is free again, although the node is still at it.
            await engine.trigger()
            await happened(entered)
            assert len(engine.processor.abandoned) == 1
            go.set()
            await until(engine.abandoned_graphs, lambda left: left == 0)
        assert (await engine.get(run_id)).status is RunStatus.CANCELLED
        assert await engine.executions(run_id) == ["node 1 failed RUN_CANCELLED"]
