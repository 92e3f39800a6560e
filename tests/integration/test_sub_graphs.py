"""Graphs that are nodes of others, or are called by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, RetryPolicy, Send
from runengine.context import RunContext
from runengine_server.domain.run import RunStatus

from tests.support.own_worker import Graph, Ran, State, alone, chain, serving
from tests.support.ways_within import as_node, awaited, called, called_in_the_loop, streamed

AT_ONCE = RetryPolicy(initial_interval=0, jitter=False, retry_on=RuntimeError, max_attempts=2)


class Noted:
    """Sync nodes that note who they were, and under which key."""

    def __init__(self, failures: int = 0) -> None:
        self.names: list[str] = []
        self.keys: list[str] = []
        self.failures = failures

    def node(self, name: str) -> Any:
        def node(state: State, runtime: Runtime[RunContext]) -> State:
            self.names.append(name)
            self.keys.append(runtime.context.idempotency_key)
            if name == "fails" and self.failures:
                self.failures -= 1
                raise RuntimeError("Once.")
            return {"seen": [name]}

        return node

    def graph(self, **options: Any) -> Any:
        nodes = {name: self.node(name) for name in ("one", "fails", "three")}
        return chain(**nodes).compile(**options)


def called_by_one_that_is_called(inner: Any) -> Any:
    return called(chain(between=called(inner)).compile())


WAYS = [as_node, called, called_by_one_that_is_called, called_in_the_loop, awaited, streamed]
SAVING = [as_node, called, called_by_one_that_is_called, awaited, streamed]


@pytest.mark.parametrize("checkpointer", [None, False])
@pytest.mark.parametrize("way", WAYS)
async def test_a_graph_runs_within_another(
    database_url: str, way: Callable[[Any], Any], checkpointer: bool | None
) -> None:
    noted, ran = Noted(), Ran()
    graph = chain(outer=way(noted.graph(checkpointer=checkpointer)), last=ran.node("last"))
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert noted.names == ["one", "fails", "three"]
        assert ran.names == ["last"]


@pytest.mark.parametrize("way", SAVING)
async def test_a_graph_within_another_goes_on_where_it_failed_when_its_run_is_retried(
    database_url: str, way: Callable[[Any], Any]
) -> None:
    noted = Noted(failures=1)
    async with serving(database_url, chain(outer=way(noted.graph()))) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.FAILED
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert noted.names == ["one", "fails", "fails", "three"]


async def test_graphs_that_a_node_calls_side_by_side_go_on_where_each_of_them_was(database_url: str) -> None:
    """One has ended when the other fails; what is stored of the one does not mix with that of the other."""
    ran, ended, fails = Ran(), asyncio.Event(), [True]

    async def fail(state: State) -> State:
        await ended.wait()
        ran.names.append("fail")
        if fails and fails.pop():
            raise RuntimeError("Once.")
        return {}

    first = chain(one=ran.node("one"), two=ran.node("two"), three=ran.node("three")).compile()
    second = chain(four=ran.node("four"), fail=fail, six=ran.node("six")).compile()

    async def call(graph: Any, state: State) -> None:
        await graph.ainvoke(state)
        ended.set()

    async def outer(state: State) -> State:
        await asyncio.gather(call(first, state), call(second, state))
        return {}

    async with serving(database_url, chain(outer=outer)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert (run.error.code, run.error.step_id) == ("STEP_FAILED", "outer:fail")
        assert sorted(ran.names) == ["fail", "four", "one", "three", "two"]
        ran.names.clear()
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["fail", "six"]


async def test_a_graph_that_a_node_chooses_among_several_goes_on_where_it_failed(database_url: str) -> None:
    """Beside one that it calls by its name, of whose nodes the other has none."""
    ran, noted = Ran(), Noted(failures=1)
    first = chain(other=ran.node("other")).compile()
    several = {"noted": noted.graph()}

    async def outer(state: State) -> Any:
        await first.ainvoke(state)
        return await several["noted"].ainvoke(state)

    async with serving(database_url, chain(outer=outer)) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.FAILED
        run = await engine.execute_again(run.id)
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert (ran.names, noted.names) == (["other"], ["one", "fails", "fails", "three"])


@pytest.mark.parametrize("way", SAVING)
async def test_a_graph_within_another_goes_on_where_it_failed_when_its_node_is_retried(
    database_url: str, way: Callable[[Any], Any]
) -> None:
    noted = Noted(failures=1)
    async with serving(database_url, alone("outer", way(noted.graph()), retry_policy=AT_ONCE)) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED
        assert noted.names == ["one", "fails", "fails", "three"]
        assert noted.keys[1] == noted.keys[2]


@pytest.mark.parametrize("checkpointer", [None, False])
@pytest.mark.parametrize("way", WAYS)
async def test_each_node_of_a_sub_graph_has_an_idempotency_key_that_stays_the_same(
    database_url: str, way: Callable[[Any], Any], checkpointer: bool | None
) -> None:
    noted = Noted(failures=1)
    graph = chain(outer=way(noted.graph(checkpointer=checkpointer)))
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.FAILED
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        keys: dict[str, set[str]] = {}
        for name, key in zip(noted.names, noted.keys, strict=True):
            assert key.startswith(f"{run.id}:")
            keys.setdefault(name, set()).add(key)
        if way is not called_by_one_that_is_called or checkpointer is None:
            assert {name: len(each) for name, each in keys.items()} == dict.fromkeys(keys, 1)
        assert len(set.union(*keys.values())) >= 3


async def test_branches_and_rounds_of_a_sub_graph_have_a_key_each(database_url: str) -> None:
    noted = Noted()
    inner: Graph = StateGraph(State)
    inner.add_node("item", noted.node("item"))
    inner.add_node("round", noted.node("round"))
    inner.add_conditional_edges(START, lambda state: [Send("item", {}), Send("item", {})], ["item"])
    inner.add_edge("item", "round")
    inner.add_conditional_edges("round", lambda state: "round" if len(noted.names) < 5 else "__end__")
    async with serving(database_url, chain(outer=inner.compile())) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED
        assert noted.names == ["item", "item", "round", "round", "round"]
        assert len(set(noted.keys)) == 5


async def test_a_command_to_the_graph_above_completes_the_step_that_its_sub_graph_is(
    database_url: str,
) -> None:
    ran = Ran()

    async def leave(state: State) -> Any:
        return Command(graph=Command.PARENT, update={"seen": ["left"]}, goto="last")

    graph = alone("outer", chain(leave=leave, never=ran.node("never")).compile())
    graph.add_node("last", ran.node("last"))
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.COMPLETED
        assert await engine.executions(run.id) == [
            "outer 1 completed", "outer:leave 1 completed", "last 1 completed",
        ]  # fmt: skip
    assert ran.names == ["last"]


async def test_a_command_to_a_graph_above_that_there_is_not_fails_its_step_and_says_so(
    database_url: str,
) -> None:
    async def work(state: State) -> Any:
        return Command(graph=Command.PARENT, goto="work")

    async with serving(database_url, chain(work=work)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert (run.error.code, run.error.step_id) == ("WORKFLOW_FAILED", "work")
        assert "'work' returned a Command to the graph above, and there is none" in run.error.message
        assert run.error.retryable is False
        assert await engine.executions(run.id) == ["work 1 failed STEP_FAILED"]


async def test_a_command_to_the_graph_above_that_this_does_not_take_fails_its_step(database_url: str) -> None:
    async def leave(state: State) -> Any:
        return Command(graph=Command.PARENT, goto="nowhere")

    async with serving(database_url, chain(outer=chain(leave=leave).compile())) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert run.error.step_id == "outer"
        assert "'nowhere'" in run.error.message
        assert await engine.executions(run.id) == [
            "outer 1 failed STEP_FAILED", "outer:leave 1 failed STEP_INTERRUPTED",
        ]  # fmt: skip
