"""A value that the store would not give back as it was is refused where it is written."""

from __future__ import annotations

import dataclasses
import enum
import threading
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pydantic
import pytest
from langgraph.channels import UntrackedValue
from langgraph.func import task
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send
from runengine_server.domain.run import RunStatus

from tests.support.own_worker import Graph, State, alone, chain, serving
from tests.support.values import Frozen


class Envelope(pydantic.BaseModel):
    given: Any


class Outer:
    @dataclasses.dataclass
    class Inner:
        size: int


@dataclasses.dataclass
class Counted:
    size: int
    count: int = dataclasses.field(default=0, init=False)


def looped() -> Any:
    loop: list[Any] = [1]
    loop.append(loop)
    return loop


def local() -> Any:
    @dataclasses.dataclass
    class Local:
        size: int

    return Local(1)


def local_level() -> Any:
    class Local(enum.IntEnum):
        ONE = 1

    return Local.ONE


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a lambda": (lambda: lambda: 1, "function"),
    "a generator": (lambda: (each for each in "a"), "generator"),
    "a lock": (threading.Lock, "lock"),
    "an error": (lambda: ValueError("a"), "ValueError"),
    "an error in a list": (lambda: [ValueError("a")], "ValueError"),
    "a class": (lambda: Frozen, "type"),
    "a complex": (lambda: 1j, "complex"),
    "too large": (lambda: 2**64, "int"),
    "too small": (lambda: [-(2**63) - 1], "list"),
    "of a function": (local, "local.<locals>.Local"),
    "an enum of a function": (local_level, "local_level.<locals>.Local"),
    "of a class": (lambda: {"a": [Outer.Inner(1)]}, "Outer.Inner"),
    "not in __init__": (lambda: Frozen(1, (Counted(1),)), "Counted"),
    "a set of tuples": (lambda: {(1, 2)}, "set"),
    "a loop": (looped, "list"),
    "in a model": (lambda: Envelope(given=Outer.Inner(1)), "Outer.Inner"),
    "objects for keys": (lambda: {Frozen(1): 1}, "dict"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_value_that_would_come_back_as_another_is_refused_when_it_is_written(
    database_url: str, name: str
) -> None:
    make, kind = REFUSED[name]
    follows: list[str] = []
    written: list[Callable[[], Any]] = [lambda: None, make]

    async def write(state: State) -> Any:
        return {"bundle_artifact_id": written.pop()()}

    async def follow(state: State) -> Any:
        follows.append("follow")
        return {}

    async with serving(database_url, chain(write=write, follow=follow)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert (run.error.code, run.error.step_id) == ("VALUE_NOT_STORABLE", "write")
        assert "'bundle_artifact_id'" in run.error.message
        assert kind in run.error.message
        assert run.error.retryable is False
        assert await engine.executions(run.id) == ["write 1 failed VALUE_NOT_STORABLE"]
        assert follows == []
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED


async def refused(database_url: str, graph: Graph) -> str:
    async with serving(database_url, graph) as engine:
        first = await engine.execute()
        again = await engine.execute_again(first.id)
        for run in (first, again):
            assert run.error is not None
            assert run.error.code == "VALUE_NOT_STORABLE"
        assert again.error is not None
        return again.error.message


async def test_a_send_with_what_cannot_be_stored_is_refused(database_url: str) -> None:
    async def send(state: State) -> Any:
        return Command(goto=Send("send", {"given": local()}))

    assert "'Send to send: given'" in await refused(database_url, alone("send", send))


async def test_a_task_that_returns_what_cannot_be_stored_is_refused_each_time(database_url: str) -> None:
    @task
    async def look() -> Any:
        return local()

    async def ask(state: State) -> Any:
        await look()
        return {}

    assert "result of a task" in await refused(database_url, alone("ask", ask))


async def test_a_reducer_that_makes_what_cannot_be_stored_fails_its_run(database_url: str) -> None:
    class Locals(TypedDict, total=False):
        made: Annotated[list[Any], lambda left, right: local()]

    graph: Graph = StateGraph(Locals)
    graph.add_node("write", lambda state: {"made": [1]})
    graph.add_edge(START, "write")
    assert "'made'" in await refused(database_url, graph)


async def test_a_value_that_is_never_stored_may_be_anything(database_url: str) -> None:
    locked: list[bool] = []

    class Untracked(TypedDict, total=False):
        lock: Annotated[Any, UntrackedValue(Any)]

    async def use(state: Any) -> Any:
        locked.append(state["lock"].locked())
        return {}

    graph: Graph = StateGraph(Untracked)
    graph.add_node("write", lambda state: {"lock": threading.Lock()})
    graph.add_node("use", use)
    graph.add_node("sent", use)
    graph.add_edge(START, "write")
    graph.add_edge("write", "use")
    graph.add_conditional_edges("use", lambda state: [Send("sent", state)], ["sent"])
    async with serving(database_url, graph) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED
    assert locked == [False, False]
