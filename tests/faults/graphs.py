"""Graphs of the fault suite: each node tells the history what it saw, and what it did.

A payload says how its nodes behave, by their names: `{"first": {"manner": "deaf", "asks": 1}}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import operator
import os
import signal
import time
import uuid
from collections.abc import Coroutine
from typing import Annotated, Any, TypedDict

from langgraph.runtime import Runtime
from langgraph.types import interrupt
from runengine.context import RunContext

from tests.faults.arrivals import arrive, arrive_on_thread
from tests.faults.history import ours
from tests.support.chains import chain_of


class State(TypedDict, total=False):
    gates: str
    key: str
    brief: str
    first: dict[str, Any]
    second: dict[str, Any]
    third: dict[str, Any]
    seen: Annotated[list[str], operator.add]
    bundle_artifact_id: str


def brief_of(word: str) -> str:
    """What is large enough to be stored once a run, and shows by itself whether it is whole."""
    return word * (6_000 // len(word))


class Told(RuntimeError):
    """What a node raises when it is told to fail."""


def enter(node: str, state: Any, runtime: Runtime[RunContext], **more: Any) -> dict[str, Any]:
    """Notes that the node has begun; what is noted of its effect."""
    context = runtime.context
    noted = {
        "run": str(context.run_id),
        "node": node,
        "attempt": context.attempt,
        "key": context.idempotency_key,
        # Which execution it is: what one returns is told from what any other does.
        "marker": f"{node}:{os.getpid()}:{uuid.uuid4().hex[:8]}",
        **more,
    }
    brief = state.get("brief", "")
    is_whole = not brief or brief == brief_of(brief[: len(brief) // 300])
    ours.note("entered", saw=state.get("seen", []) if is_whole else ["a brief that is not whole"], **noted)
    return noted


async def deaf(waiting: Coroutine[Any, Any, str]) -> str:
    """The result of `waiting`, whatever tries to cancel it."""
    task = asyncio.create_task(waiting)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


async def _gate(state: State, node: str, run_id: str) -> str:
    async with arrive(state["gates"], node, run_id) as word:
        return word


def ask(node: str, times: int, noted: dict[str, Any]) -> None:
    """Asks somebody so many times, and notes what was answered."""
    for number in range(times):
        gate = f"{node}:{number}"
        value = interrupt(gate)
        ours.note("passed", run=noted["run"], attempt=noted["attempt"], gate=gate, value=value)


async def _node(node: str, state: State, runtime: Runtime[RunContext]) -> State:
    how: dict[str, Any] = state.get(node, {})  # type: ignore[assignment]
    noted = enter(node, state, runtime)
    manner, word = how.get("manner", ""), "go"
    if manner == "gate":
        word = await _gate(state, node, noted["run"])
    elif manner == "deaf":
        word = await deaf(_gate(state, node, noted["run"]))
    elif manner == "block":
        time.sleep(how["seconds"])  # noqa: ASYNC251 - a node that blocks the event loop is the fault
    elif manner == "kill":
        ours.note("poison", run=noted["run"])
        os.kill(os.getpid(), signal.SIGKILL)
    elif manner == "fail" and runtime.context.attempt == 1:
        word = "fail"
    ask(node, int(how.get("asks", 0)), noted)
    await asyncio.sleep(how.get("pause", 0))
    if word == "fail":
        raise Told("It was told to.")
    answer: State = {"seen": [noted["marker"]]}
    if word == "save" or how.get("save"):
        told = json.dumps([*state.get("seen", []), noted["marker"]]).encode()
        answer["bundle_artifact_id"] = await runtime.context.save_artifact(
            f"{node}.json", told, "application/json"
        )
    ours.note("effect", **noted)
    return answer


async def first(state: State, runtime: Runtime[RunContext]) -> State:
    return await _node("first", state, runtime)


async def second(state: State, runtime: Runtime[RunContext]) -> State:
    return await _node("second", state, runtime)


async def third(state: State, runtime: Runtime[RunContext]) -> State:
    return await _node("third", state, runtime)


def first_on_thread(state: State, runtime: Runtime[RunContext]) -> State:
    """A sync node, which no cancel reaches."""
    noted = enter("first", state, runtime)
    if arrive_on_thread(state["gates"], "first", noted["run"]) == "fail":
        raise Told("It was told to.")
    ours.note("effect", **noted)
    return {"seen": [noted["marker"]]}


async def nothing(state: State) -> State:
    return {}


STORM: dict[str, Any] = {
    "storm": chain_of(State, first=first, second=second, third=third),
    "storm-nested": chain_of(State, first=first, inner=chain_of(State, second=second).compile(), third=third),
    "storm-gated": chain_of(State, first=first, second=second, third=third).compile(
        interrupt_before=["second"]
    ),
}
ZOMBIES = {
    "zombie": chain_of(State, first=first, second=second, third=third),
    "zombie-on-thread": chain_of(State, first=first_on_thread, second=second, third=third),
}
RECOVERY = {"recovery": chain_of(State, first=first)}
NO_OP = {"no-op": chain_of(State, nothing=nothing)}
