"""An error says whether a retry may help, and which step it came from, in every shape of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send
from pydantic import BaseModel
from runengine_server.domain.run import RunStatus

from tests.support.own_worker import Graph, State, alone, chain, code_and_step, fork, serving

Node = Any


class Opaque:
    """Cannot be stored."""


MISTAKES: dict[str, Node] = {
    "an update that is no dict": lambda state: 5,
    "a command to no graph": lambda state: Command(graph=Command.PARENT, goto="nowhere"),
    "a goto to no node": lambda state: Command(goto="nowhere"),
    "a Send to no node": lambda state: Command(goto=Send("nowhere", {})),
    "a value that cannot be stored": lambda state: {"bundle_artifact_id": Opaque()},
    "an update that its reducer rejects": lambda state: {"seen": 5},
}


def sub_graph(node: Node) -> Graph:
    return alone("node", alone("inner", node).compile())


def unsaved(node: Node) -> Graph:
    return alone("node", alone("inner", node).compile(checkpointer=False))


def called(node: Node) -> Graph:
    inner = alone("inner", node).compile()

    async def call(state: State) -> Any:
        return await inner.ainvoke(state)

    return alone("node", call)


def called_by_a_sync_node(node: Node) -> Graph:
    inner = alone("inner", node).compile()
    return alone("node", lambda state: inner.invoke(state))


def branch(node: Node) -> Graph:
    graph: Graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_node("other", lambda state: {"seen": ["other"]})
    to = [Send("other", {}), Send("node", {})]
    return graph.add_conditional_edges(START, lambda state: to)


def handler(node: Node) -> Graph:
    def fail(state: State) -> State:
        raise RuntimeError("to be handled")

    return alone("fail", fail, error_handler=node)


SHAPES: dict[str, tuple[Callable[[Node], Graph], str]] = {
    "a node": (lambda node: alone("node", node), "node"),
    "a sub-graph": (sub_graph, "node:inner"),
    "a sub-graph that stores nothing": (unsaved, "node:inner"),
    "a graph that a node calls": (called, "node:inner"),
    "a graph that a sync node calls": (called_by_a_sync_node, "node:inner"),
    "a branch": (branch, "node"),
    "an error handler": (handler, "__error_handler__fail"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=list(MISTAKES))
@pytest.mark.parametrize(("shape", "step"), SHAPES.values(), ids=list(SHAPES))
async def test_a_mistake_of_the_graph_is_not_retryable_and_names_its_step(
    database_url: str, shape: Callable[[Node], Graph], step: str, mistake: Node
) -> None:
    async with serving(database_url, shape(mistake)) as engine:
        run = await engine.execute()
        assert run.error is not None
        if (":" in step and mistake is MISTAKES["a command to no graph"]) or (
            shape is unsaved and mistake is MISTAKES["an update that its reducer rejects"]
        ):
            # The one has left the graph within; of the other nobody has seen who wrote it.
            step = "node"
        assert (run.error.step_id, run.error.retryable) == (step, False)
        steps = await engine.runs.list_steps(run.id, None)
        assert steps is not None
        (failed,) = [each for each in steps if each.step_id == step]
        assert failed.error is not None
        # LangGraph's note of the node within another comes after the node has failed.
        said = run.error.message.partition(" (During task with name 'inner'")[0] if ":" in step else ""
        assert failed.error.message.partition(" (During task")[0] == (said or run.error.message)
        assert failed.error.retryable is False


@pytest.mark.parametrize("to", ["nowhere", Send("nowhere", {})], ids=["an edge", "a Send"])
async def test_an_edge_to_no_node_is_not_retryable(database_url: str, to: Any) -> None:
    graph = alone("node", lambda state: {})
    graph.add_conditional_edges("node", lambda state: to)
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("WORKFLOW_FAILED", "node")
        assert run.error is not None
        assert not run.error.retryable
        assert await engine.executions(run.id) == ["node 1 failed STEP_FAILED"]


async def test_two_writes_of_what_takes_one_are_not_retryable(database_url: str) -> None:
    one, other = {"bundle_artifact_id": "1"}, {"bundle_artifact_id": "2"}
    async with serving(database_url, fork(one=lambda state: one, other=lambda state: other)) as engine:
        error = (await engine.execute()).error
        assert code_and_step(error) == ("STEP_FAILED", "one")
        assert error is not None
        assert not error.retryable


class Given(BaseModel):
    size: int = 0


async def test_an_input_that_its_schema_refuses_is_not_retryable(database_url: str) -> None:
    graph: Graph = StateGraph(Given)
    graph.add_node("node", lambda state: {})
    graph.add_edge(START, "node")
    async with serving(database_url, graph) as engine:
        error = (await engine.execute({"size": "many"})).error
        assert code_and_step(error) == ("WORKFLOW_FAILED", None)
        assert error is not None
        assert not error.retryable


def counting(until: int) -> Any:
    graph = alone("count", lambda state: {"seen": ["1"]})
    graph.add_conditional_edges("count", lambda state: "count" if len(state["seen"]) < until else END)
    return graph.compile().with_config(recursion_limit=10)


@pytest.mark.parametrize("is_within", [False, True], ids=["at the top", "in a sub-graph"])
async def test_a_graph_at_its_recursion_limit_is_retryable_because_it_goes_on_where_it_was(
    database_url: str, is_within: bool
) -> None:
    graph = alone("outer", counting(15)) if is_within else counting(15)
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert "GraphRecursionError" in run.error.message
        assert run.error.retryable
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED


async def test_a_task_whose_graph_commands_one_above_has_failed_and_not_been_stopped(
    database_url: str,
) -> None:
    inner = alone("inner", lambda state: Command(graph=Command.PARENT, goto="nowhere")).compile()

    @task
    async def hand_over(payload: Any) -> Any:
        return await inner.ainvoke(payload)

    @entrypoint()
    async def handing(payload: Any) -> Any:
        return await hand_over(payload)

    async with serving(database_url, handing) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("WORKFLOW_FAILED", "hand_over")
        assert run.error is not None
        assert not run.error.retryable
        assert sorted(await engine.executions(run.id)) == [
            "hand_over 1 failed STEP_FAILED", "hand_over:inner 1 failed STEP_INTERRUPTED",
            "handing 1 failed STEP_FAILED",
        ]  # fmt: skip


async def test_the_end_of_an_iterator_in_a_node_is_the_error_of_its_step(database_url: str) -> None:
    async def none() -> Any:
        for each in list[Any]():
            yield each

    async def take(state: State) -> State:
        return {"seen": [await anext(none())]}

    async with serving(database_url, chain(take=take)) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "take")
        assert await engine.executions(run.id) == ["take 1 failed STEP_FAILED"]
