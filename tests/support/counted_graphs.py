"""A workflow that no other worker of the tests serves, whose metrics and traces are looked at."""

from __future__ import annotations

from typing import Any, TypedDict

from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    fail: bool


def _first(state: State) -> dict[str, Any]:
    return {}


def _second(state: State) -> dict[str, Any]:
    if state.get("fail"):
        raise ValueError("as it was told")
    return {}


def _counted() -> StateGraph[Any, Any, Any, Any]:
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    graph.add_node("first", _first)
    graph.add_node("second", _second)
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    return graph


WORKFLOWS = {"counted": _counted()}
