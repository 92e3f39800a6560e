"""Namespaces of checkpoints: "outer:<task id>|inner:<task id>" is that of a graph below the node `inner` of a
graph below the node `outer`; "" is that of the top graph.
"""

from __future__ import annotations

from langgraph._internal._constants import NS_END, NS_SEP


def namespace_path(namespace: str) -> str:
    """A namespace of checkpoints without the ids of tasks: "outer|inner"."""
    # A part that is a number counts the graphs that one execution of a node calls.
    parts = [part.partition(NS_END)[0] for part in namespace.split(NS_SEP) if not part.isdigit()]
    return NS_SEP.join(parts)


def step_path(namespace: str, node: str) -> str:
    """The `step_id` of a node: "outer:inner:node"; that of the graph's own node where `node` is ""."""
    parts = [*namespace_path(namespace).split(NS_SEP), node]
    return ":".join(part for part in parts if part)
