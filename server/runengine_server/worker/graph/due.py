"""What a run is due to do next, and whether a graph can do it.

LangGraph ignores what it does not know. Where a checkpoint has `branch:to:send` and the graph has no node
`send`, nothing is due, and the run would complete without it (langgraph 1.2.22, pregel/_algo.py:
`apply_writes` and `prepare_push_task_send` log a warning and go on).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from langgraph._internal._constants import TASKS
from langgraph.channels.last_value import LastValueAfterFinish
from langgraph.channels.named_barrier_value import NamedBarrierValue, NamedBarrierValueAfterFinish
from langgraph.pregel import Pregel
from langgraph.types import Send

_NODE, _JOIN = "branch:to:", "join:"


def missing(
    values: Mapping[str, Any],
    written: Iterable[tuple[str, Any]],
    graphs: Sequence[Pregel[Any, Any, Any, Any]],
) -> list[str]:
    """What a run is due to do and none of `graphs` can, by the channels of its checkpoint and the
    (channel, value) written on top of that; each in words, such as "the node 'send'".
    """
    words: dict[str, None] = {}
    channels = {name: channel for graph in graphs for name, channel in graph.channels.items()}
    nodes = {name for graph in graphs for name in graph.nodes}
    for channel, value in values.items():
        if is_edge(channel):
            if not _fits(value, channels.get(channel), LastValueAfterFinish):
                words[_node(channel)] = None
        elif is_join(channel):
            arrived = value[0] if isinstance(value, tuple | list) else value
            if arrived and not _fits(value, channels.get(channel), NamedBarrierValueAfterFinish):
                words[_join(channel)] = None
    sends = ((TASKS, send) for send in values.get(TASKS, ()))
    for channel, value in chain(sends, written):
        if channel == TASKS:
            if isinstance(value, Send) and value.node not in nodes:
                words[f"the node {value.node!r}"] = None
        elif channel not in channels:
            if is_edge(channel):
                words[_node(channel)] = None
            elif is_join(channel):
                words[_join(channel)] = None
    return list(words)


def due_nodes(values: Mapping[str, Any], graph: Pregel[Any, Any, Any, Any]) -> set[str]:
    """The nodes of the graph that are due by the channels of a checkpoint."""
    found = {send.node for send in values.get(TASKS, ()) if isinstance(send, Send)}
    for channel, value in values.items():
        # A channel that waits for the end of all other nodes keeps whether that has come.
        kind = graph.channels.get(channel)
        if isinstance(kind, LastValueAfterFinish | NamedBarrierValueAfterFinish):
            value, finished = value
            if not finished:
                continue
        if is_edge(channel):
            found.add(target_of(channel))
        elif (
            is_join(channel)
            and isinstance(kind, NamedBarrierValue | NamedBarrierValueAfterFinish)
            and set(value) == set(kind.names)
        ):
            found.add(channel.rpartition(":")[2])
    return found


def still_due(values: Mapping[str, Any]) -> list[str]:
    """What is still due by the channels of the last checkpoint of a graph that has ended, in words."""
    nodes = [_node(channel) for channel in values if is_edge(channel)]
    return [*nodes, *(f"the node {send.node!r}" for send in values.get(TASKS, ()) if isinstance(send, Send))]


def edges_to_nowhere(
    written: Iterable[tuple[str, Any]], graph: Pregel[Any, Any, Any, Any]
) -> Iterator[tuple[bool, str]]:
    """Of the (channel, value) that a task wrote those that lead to a node which the graph does not have:
    whether it is a Send, and the name of that node.
    """
    for channel, value in written:
        if channel == TASKS and isinstance(value, Send) and value.node not in graph.nodes:
            yield True, value.node
        elif is_edge(channel) and channel not in graph.channels:
            yield False, target_of(channel)


def lead_to_nowhere(source: object, target: str, *, is_send: bool) -> str:
    """What is wrong with a node that leads to one which its graph does not have."""
    way = "sends to" if is_send else "has an edge or goto to"
    return f"{source!r} {way} {target!r}, and the graph has no such node."


def is_edge(channel: str) -> bool:
    """Whether a write to that channel makes a node due."""
    return channel.startswith(_NODE)


def is_join(channel: str) -> bool:
    """Whether a node is due once all the writes that lead to that channel have been made."""
    return channel.startswith(_JOIN)


def target_of(channel: str) -> str:
    """The node that a write to an edge's channel makes due."""
    return channel.removeprefix(_NODE)


def _fits(value: Any, channel: Any, deferred: type[Any]) -> bool:
    """Whether the graph has the channel, and it keeps values of that shape: a deferred one keeps a pair."""
    return channel is not None and isinstance(channel, deferred) == isinstance(value, tuple | list)


def _node(channel: str) -> str:
    return f"the node {target_of(channel)!r}"


def _join(channel: str) -> str:
    starts, _, end = channel.removeprefix(_JOIN).rpartition(":")
    return f"the edge from {starts} to {end!r}"
