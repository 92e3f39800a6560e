"""A step within a step fails, and what is around it and beside it says so."""

from __future__ import annotations

import asyncio
import threading
from itertools import count
from typing import Any

import pytest
from langgraph.errors import NodeError, NodeTimeoutError
from langgraph.types import RetryPolicy
from runengine_server.domain.run import RunStatus
from runengine_server.worker.graph.load import Timeouts

from tests.support.own_worker import Ran, State, alone, chain, code_and_step, fork, serving
from tests.support.patience import SECONDS
from tests.support.time_limits import DEAF, ENTERED, forever, in_the_node
from tests.support.ways_within import CALLED, WAYS, Way, as_node, awaited, failing, passing, steps_of

AT_ONCE = RetryPolicy(initial_interval=0, jitter=False, retry_on=RuntimeError, max_attempts=2)


@pytest.mark.parametrize("checkpointer", [None, False])
@pytest.mark.parametrize("way", WAYS)
async def test_a_failure_names_the_innermost_step_and_the_one_around_it_says_so(
    database_url: str, way: Way, checkpointer: bool | None
) -> None:
    inner = chain(one=passing("one"), fails=failing()).compile(checkpointer=checkpointer)
    async with serving(database_url, chain(outer=way(inner))) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "outer:fails")
        assert run.error is not None
        assert run.error.message.startswith("RuntimeError: Once. (During task with name 'fails' and id '")
        outer, one, fails = await steps_of(engine, run.id)
        assert (outer.status, one.status, fails.status) == ("failed", "completed", "failed")
        assert outer.error is not None
        assert outer.error.message.startswith("The step 'outer:fails' within it failed: RuntimeError: Once.")
        assert fails.error is not None
        assert fails.error.message.startswith("RuntimeError: Once.")


@pytest.mark.parametrize("checkpointer", [None, False])
@pytest.mark.parametrize("way", [as_node, awaited])
async def test_a_node_that_langgraph_stops_by_its_own_timeout_is_the_step_that_failed(
    database_url: str, way: Way, checkpointer: bool | None
) -> None:
    inner = alone("slow", forever, timeout=0.1).compile(checkpointer=checkpointer)
    async with serving(database_url, chain(outer=way(inner))) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_TIMED_OUT", "outer:slow")
        outer, slow = await steps_of(engine, run.id)
        assert outer.error is not None
        assert outer.error.message.startswith("The step 'outer:slow' within it failed: NodeTimeoutError")
        assert slow.error is not None
        assert slow.error.code == "STEP_TIMED_OUT"


@pytest.mark.parametrize("way", WAYS)
async def test_a_completed_step_within_a_step_is_not_executed_again_by_a_retry(
    database_url: str, way: Way
) -> None:
    inner = chain(one=passing("one"), fails=failing(), three=passing("three")).compile()
    async with serving(database_url, chain(outer=way(inner))) as engine:
        run = await engine.execute()
        await engine.retry(run.id)
        assert sorted(await engine.executions(run.id)) == [
            "outer 1 failed STEP_FAILED",
            "outer 2 pending",
            "outer:fails 1 failed STEP_FAILED",
            "outer:fails 2 pending",
            "outer:one 1 completed",
        ]
        assert (await engine.process(await engine.claim())).status is RunStatus.COMPLETED
        assert sorted(await engine.executions(run.id)) == [
            "outer 1 failed STEP_FAILED",
            "outer 2 completed",
            "outer:fails 1 failed STEP_FAILED",
            "outer:fails 2 completed",
            "outer:one 1 completed",
            "outer:three 1 completed",
        ]


async def test_a_graph_that_stores_nothing_starts_anew_with_the_same_steps(database_url: str) -> None:
    inner = chain(one=passing("one"), fails=failing()).compile(checkpointer=False)
    async with serving(database_url, chain(outer=chain(middle=inner).compile(checkpointer=False))) as engine:
        run = await engine.execute()
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        steps = await steps_of(engine, run.id)
        assert [(step.step_id, step.attempt, step.status) for step in steps] == [
            ("outer", 2, "completed"),
            ("outer:middle", 2, "completed"),
            ("outer:middle:one", 2, "completed"),
            ("outer:middle:fails", 2, "completed"),
        ]


@pytest.mark.parametrize("way", WAYS)
async def test_a_retry_policy_within_a_graph_gives_attempts_of_its_own(database_url: str, way: Way) -> None:
    inner = alone("fails", failing(), retry_policy=AT_ONCE).compile()
    async with serving(database_url, chain(outer=way(inner))) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.COMPLETED
        assert await engine.executions(run.id) == [
            "outer 1 completed", "outer:fails 1 failed STEP_FAILED", "outer:fails 2 completed",
        ]  # fmt: skip


async def test_a_failure_is_retryable_by_the_policy_of_the_innermost_node(database_url: str) -> None:
    policy = RetryPolicy(initial_interval=0, jitter=False, retry_on=ValueError, max_attempts=1)
    graph = chain(outer=alone("fails", failing(9, ValueError), retry_policy=policy).compile())
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        errors = [run.error, *(step.error for step in await steps_of(engine, run.id))]
        assert [error.retryable for error in errors if error is not None] == [True, True, True]


async def test_a_step_that_runs_beside_one_that_fails_within_a_graph_is_its_victim(database_url: str) -> None:
    entered, never = asyncio.Event(), asyncio.Event()

    async def waits(state: State) -> State:
        if not entered.is_set():
            entered.set()
            await never.wait()
        return {}

    fails = failing()

    async def fails_then(state: State) -> Any:
        await entered.wait()
        return fails(state)

    graph = alone("outer", fork(waits=waits, fails=fails_then).compile(), retry_policy=AT_ONCE)
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.COMPLETED
        assert sorted(await engine.executions(run.id)) == [
            "outer 1 failed STEP_FAILED",
            "outer 2 completed",
            "outer:fails 1 failed STEP_FAILED",
            "outer:fails 2 completed",
            "outer:waits 1 failed STEP_INTERRUPTED",
            "outer:waits 2 completed",
        ]


@pytest.mark.parametrize("checkpointer", [None, False])
async def test_an_edge_that_raises_within_a_graph_fails_the_step_that_it_leads_from(
    database_url: str, checkpointer: bool | None
) -> None:
    def choose(state: State) -> str:
        raise RuntimeError("Nowhere.")

    inner = alone("one", passing("one"))
    inner.add_conditional_edges("one", choose)
    async with serving(database_url, chain(outer=inner.compile(checkpointer=checkpointer))) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "outer:one")
        assert await engine.executions(run.id) == [
            "outer 1 failed STEP_FAILED", "outer:one 1 failed STEP_FAILED",
        ]  # fmt: skip


async def test_an_error_that_a_node_makes_of_a_failure_within_it_is_its_own(database_url: str) -> None:
    inner = chain(fails=failing(9)).compile()

    async def outer(state: State) -> Any:
        try:
            return await inner.ainvoke(state)
        except RuntimeError as error:
            raise LookupError("No price.") from error

    async with serving(database_url, chain(outer=outer)) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "outer")
        assert run.error is not None
        assert run.error.message.startswith("LookupError: No price., caused by RuntimeError: Once.")


async def test_a_failure_that_a_node_takes_is_not_due_again_when_the_run_is_retried(
    database_url: str,
) -> None:
    inner = chain(fails=failing(9)).compile()

    async def outer(state: State) -> State:
        try:
            await inner.ainvoke(state)
        except RuntimeError:
            return {"seen": ["taken"]}
        return {}

    async with serving(database_url, chain(outer=outer, last=failing())) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "last")
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert await engine.executions(run.id) == [
            "outer 1 completed",
            "outer:fails 1 failed STEP_FAILED",
            "last 1 failed STEP_FAILED",
            "last 2 completed",
        ]


async def test_an_error_handler_within_a_graph_is_a_step_and_its_step_stays_failed(database_url: str) -> None:
    async def rescue(state: State, error: NodeError) -> State:
        return {"seen": ["rescued"]}

    inner = alone("fails", failing(9), error_handler=rescue)
    async with serving(database_url, chain(outer=inner.compile(), last=failing())) as engine:
        run = await engine.execute()
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert await engine.executions(run.id) == [
            "outer 1 completed",
            "outer:fails 1 failed STEP_FAILED",
            "outer:__error_handler__fails 1 completed",
            "last 1 failed STEP_FAILED",
            "last 2 completed",
        ]


# Time limits.


@in_the_node
@pytest.mark.parametrize("checkpointer", [None, False])
@pytest.mark.parametrize("way", [as_node, awaited])
async def test_a_node_within_a_graph_has_a_time_limit_of_its_own(
    database_url: str, way: Way, checkpointer: bool | None
) -> None:
    inner = alone("slow", forever, metadata={"timeout_seconds": 0.05}).compile(checkpointer=checkpointer)
    async with serving(database_url, chain(outer=way(inner))) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_TIMED_OUT", "outer:slow")
        assert await engine.executions(run.id) == [
            "outer 1 failed STEP_FAILED", "outer:slow 1 failed STEP_TIMED_OUT",
        ]  # fmt: skip


@in_the_node
@pytest.mark.usefixtures("no_thread_is_kept")
@pytest.mark.parametrize("way", CALLED)
async def test_a_node_on_a_thread_within_a_graph_has_a_time_limit_of_its_own(
    database_url: str, way: Way
) -> None:
    inner = alone("slow", DEAF.node, metadata={"timeout_seconds": 0.05}).compile()
    async with serving(database_url, chain(outer=way(inner))) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_TIMED_OUT", "outer:slow")
        assert await engine.executions(run.id) == [
            "outer 1 failed STEP_FAILED", "outer:slow 1 failed STEP_TIMED_OUT",
        ]  # fmt: skip


@in_the_node
@pytest.mark.parametrize("way", [as_node, awaited])
async def test_the_time_limit_of_the_settings_holds_for_a_node_within_a_longer_one(
    database_url: str, way: Way
) -> None:
    graph = alone("outer", way(chain(slow=forever).compile()), metadata={"timeout_seconds": 3600})
    async with serving(database_url, graph, Timeouts(step=0.05)) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_TIMED_OUT", "outer:slow")


@in_the_node
@pytest.mark.parametrize("way", [as_node, awaited])
async def test_a_step_within_one_whose_time_is_over_is_its_victim(database_url: str, way: Way) -> None:
    graph = alone("outer", way(chain(slow=forever).compile()), metadata={"timeout_seconds": 0.05})
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_TIMED_OUT", "outer")
        assert await engine.executions(run.id) == [
            "outer 1 failed STEP_TIMED_OUT", "outer:slow 1 failed STEP_INTERRUPTED",
        ]  # fmt: skip


@in_the_node
async def test_a_thread_that_was_abandoned_enters_no_further_node(database_url: str) -> None:
    """It goes on while its step is executed again."""
    ran, go_on, abandoned_ended = Ran(), threading.Event(), threading.Event()
    loop, executions = asyncio.get_running_loop(), count(1)

    def slow(state: State) -> State:
        if next(executions) == 1:
            loop.call_soon_threadsafe(ENTERED.set)
            assert go_on.wait(SECONDS)
        else:
            go_on.set()
            assert abandoned_ended.wait(SECONDS)
        return {}

    def two(state: State) -> State:
        ran.names.append("two")
        return {}

    inner = chain(slow=slow, two=two).compile()

    def outer(state: State) -> Any:
        try:
            return inner.invoke(state)
        finally:
            abandoned_ended.set()

    again = RetryPolicy(initial_interval=0, jitter=False, retry_on=NodeTimeoutError, max_attempts=2)
    graph = alone("outer", outer, metadata={"timeout_seconds": 0.05}, retry_policy=again)
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert ran.names == ["two"]
        assert sorted(await engine.executions(run.id)) == [
            "outer 1 failed STEP_TIMED_OUT",
            "outer 2 completed",
            "outer:slow 1 failed STEP_INTERRUPTED",
            "outer:slow 2 completed",
            "outer:two 1 completed",
        ]
