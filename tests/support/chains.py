"""Graphs whose nodes come one after the other."""

from __future__ import annotations

from typing import Any

from langgraph.graph import START, StateGraph


def chain_of(state: type[Any], **nodes: Any) -> StateGraph[Any, Any, Any, Any]:
    """The nodes in this order."""
    graph = StateGraph(state)
    before = START
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    return graph
