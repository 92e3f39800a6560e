"""A node of a graph within a node is a step of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, Command, Send, interrupt
from runengine.context import RunContext
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import RunStatus

from tests.support.own_worker import Graph, Ran, State, alone, chain, fork, serving
from tests.support.patience import SECONDS
from tests.support.ways_within import (
    WAYS,
    Way,
    as_node,
    awaited,
    called,
    called_in_the_loop,
    passing,
    steps_of,
)


@pytest.mark.parametrize("checkpointer", [None, False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_each_node_of_a_graph_within_a_node_is_a_step(
    database_url: str, way: Way, checkpointer: bool | None
) -> None:
    inner = chain(one=passing("one"), two=passing("two")).compile(checkpointer=checkpointer)
    async with serving(database_url, chain(outer=way(inner), last=passing("last"))) as engine:
        run = await engine.execute()
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert await engine.executions(run.id) == [
            "outer 1 completed", "outer:one 1 completed", "outer:two 1 completed", "last 1 completed",
        ]  # fmt: skip
        outer, one, two, last = await steps_of(engine, run.id)
        assert [step.parent_id for step in (outer, one, two, last)] == [None, outer.id, outer.id, None]
        assert [step.skill_id for step in (outer, one)] == ["outer", "one"]


async def test_a_graph_that_is_called_in_the_loops_own_thread_is_part_of_the_step_that_calls_it(
    database_url: str,
) -> None:
    """It cannot wait for what is recorded; nor can what is within it, on any thread."""
    within = alone("slow", passing("slow"), metadata={"timeout_seconds": 3600})
    inner = fork(one=passing("one"), two=called(within.compile())).compile()
    async with serving(database_url, chain(outer=called_in_the_loop(inner))) as engine:
        run = await engine.execute()
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert await engine.executions(run.id) == ["outer 1 completed"]


async def test_a_graph_that_is_awaited_in_another_loop_is_part_of_the_step_that_calls_it(
    database_url: str,
) -> None:
    inner = chain(one=passing("one")).compile(checkpointer=False)

    def outer(state: State) -> Any:
        return asyncio.run(inner.ainvoke(state))

    async with serving(database_url, chain(outer=outer)) as engine:
        run = await engine.execute()
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert await engine.executions(run.id) == ["outer 1 completed"]


async def test_a_step_of_a_graph_within_a_graph_within_a_node_is_named_after_all_of_them(
    database_url: str,
) -> None:
    middle = chain(middle=chain(inner=passing("inner")).compile()).compile()
    async with serving(database_url, chain(outer=middle)) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.COMPLETED
        steps = await steps_of(engine, run.id)
        assert [step.step_id for step in steps] == ["outer", "outer:middle", "outer:middle:inner"]
        assert [step.parent_id for step in steps] == [None, steps[0].id, steps[1].id]


async def in_a_batch(inner: Any) -> None:
    await inner.abatch([{}])


async def as_completed(inner: Any) -> None:
    async for _ in inner.abatch_as_completed([{}]):
        pass


async def as_events(inner: Any) -> None:
    async for _ in inner.astream_events({}, version="v2"):
        pass


async def with_a_config(inner: Any) -> None:
    await inner.with_config(tags=["tagged"]).ainvoke({}, {"configurable": {"model": "small"}})


@pytest.mark.parametrize("execute", [in_a_batch, as_completed, as_events, with_a_config])
async def test_a_graph_has_steps_in_whatever_way_it_is_executed(database_url: str, execute: Any) -> None:
    inner = chain(one=passing("one")).compile()

    async def outer(state: State) -> State:
        await execute(inner)
        return {}

    async with serving(database_url, chain(outer=outer)) as engine:
        run = await engine.execute()
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert await engine.executions(run.id) == ["outer 1 completed", "outer:one 1 completed"]


async def test_graphs_that_a_batch_calls_have_steps_each(database_url: str) -> None:
    inner = chain(one=passing("one")).compile()

    def outer(state: State) -> State:
        inner.batch([{}, {}, {}])
        return {}

    async with serving(database_url, chain(outer=outer)) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.COMPLETED, run.error
        assert await engine.executions(run.id) == ["outer 1 completed"] + ["outer:one 1 completed"] * 3
        assert len({step.id for step in await steps_of(engine, run.id)}) == 4


async def test_a_graph_that_a_node_makes_for_one_call_has_steps(database_url: str) -> None:
    def outer(state: State) -> Any:
        return chain(one=passing("one")).compile().invoke(state)

    async with serving(database_url, chain(outer=outer)) as engine:
        run = await engine.execute()
        assert await engine.executions(run.id) == ["outer 1 completed", "outer:one 1 completed"]


async def test_a_graph_that_a_node_calls_with_a_thread_of_its_own_is_none_of_the_runs(
    database_url: str,
) -> None:
    inner = chain(one=passing("one")).compile()

    def outer(state: State) -> Any:
        return inner.invoke(state, {"configurable": {"thread_id": "another"}})

    async with serving(database_url, chain(outer=outer)) as engine:
        run = await engine.execute()
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert await engine.executions(run.id) == ["outer 1 completed"]


async def test_a_graph_within_a_node_still_runs_elsewhere(database_url: str) -> None:
    """The user's own object is as it was."""
    inner = chain(one=passing("one")).compile()
    async with serving(database_url, chain(outer=inner)) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED
    assert inner.invoke({}) == {"seen": ["one"]}


async def test_branches_of_a_send_to_a_graph_have_steps_of_their_own(database_url: str) -> None:
    graph: Graph = StateGraph(State)
    graph.add_node("branch", chain(one=passing("one")).compile())
    graph.add_conditional_edges(START, lambda state: [Send("branch", {}), Send("branch", {})], ["branch"])
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.COMPLETED
        steps = await steps_of(engine, run.id)
        branches = [step.id for step in steps if step.step_id == "branch"]
        within = [step.parent_id for step in steps if step.step_id == "branch:one"]
        assert len(branches) == 2
        assert sorted(within) == sorted(branches)  # type: ignore[type-var]


async def test_an_entrypoint_within_a_node_and_its_tasks_are_steps(database_url: str) -> None:
    @task
    def double(number: int) -> int:
        return 2 * number

    @entrypoint()
    def flow(payload: dict[str, Any]) -> int:
        return double(1).result() + double(2).result()

    @entrypoint()
    async def async_flow(payload: dict[str, Any]) -> int:
        return await double(1)

    def on_thread(state: State) -> State:
        return {"seen": [str(flow.invoke({}))]}

    async def in_loop(state: State) -> State:
        return {"seen": [str(await async_flow.ainvoke({}))]}

    async with serving(database_url, chain(on_thread=on_thread, in_loop=in_loop)) as engine:
        run = await engine.execute()
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert sorted(await engine.executions(run.id)) == [
            "in_loop 1 completed",
            "in_loop:async_flow 1 completed",
            "in_loop:double 1 completed",
            "on_thread 1 completed",
            "on_thread:double 1 completed",
            "on_thread:double 1 completed",
            "on_thread:flow 1 completed",
        ]


# Keys, artifacts, cache.


@pytest.mark.parametrize("checkpointer", [None, False])
async def test_each_step_within_a_graph_has_an_idempotency_key_and_artifacts_of_its_own(
    database_url: str, checkpointer: bool | None
) -> None:
    keys: list[str] = []

    async def save(state: State, runtime: Runtime[RunContext]) -> State:
        keys.append(runtime.context.idempotency_key)
        await runtime.context.save_artifact("a.txt", b"a", "text/plain")
        return {}

    inner = chain(save=save).compile(checkpointer=checkpointer)
    async with serving(database_url, chain(outer=inner, again=inner)) as engine:
        run = await engine.execute()
        steps = {step.step_id: step for step in await steps_of(engine, run.id)}
        assert keys == [f"{run.id}:{steps[name].id}" for name in ("outer:save", "again:save")]
        assert {name: len(step.output_artifact_ids) for name, step in steps.items()} == {
            "outer": 0, "outer:save": 1, "again": 0, "again:save": 1,
        }  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_a_node_within_a_graph_has_a_cache_of_its_own(database_url: str, way: Way) -> None:
    calls: list[str] = []

    def looked_up(state: State) -> State:
        calls.append("looked_up")
        return {"seen": ["looked_up"]}

    inner = alone("looked_up", looked_up, cache_policy=CachePolicy()).compile()
    async with serving(database_url, chain(outer=way(inner))) as engine:
        for hit in (False, True):
            run = await engine.execute()
            assert run.status is RunStatus.COMPLETED
            steps = await steps_of(engine, run.id)
            assert [(step.step_id, step.cache_hit) for step in steps] == [
                ("outer", False), ("outer:looked_up", hit),
            ]  # fmt: skip
            assert [step.status for step in steps] == ["completed", "completed"]
    assert calls == ["looked_up"]


# What stops a run.


@pytest.mark.parametrize("way", WAYS)
async def test_a_question_within_a_graph_leaves_its_steps_pending(database_url: str, way: Way) -> None:
    def ask(state: State) -> State:
        return {"seen": [interrupt("Sure?")]}

    inner = chain(one=passing("one"), ask=ask).compile()
    async with serving(database_url, chain(outer=way(inner))) as engine:
        run = await engine.execute()
        assert [each.step_id for each in run.waiting_for] == ["outer:ask"]
        assert await engine.executions(run.id) == [
            "outer 1 pending", "outer:one 1 completed", "outer:ask 1 pending",
        ]  # fmt: skip
        run = await engine.go_on(run.id, {run.waiting_for[0].id: "yes"})
        assert run.status is RunStatus.COMPLETED
        assert await engine.executions(run.id) == [
            "outer 1 completed", "outer:one 1 completed", "outer:ask 1 completed",
        ]  # fmt: skip


async def test_a_run_that_is_cancelled_ends_the_steps_within_its_steps(database_url: str) -> None:
    entered = asyncio.Event()

    async def waits(state: State) -> State:
        entered.set()
        await asyncio.Event().wait()
        return {}

    async with serving(database_url, chain(outer=chain(waits=waits).compile())) as engine:
        run_id = await engine.trigger()
        work = asyncio.create_task(engine.process(await engine.claim()))
        await entered.wait()
        await engine.cancel(run_id)
        work.cancel()
        await asyncio.wait({work})
        assert await engine.executions(run_id) == [
            "outer 1 failed RUN_CANCELLED", "outer:waits 1 failed RUN_CANCELLED",
        ]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_a_completed_step_within_a_step_is_not_executed_again_by_another_worker(
    database_url: str, way: Way
) -> None:
    ran, entered, dies = Ran(), asyncio.Event(), [True]

    async def waits(state: State) -> State:
        ran.names.append("waits")
        if dies and dies.pop():
            entered.set()
            await asyncio.Event().wait()
        return {}

    inner = chain(one=ran.node("one"), waits=waits, three=ran.node("three")).compile()
    if way is not as_node:
        way = awaited  # its nodes are asynchronous
    async with serving(database_url, chain(outer=way(inner))) as engine:
        run_id = await engine.trigger()
        work = asyncio.create_task(engine.process(await engine.claim()))
        await entered.wait()
        work.cancel()
        await asyncio.wait({work})
        run = await engine.process(await engine.take_over(run_id))
        assert run.status is RunStatus.COMPLETED
        assert ran.names == ["one", "waits", "waits", "three"]
        assert sorted(await engine.executions(run_id)) == [
            "outer 1 failed WORKER_LOST",
            "outer 2 completed",
            "outer:one 1 completed",
            "outer:three 1 completed",
            "outer:waits 1 failed WORKER_LOST",
            "outer:waits 2 completed",
        ]


@pytest.mark.parametrize("way", WAYS)
async def test_a_worker_whose_lease_has_ended_enters_no_node_within_a_node(
    database_url: str, way: Way
) -> None:
    ran, holds = Ran(), [True]

    def one(state: State) -> State:
        holds[0] = False
        return {}

    def two(state: State) -> State:
        ran.names.append("two")
        return {}

    async with serving(database_url, chain(outer=way(chain(one=one, two=two).compile()))) as engine:
        await engine.trigger()
        with pytest.raises(Unavailable):
            await engine.processor.process(await engine.claim(), lambda: holds[0])
        assert ran.names == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_worker_whose_run_another_has_taken_enters_no_node_within_a_node(
    database_url: str, way: Way
) -> None:
    ran, entered, go_on = Ran(), threading.Event(), threading.Event()

    def one(state: State) -> State:
        entered.set()
        assert go_on.wait(SECONDS)
        return {}

    def two(state: State) -> State:
        ran.names.append("two")
        return {}

    async with serving(database_url, chain(outer=way(chain(one=one, two=two).compile()))) as engine:
        run_id = await engine.trigger()
        zombie = asyncio.create_task(engine.processor.process(await engine.claim()))
        await asyncio.to_thread(entered.wait)
        await engine.take_over(run_id)
        go_on.set()
        await zombie
        assert ran.names == []
        assert await engine.executions(run_id) == [
            "outer 1 failed WORKER_LOST", "outer:one 1 failed WORKER_LOST",
        ]  # fmt: skip


@pytest.mark.parametrize("checkpointer", [None, False])
async def test_a_node_that_leaves_its_graph_with_a_command_has_completed(
    database_url: str, checkpointer: bool | None
) -> None:
    async def leave(state: State) -> Any:
        return Command(graph=Command.PARENT, goto="last")

    inner = fork(beside=passing("beside"), leave=leave).compile(checkpointer=checkpointer)
    graph = alone("outer", inner)
    graph.add_node("last", passing("last"))
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.COMPLETED
        assert sorted(await engine.executions(run.id)) == [
            "last 1 completed",
            "outer 1 completed",
            "outer:beside 1 completed",
            "outer:leave 1 completed",
        ]
