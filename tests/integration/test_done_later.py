"""What a step has done goes out with the next statement of its run, and is not lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from langgraph.func import task
from langgraph.graph import START, StateGraph
from runengine_server.database.functions import TenantFunction
from runengine_server.domain.errors import StatementRefused, Unavailable
from runengine_server.domain.run import Failure, RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.record_progress import RECORD_PROGRESS
from runengine_server.repositories.write_behind import PendingWrites, StoredCheckpoint

from tests.support.own_worker import Graph, Ran, State, chain, ended, happened, serving, until


async def test_a_begin_that_is_refused_does_not_take_the_step_before_with_it(database_url: str) -> None:
    ran = Ran()
    graph: Graph = StateGraph(State)
    graph.add_node("one", ran.node("one"))
    graph.add_node("two", ran.node("two"), metadata={"skill_id": "no \0 name"})
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert run.error.code == "WORKFLOW_FAILED"
        assert await engine.executions(run.id) == ["one 1 completed"]
    assert ran.names == ["one"]


async def test_a_refused_write_is_not_sent_again_with_the_failure_of_its_run(
    database_url: str,
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        held = HeldRunRepository(engine.database, await engine.claim(), "worker:test")
        await held.save_writes("", "1", "no \0 task", "", [(0, "seen", "null", b"")], None, defer=True)
        with pytest.raises(StatementRefused):
            await held.begin_step(uuid4(), "one", "one", False)
        async with held.end() as ending:
            await ending.fail(Failure("WORKFLOW_FAILED", "refused", None, 1, True))
        assert (await engine.get(run_id)).status is RunStatus.FAILED


async def test_a_run_that_could_not_be_ended_goes_on_after_its_last_step(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran()

    def end(held: HeldRunRepository) -> Any:
        raise Unavailable

    async with serving(database_url, chain(one=ran.node("one"), last=ran.node("last"))) as engine:
        run_id = await engine.trigger()
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "end", end)
            with pytest.raises(Unavailable):
                await engine.process(await engine.claim())
        assert (await engine.process(await engine.take_over(run_id))).status is RunStatus.COMPLETED
        assert ran.names == ["one", "last"]


async def test_a_worker_that_stops_while_a_step_waits_to_begin_has_stored_the_step_before(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, waiting = Ran(), asyncio.Event()
    real = HeldRunRepository.record_progress

    async def wait_for_the_first_time(held: HeldRunRepository, batch: Sequence[PendingWrites]) -> Any:
        if any(each.begun_step and each.begun_step[1] == "two" for each in batch) and not waiting.is_set():
            waiting.set()
            await asyncio.Event().wait()
        return await real(held, batch)

    monkeypatch.setattr(HeldRunRepository, "record_progress", wait_for_the_first_time)
    async with serving(database_url, chain(one=ran.node("one"), two=ran.node("two"))) as engine:
        run_id = await engine.trigger()
        async with engine.working() as worker:
            await happened(waiting)
            worker.stop()
        async with engine.working():
            assert await ended(engine, run_id) is RunStatus.COMPLETED
        assert ran.names == ["one", "two"]


async def test_a_begin_that_was_stopped_in_flight_may_be_committed_during_the_next(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        run, task_id = await engine.claim(), uuid4()
        held = HeldRunRepository(engine.database, run, "worker:test")
        first = database.transaction()
        await first.start()
        begin = PendingWrites(begun_step=(task_id, "one", "one", False, None, None, None))
        begin.stored = asyncio.get_running_loop().create_future()
        sql, arguments = RECORD_PROGRESS.statement([(run.tenant_id, run.id, run.epoch, [begin])])
        await database.fetch(sql, *arguments)
        second = asyncio.create_task(held.begin_step(task_id, "one", "one", False))
        waiting = "SELECT count(*) FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        await until(lambda: database.fetchval(waiting), bool)
        await first.commit()
        assert await second == 2
        assert await engine.executions(run_id) == ["one 1 failed STEP_TIMED_OUT", "one 2 running"]


async def test_a_step_is_recorded_while_a_task_that_it_has_left_alone_goes_on(database_url: str) -> None:
    go = asyncio.Event()

    @task
    async def slow(number: int) -> int:
        await go.wait()
        return number

    async def one(state: State) -> State:
        slow(1)
        return {"seen": ["one"]}

    async with serving(database_url, chain(one=one)) as engine:
        run_id = await engine.trigger()
        running = asyncio.create_task(engine.processor.process(await engine.claim()))
        await until(lambda: engine.executions(run_id), lambda them: them == ["one 1 completed"])
        go.set()
        await running
        assert (await engine.get(run_id)).status is RunStatus.COMPLETED


async def test_a_run_that_fails_completes_no_step_whose_writes_are_not_stored(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        held = HeldRunRepository(engine.database, await engine.claim(), "worker:test")
        task_id, flush = uuid4(), HeldRunRepository.flush
        await held.begin_step(task_id, "one", "one", False)

        async def and_then_it_is_done(held: HeldRunRepository) -> None:
            await flush(held)
            await held.save_writes("", "1", str(task_id), "", [(0, "seen", "null", b"")], task_id, defer=True)

        monkeypatch.setattr(HeldRunRepository, "flush", and_then_it_is_done)
        async with held.end() as ending:
            await ending.fail(Failure("RUN_TIMED_OUT", "late", None, 1, True))
        assert await engine.executions(run_id) == ["one 1 failed STEP_INTERRUPTED"]


async def test_a_run_does_not_end_before_what_is_being_stored_of_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        task_id, storing, store = uuid4(), asyncio.Event(), asyncio.Event()
        record, call = HeldRunRepository.record_progress, HeldRunRepository.call_fenced

        async def store_late(held: HeldRunRepository, batch: Sequence[PendingWrites]) -> Any:
            if any(each.completed_step for each in batch):
                storing.set()
                await store.wait()
            return await record(held, batch)

        async def store_now(held: HeldRunRepository, function: TenantFunction, *arguments: object) -> Any:
            store.set()
            return await call(held, function, *arguments)

        async def end() -> None:
            async with held.end() as ending:
                await ending.complete()

        monkeypatch.setattr(HeldRunRepository, "record_progress", store_late)
        monkeypatch.setattr(HeldRunRepository, "call_fenced", store_now)
        held = HeldRunRepository(engine.database, await engine.claim(), "worker:test")
        await held.begin_step(task_id, "one", "one", False)
        await held.save_writes("", "1", str(task_id), "", [(0, "seen", "null", b"")], task_id, defer=True)
        flushing = asyncio.create_task(held.flush())
        await happened(storing)
        ending = asyncio.create_task(end())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not store.is_set()
        store.set()
        await asyncio.gather(flushing, ending)
        assert await engine.executions(run_id) == ["one 1 completed"]


async def test_of_what_was_refused_together_nothing_is_lost_or_out_of_order_when_the_database_goes_away(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        await engine.trigger()
        record, calls = HeldRunRepository.record_progress, [0]

        async def goes_away(held: HeldRunRepository, batch: Sequence[PendingWrites]) -> Any:
            calls[0] += 1
            if calls[0] == 3:  # all together, the begin that is refused, and now
                raise Unavailable
            return await record(held, batch)

        monkeypatch.setattr(HeldRunRepository, "record_progress", goes_away)
        held = HeldRunRepository(engine.database, await engine.claim(), "worker:test")
        await held.save_checkpoint(StoredCheckpoint("", "1", None, "null", b"", b""), defer=True)
        outcomes = await asyncio.gather(
            held.begin_step(uuid4(), "one", "no \0 skill", False),
            held.save_checkpoint(StoredCheckpoint("", "2", "1", "null", b"", b"")),
            held.save_writes("", "2", "task", "", [(0, "seen", "null", b"")], None),
            return_exceptions=True,
        )
        assert [type(each) for each in outcomes] == [StatementRefused, Unavailable, Unavailable]
        assert [task for task, *_ in await held.list_writes("", "2")] == ["task"]
        current = await held.get_checkpoint("", None)
        assert current is not None
        assert current.checkpoint_id == "2"
