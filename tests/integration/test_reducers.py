"""Reducers, whose result is stored and not what was written."""

from __future__ import annotations

from collections import deque
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Overwrite
from runengine_server.domain.run import RunStatus
from runengine_server.worker.graph.stored_values import as_stored

from tests.support.own_worker import Graph, serving
from tests.support.values import Frozen, form


def last_three(left: Any, right: Any) -> Any:
    return deque([*(left or ()), *right], maxlen=3)


def by_name(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    left.update({name: Frozen(len(each), tuple(each)) for name, each in right.items()})
    return left


class Reduced(TypedDict, total=False):
    last: Annotated[Any, last_three]
    named: Annotated[dict[str, Any], by_name]
    messages: Annotated[list[AnyMessage], add_messages]
    overwritten: Annotated[Any, last_three]


@pytest.mark.parametrize("beside", [False, True])
async def test_a_value_that_a_reducer_makes_is_the_same_after_a_retry(
    database_url: str, beside: bool
) -> None:
    seen: list[Any] = []

    async def one(state: Any) -> Any:
        return {"last": (1, 2), "named": {"a": "bc"}, "messages": HumanMessage("a", id="1")}

    async def two(state: Any) -> Any:
        return {
            "last": [3, (4, 5)],
            "named": {"b": "c"},
            "messages": [("user", "b")],
            "overwritten": Overwrite((3, (4, 5))),
        }

    async def read(state: Any) -> Any:
        seen.append({name: form(each) for name, each in state.items()})
        if len(seen) == 1:
            raise RuntimeError("Once.")
        return {}

    graph: Graph = StateGraph(Reduced)
    for node in (one, two, read):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "one")
    graph.add_edge(START if beside else "one", "two")
    if beside:
        graph.add_edge(["one", "two"], "read")
    else:
        graph.add_edge("two", "read")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0]["last"] == form(deque([2, 3, [4, 5]]))
    assert seen[0]["named"] == form(
        {"a": as_stored(Frozen(2, ("b", "c"))), "b": as_stored(Frozen(1, ("c",)))}
    )


async def test_a_message_that_a_reducer_keeps_does_not_go_through_the_store_each_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    create = HumanMessage.__init__

    def count(self: HumanMessage, *arguments: Any, **named: Any) -> None:
        made.append(str(named.get("id")))
        create(self, *arguments, **named)

    class Chat(TypedDict):
        messages: Annotated[list[AnyMessage], add_messages]

    def say(number: int) -> Any:
        return lambda state: {"messages": [HumanMessage("a", id=str(number))]}

    graph: Graph = StateGraph(Chat)
    graph.add_sequence([(f"say{number}", say(number)) for number in range(10)])
    graph.add_edge(START, "say0")
    async with serving(database_url, graph) as engine:
        monkeypatch.setattr(HumanMessage, "__init__", count)
        assert (await engine.execute()).status is RunStatus.COMPLETED
    assert sorted(made) == sorted([str(number) for number in range(10)] * 2)
