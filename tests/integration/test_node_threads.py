"""Sync nodes that will not stop take no place of others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from langgraph.types import RetryPolicy
from runengine_server.domain.run import RunStatus
from runengine_server.worker.graph.load import Timeouts
from runengine_server.worker.node_threads import NodeThreads
from structlog.testing import capture_logs

from tests.support.own_worker import SECONDS, Engine, Ran, State, alone, chain, code_and_step, fork, serving
from tests.support.time_limits import ENTERED, in_the_node

LIMIT, MAX_ABANDONED = 2, 3


@pytest.fixture
async def threads() -> AsyncIterator[tuple[NodeThreads, asyncio.Event]]:
    """The executor of this event loop, and whether it asked for a new process."""
    loop, too_many = asyncio.get_running_loop(), asyncio.Event()
    threads = NodeThreads(LIMIT, lambda: loop.call_soon_threadsafe(too_many.set), MAX_ABANDONED)
    before = loop._default_executor  # type: ignore[attr-defined]
    loop.set_default_executor(threads)
    yield threads, too_many
    loop._default_executor = before  # type: ignore[attr-defined]


async def until(holds: Any) -> None:
    async with asyncio.timeout(SECONDS):
        while not holds():  # noqa: ASYNC110 - a thread changes it
            await asyncio.sleep(0)


async def test_abandoned_threads_are_replaced_counted_and_logged_with_their_run(
    database_url: str, threads: tuple[NodeThreads, asyncio.Event]
) -> None:
    executor, too_many = threads
    entered, go = threading.Semaphore(0), threading.Event()

    def node(state: State) -> State:
        if state.get("fail"):
            entered.release()
            go.wait(SECONDS)
        return {"seen": ["node"]}

    async with serving(database_url, chain(node=node, last=Ran().node("last"))) as engine:

        async def stop_in_node() -> str:
            run_id = await engine.trigger({"fail": True})
            execution = asyncio.create_task(engine.processor.process(await engine.claim()))
            try:
                await until(lambda: entered.acquire(blocking=False))
            finally:
                execution.cancel()
                await asyncio.wait([execution], timeout=SECONDS)
            return str(run_id)

        try:
            with capture_logs() as logs:
                stopped = [await stop_in_node() for _ in range(MAX_ABANDONED)]
            assert executor.abandoned == MAX_ABANDONED
            told = [each for each in logs if each["event"].startswith("a sync node was stopped")]
            assert [each["run_id"] for each in told] == stopped
            assert [each["step"] for each in told] == ["node"] * MAX_ABANDONED
            assert [each["abandoned"] for each in told] == [1, 2, 3]
            assert (await engine.execute({"fail": False})).status is RunStatus.COMPLETED
            assert not too_many.is_set()
            await stop_in_node()
            await asyncio.wait_for(too_many.wait(), SECONDS)
        finally:
            go.set()
        await until(lambda: executor.abandoned == 0)
        assert (await engine.execute({"fail": False})).status is RunStatus.COMPLETED


async def test_a_node_that_waits_for_its_thread_has_its_whole_time_from_then_on(
    database_url: str, threads: tuple[NodeThreads, asyncio.Event]
) -> None:
    executor, _ = threads
    go, seconds = threading.Event(), 2.0

    def node(state: State) -> State:
        return {"seen": ["node"]}

    graph = fork(**{f"node_{number}": node for number in range(LIMIT + 1)})
    async with serving(database_url, graph, Timeouts(step=seconds)) as engine:
        occupying = [asyncio.ensure_future(asyncio.to_thread(go.wait, 60)) for _ in range(LIMIT)]
        executing = asyncio.create_task(engine.execute())
        await until(lambda: executor.waiting == LIMIT + 1)
        await asyncio.wait({executing}, timeout=1.2 * seconds)
        go.set()
        assert (await executing).status is RunStatus.COMPLETED
        await asyncio.gather(*occupying)


async def test_no_more_calls_than_its_limit_are_executed_at_once(
    threads: tuple[NodeThreads, asyncio.Event],
) -> None:
    executor, _ = threads
    begun, go = threading.Semaphore(0), threading.Event()

    def call(number: int) -> int:
        begun.release()
        go.wait(SECONDS)
        return number

    calls = [asyncio.ensure_future(asyncio.to_thread(call, number)) for number in range(10)]
    await until(lambda: begun._value == LIMIT)
    calls[9].cancel()
    await asyncio.wait({calls[9]})
    go.set()
    assert await asyncio.gather(*calls[:9]) == list(range(9))
    assert begun._value == 9
    assert executor.abandoned == 0
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 / 0)


def held_up(entered: threading.Semaphore, go: threading.Event) -> Any:
    loop = asyncio.get_running_loop()

    def node(state: State) -> State:
        loop.call_soon_threadsafe(ENTERED.set)
        entered.release()
        go.wait(SECONDS)
        return {"seen": ["late"]}

    return node


MARK = "its thread cannot be stopped, and may still be running"


@in_the_node
@pytest.mark.parametrize("shape", ["alone", "in a sub-graph", "within the limit of its sub-graph"])
async def test_a_time_out_of_a_node_whose_thread_goes_on_says_so_and_its_late_end_is_logged(
    database_url: str, threads: tuple[NodeThreads, asyncio.Event], shape: str
) -> None:
    executor, _ = threads
    entered, go = threading.Semaphore(0), threading.Event()
    limit = {"metadata": {"timeout_seconds": 0.5}}
    node = held_up(entered, go)
    within = shape.startswith("within")
    inner = alone("node", node, **({} if within else limit))
    graph = inner if shape == "alone" else alone("node", inner.compile(), **(limit if within else {}))
    async with serving(database_url, graph) as engine:
        with capture_logs() as logs:
            try:
                run = await engine.execute()
            finally:
                go.set()
            assert code_and_step(run.error) == ("STEP_TIMED_OUT", "node:node" if "in a" in shape else "node")
            assert MARK in str(run.error)
            assert (await errors_of(engine, run.id)) == {
                "alone": [("node", "STEP_TIMED_OUT", True)],
                "in a sub-graph": [("node", "STEP_FAILED", True), ("node:node", "STEP_TIMED_OUT", True)],
                "within the limit of its sub-graph": [
                    ("node", "STEP_TIMED_OUT", True), ("node:node", "STEP_INTERRUPTED", True),
                ],
            }[shape]  # fmt: skip
            await until(lambda: executor.abandoned == 0)
            await until(lambda: any("has ended" in each["event"] for each in logs))
        (ended,) = [each for each in logs if each["event"].endswith("that was stopped has ended")]
        assert (ended["run_id"], ended["tenant"]) == (str(run.id), engine.tenant_id)
        assert (ended["step"], ended["error"]) == ("node" if shape == "alone" else ended["step"], None)
        assert ended["step"].startswith("node")
        assert 0 <= ended["seconds"] < SECONDS


async def errors_of(engine: Engine, run_id: UUID) -> list[tuple[str, str, bool]]:
    """Of each execution that failed its step, its code, and whether it says that its thread goes on."""
    rows = await engine.tenant.fetch(
        "SELECT step_id, error FROM run_steps WHERE run_id = $1 AND error IS NOT NULL ORDER BY seq", run_id
    )
    return [(row["step_id"], row["error"]["code"], MARK in row["error"]["message"]) for row in rows]


async def test_each_execution_whose_thread_goes_on_says_so_when_its_node_is_tried_again(
    database_url: str, threads: tuple[NodeThreads, asyncio.Event]
) -> None:
    entered, go = threading.Semaphore(0), threading.Event()
    policy = RetryPolicy(max_attempts=2, initial_interval=0.0)
    limit = {"timeout_seconds": 0.5}
    graph = alone("node", held_up(entered, go), metadata=limit, retry_policy=policy)
    async with serving(database_url, graph) as engine:
        try:
            run = await engine.execute()
        finally:
            go.set()
        assert await errors_of(engine, run.id) == [("node", "STEP_TIMED_OUT", True)] * 2


async def test_a_step_that_was_stopped_with_its_run_says_so_where_its_thread_goes_on(
    database_url: str, threads: tuple[NodeThreads, asyncio.Event]
) -> None:
    entered, go = threading.Semaphore(0), threading.Event()

    async def fail(state: State) -> State:
        await until(lambda: entered.acquire(blocking=False))
        raise RuntimeError("fails beside it")

    async with serving(database_url, fork(fail=fail, node=held_up(entered, go))) as engine:
        try:
            run = await engine.execute()
        finally:
            go.set()
        assert code_and_step(run.error) == ("STEP_FAILED", "fail")
        assert await errors_of(engine, run.id) == [
            ("fail", "STEP_FAILED", False), ("node", "STEP_INTERRUPTED", True),
        ]  # fmt: skip


async def test_an_async_node_that_timed_out_leaves_no_thread_and_says_nothing_of_one(
    database_url: str, threads: tuple[NodeThreads, asyncio.Event]
) -> None:
    async def node(state: State) -> State:
        await asyncio.Event().wait()
        return {}

    async with serving(database_url, alone("node", node, metadata={"timeout_seconds": 0.5})) as engine:
        run = await engine.execute()
        assert await errors_of(engine, run.id) == [("node", "STEP_TIMED_OUT", False)]
