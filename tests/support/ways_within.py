"""The ways in which a graph may be executed within a node of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.own_worker import State

# What add_node gets for a compiled graph.
Way = Callable[[Any], Any]


def as_node(inner: Any) -> Any:
    return inner


def called(inner: Any) -> Any:
    def node(state: State) -> Any:
        return inner.invoke(state)

    return node


def called_in_the_loop(inner: Any) -> Any:
    async def node(state: State) -> Any:
        return inner.invoke(state)

    return node


def awaited(inner: Any) -> Any:
    async def node(state: State) -> Any:
        return await inner.ainvoke(state)

    return node


def streamed(inner: Any) -> Any:
    def node(state: State) -> Any:
        return list(inner.stream(state, stream_mode="values"))[-1]

    return node


def streamed_asynchronously(inner: Any) -> Any:
    async def node(state: State) -> Any:
        return [each async for each in inner.astream(state, stream_mode="values")][-1]

    return node


# On threads, and all but in the event loop's own thread, where nothing can be recorded.
CALLED = [called, streamed]
WAYS = [as_node, called, awaited, streamed, streamed_asynchronously]
