"""The ways in which a graph may be executed within a node of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from runengine_server.domain.run import RunStep

from tests.support.own_worker import Engine, State

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


async def steps_of(engine: Engine, run_id: UUID) -> list[RunStep]:
    steps = await engine.runs.list_steps(run_id, None)
    assert steps is not None
    return steps


def failing(times: int = 1, error: type[Exception] = RuntimeError) -> Any:
    """A sync node that fails so often."""
    left = [times]

    def fails(state: State) -> State:
        left[0] -= 1
        if left[0] >= 0:
            raise error("Once.")
        return {"seen": ["fails"]}

    return fails


def passing(name: str) -> Any:
    def node(state: State) -> State:
        return {"seen": [name]}

    return node
