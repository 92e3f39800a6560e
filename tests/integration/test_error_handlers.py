"""Steps whose failure a handler of the graph takes care of, and what a retry does with both."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send
from runengine.context import RunContext
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository

from tests.support.own_worker import Graph, Ran, State, alone, code_and_step, fork, serving
from tests.support.time_limits import ENTERED, in_the_node


async def test_a_handled_step_stays_failed_and_is_not_due_again_when_the_run_is_retried(
    database_url: str,
) -> None:
    ran = Ran()
    failures = [ValueError("Later.")]

    async def risky(state: State) -> State:
        ran.names.append("risky")
        raise ValueError("The supplier is closed.")

    async def rescue(state: State) -> Command[str]:
        ran.names.append("rescue")
        return Command(goto="later", update={"seen": ["rescue"]})

    async def later(state: State) -> State:
        ran.names.append("later")
        if failures:
            raise failures.pop()
        return {}

    graph = StateGraph(State)
    graph.add_node("risky", risky, error_handler=rescue)
    graph.add_node("later", later)
    graph.add_edge(START, "risky")
    handled = ["risky 1 failed STEP_FAILED", "__error_handler__risky 1 completed"]
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "later")
        assert await engine.executions(run.id) == [*handled, "later 1 failed STEP_FAILED"]
        await engine.retry(run.id)
        assert await engine.executions(run.id) == [
            *handled, "later 1 failed STEP_FAILED", "later 2 pending",
        ]  # fmt: skip
        run = await engine.process(await engine.claim())
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert ran.names == ["risky", "rescue", "later", "later"]
        assert (await engine.executions(run.id))[3:] == ["later 2 completed"]
        steps = await engine.runs.list_steps(run.id, None)
        assert steps is not None
        assert steps[0].error is not None
        assert steps[0].error.message == "ValueError: The supplier is closed."


@pytest.mark.parametrize("how", ["edge", "send"])
async def test_a_completed_handler_does_not_run_again_when_the_run_is_retried(
    database_url: str, how: str
) -> None:
    ran = Ran()
    handled = asyncio.Event()
    failures = [RuntimeError("Once.")]

    async def risky(state: State) -> State:
        ran.names.append("risky")
        raise ValueError("The supplier is closed.")

    async def rescue(state: State) -> Command[str]:
        ran.names.append("rescue")
        return Command(goto="after", update={"seen": ["rescue"]})

    async def beside(state: State, runtime: Runtime[RunContext]) -> State:
        ran.names.append("beside")
        await handled.wait()
        if failures:
            raise failures.pop()
        return {}

    async def notice(held: HeldRunRepository, *arguments: Any, **named: Any) -> None:
        await save_writes(held, *arguments, **named)
        if "rescue" in ran.names:
            handled.set()

    save_writes = HeldRunRepository.save_writes
    graph: Graph = StateGraph(State)
    graph.add_node("risky", risky, error_handler=rescue)
    graph.add_node("beside", beside)
    graph.add_node("after", ran.node("after"))
    graph.add_edge(START, "beside")
    if how == "edge":
        graph.add_edge(START, "risky")
    else:
        graph.add_conditional_edges(START, lambda state: [Send("risky", {})], ["risky"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(HeldRunRepository, "save_writes", notice)
        async with serving(database_url, graph) as engine:
            run = await engine.execute()
            assert code_and_step(run.error) == ("STEP_FAILED", "beside")
            assert "__error_handler__risky 1 completed" in await engine.executions(run.id)
            assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
            assert sorted(ran.names) == ["after", "beside", "beside", "rescue", "risky"]
            executions = await engine.executions(run.id)
            assert [words for words in executions if "risky" in words or "after" in words] == [
                "risky 1 failed STEP_FAILED", "__error_handler__risky 1 completed", "after 1 completed",
            ]  # fmt: skip


@pytest.mark.parametrize("is_called", [False, True], ids=["a sub-graph", "a graph that a node calls"])
async def test_a_completed_handler_of_a_graph_within_another_does_not_run_again_either(
    database_url: str, is_called: bool
) -> None:
    ran = Ran()
    handled = asyncio.Event()
    failures = [RuntimeError("Once.")]

    async def risky(state: State) -> State:
        ran.names.append("risky")
        raise ValueError("The supplier is closed.")

    async def beside(state: State) -> State:
        await handled.wait()
        if failures:
            raise failures.pop()
        return {}

    async def notice(held: HeldRunRepository, *arguments: Any, **named: Any) -> None:
        await save_writes(held, *arguments, **named)
        if "rescue" in ran.names:
            handled.set()

    save_writes = HeldRunRepository.save_writes
    graph = fork(beside=beside)
    graph.add_node("risky", risky, error_handler=ran.node("rescue"))
    inner = graph.add_edge(START, "risky").compile()

    async def call(state: State) -> Any:
        return await inner.ainvoke(state)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(HeldRunRepository, "save_writes", notice)
        async with serving(database_url, alone("outer", call if is_called else inner)) as engine:
            run = await engine.execute()
            assert code_and_step(run.error) == ("STEP_FAILED", "outer:beside")
            assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
    assert ran.names == ["risky", "rescue"]


async def test_a_handler_that_failed_runs_again_when_the_run_is_retried(database_url: str) -> None:
    ran = Ran()
    failures = [RuntimeError("Once.")]

    async def risky(state: State) -> State:
        ran.names.append("risky")
        raise ValueError("The supplier is closed.")

    async def rescue(state: State) -> State:
        ran.names.append("rescue")
        if failures:
            raise failures.pop()
        return {}

    async with serving(database_url, alone("risky", risky, error_handler=rescue)) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "__error_handler__risky")
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["risky", "rescue", "rescue"]


@in_the_node
async def test_a_handled_time_out_is_a_step_that_timed_out(database_url: str) -> None:
    async def slow(state: State) -> State:
        ENTERED.set()
        await asyncio.Event().wait()
        return {}

    graph = alone("slow", slow, timeout=0.1, error_handler=Ran().node("rescue"))
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.COMPLETED
        assert await engine.executions(run.id) == [
            "slow 1 failed STEP_TIMED_OUT", "__error_handler__slow 1 completed",
        ]  # fmt: skip


async def test_a_handler_that_fails_with_what_it_was_to_handle_fails_the_run_itself(
    database_url: str,
) -> None:
    closed = ValueError("The supplier is closed.")

    async def fail(state: State) -> State:
        raise closed

    async with serving(database_url, alone("risky", fail, error_handler=fail)) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "__error_handler__risky")
        assert await engine.executions(run.id) == [
            "risky 1 failed STEP_FAILED", "__error_handler__risky 1 failed STEP_FAILED",
        ]  # fmt: skip
