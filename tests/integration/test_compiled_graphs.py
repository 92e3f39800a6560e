"""A compiled graph keeps its own settings in a worker, and stays as it was outside of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import NodeError
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy
from runengine_server.domain.run import RunStatus
from runengine_server.worker.graph.load import Timeouts, compile_workflow

from tests.support.own_worker import Graph, Ran, State, alone, chain, code_and_step, serving


def loop() -> Graph:
    """A node that comes round for ever."""
    graph: Graph = StateGraph(State)
    graph.add_node("round", Ran().node("round"))
    graph.add_edge(START, "round")
    graph.add_edge("round", "round")
    return graph


async def test_a_compiled_graph_stops_at_its_own_recursion_limit(database_url: str) -> None:
    async with serving(database_url, loop().compile().with_config(recursion_limit=3)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert "Recursion limit of 3" in run.error.message
        assert len(await engine.executions(run.id)) == 3


class Heard(AsyncCallbackHandler):
    """The names of what began and ended, in order."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def on_chain_start(self, *arguments: Any, **named: Any) -> None:
        self.names.append(named["name"])

    async def on_chain_end(self, *arguments: Any, **named: Any) -> None:
        self.names.append("end")


def heard_alike(names: list[str]) -> list[str]:
    """Without that of the workflow, which the engine gives."""
    return [name for name in names if not name.startswith(("workflow-", "LangGraph"))]


@pytest.mark.parametrize("is_traced", [True, False])
async def test_a_node_is_called_and_traced_as_in_langgraph(database_url: str, is_traced: bool) -> None:
    """Without a handler LangGraph's callback managers are left out."""
    seen: list[Any] = []
    heard, own = Heard(), Heard()

    async def within(value: str, config: RunnableConfig) -> str:
        seen.append(sorted(config["metadata"].keys() & {"langgraph_node", "langgraph_step", "mood"}))
        return value

    async def node(state: State, config: RunnableConfig) -> State:
        seen.append((config["tags"], config["metadata"]["langgraph_node"], config.get("run_name")))
        called = RunnableLambda(within).with_config(callbacks=[own], run_name="within")
        return {"seen": [await called.ainvoke("node")]}

    config: RunnableConfig = {"tags": ["red"], "metadata": {"mood": "good"}}
    graph = (
        chain(one=node, two=node)
        .compile()
        .with_config({**config, **({"callbacks": [heard]} if is_traced else {})})
    )
    plain = await graph.ainvoke({})
    by_langgraph = seen.copy(), heard_alike(heard.names), own.names.copy()
    for each in (seen, heard.names, own.names):
        each.clear()
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.COMPLETED
    assert plain == {"seen": ["node", "node"]}
    assert (seen, heard_alike(heard.names), own.names) == by_langgraph


@dataclass
class Tone:
    tone: str = "plain"


async def test_a_compiled_graph_has_its_own_store_context_schema_and_config(database_url: str) -> None:
    seen: list[Any] = []

    async def node(state: State, runtime: Runtime[Tone], config: RunnableConfig) -> State:
        assert runtime.store is not None
        item = await runtime.store.aget(("shop",), "name")
        assert item is not None
        seen.extend([item.value["is"], runtime.context.tone, config["configurable"]["model"]])
        return {}

    store = InMemoryStore()
    store.put(("shop",), "name", {"is": "Kettles"})
    graph: Any = StateGraph(State, context_schema=Tone)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    compiled = graph.compile(store=store).with_config(configurable={"model": "small"})
    async with serving(database_url, compiled) as engine:
        assert (await engine.execute(tone="bold")).status is RunStatus.COMPLETED
    assert seen == ["Kettles", "bold", "small"]


async def test_the_engine_keeps_checkpoints_and_cache_of_a_compiled_graph_and_says_so_once(
    database_url: str,
) -> None:
    saver, ran = InMemorySaver(), Ran()
    cache: InMemoryCache[Any] = InMemoryCache()
    graph = alone("node", ran.node("node"), cache_policy=CachePolicy()).compile(saver, cache=cache)
    with structlog.testing.capture_logs() as said:
        async with serving(database_url, graph) as engine:
            assert (await engine.execute()).status is RunStatus.COMPLETED
            assert (await engine.execute()).status is RunStatus.COMPLETED
    assert ran.names == ["node"]
    assert not saver.storage
    named = [line for line in said if line.get("workflow") == engine.workflow and "instead_of" in line]
    assert [(line["event"], line["instead_of"]) for line in named] == [
        ("the engine's checkpointer is used", "InMemorySaver"),
        ("the engine's cache is used", "InMemoryCache"),
    ]


def recover(state: State, error: NodeError) -> State:
    return {"seen": ["recovered"]}


async def test_a_compiled_graph_that_is_two_workflows_is_still_the_users_own(database_url: str) -> None:
    ran = Ran()
    graph: Any = chain(one=ran.node("one"), two=ran.node("two"))
    # Compiled a second time, a graph with a default error handler raises.
    graph.set_node_defaults(error_handler=recover)
    compiled = graph.compile()
    nodes, channels = dict(compiled.nodes), dict(compiled.channels)
    other = compile_workflow("other", compiled, Timeouts(step=3600))
    async with serving(database_url, compiled) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.COMPLETED
        assert await engine.executions(run.id) == ["one 1 completed", "two 1 completed"]
    assert (await compiled.ainvoke({}))["seen"] == ["one", "two"]
    assert (compiled.nodes, compiled.channels) == (nodes, channels)
    assert other.graph.nodes["one"].bound is not compiled.nodes["one"].bound


async def test_a_node_that_fails_in_a_compiled_graph_fails_its_step(database_url: str) -> None:
    async def fail(state: State) -> State:
        raise ValueError("No kettles.")

    async with serving(database_url, alone("fails", fail).compile()) as engine:
        assert code_and_step((await engine.execute()).error) == ("STEP_FAILED", "fails")


def test_a_compiled_graph_keeps_its_name_and_has_the_workflows_where_it_has_none() -> None:
    graph = alone("node", Ran().node("node"))
    assert compile_workflow("shop", graph.compile(name="kettles")).graph.name == "kettles"
    assert compile_workflow("shop", graph.compile()).graph.name == "shop"


@pytest.mark.parametrize("on_builder", [True, False])
def test_a_compiled_graph_has_the_time_limit_of_its_metadata(on_builder: bool) -> None:
    graph: Any = alone("node", Ran().node("node"))
    compiled: Any = graph.compile()
    (graph if on_builder else compiled).metadata = {"timeout_seconds": 7}
    assert compile_workflow("shop", compiled).timeout_seconds == 7


@pytest.mark.parametrize("outer_first", [True, False])
async def test_a_compiled_graph_may_be_a_workflow_and_a_node_of_another(
    database_url: str, outer_first: bool
) -> None:
    ran = Ran()
    inner = chain(one=ran.node("one"), two=ran.node("two")).compile(InMemorySaver())
    outer = chain(before=ran.node("before"), inner=inner).compile()
    graphs = [outer, inner] if outer_first else [inner, outer]
    async with serving(database_url, graphs[0]) as first, serving(database_url, graphs[1]) as second:
        runs = {graph: await each.execute() for graph, each in zip(graphs, (first, second), strict=True)}
        assert {run.status for run in runs.values()} == {RunStatus.COMPLETED}
        engines = dict(zip(graphs, (first, second), strict=True))
        assert await engines[inner].executions(runs[inner].id) == ["one 1 completed", "two 1 completed"]
        assert await engines[outer].executions(runs[outer].id) == [
            "before 1 completed", "inner 1 completed", "inner:one 1 completed", "inner:two 1 completed",
        ]  # fmt: skip
    assert (await inner.ainvoke({}, {"configurable": {"thread_id": "mine"}}))["seen"] == ["one", "two"]
