"""Graphs of the soak: a kind of each thing that nodes have been seen to do to their worker.

Those of `SPARING` leave their worker alive, those of `DEADLY` do not, and `DEPLOYED` is different after a
deploy. Their nodes note what they do, as those of tests/faults/graphs.py; `NODES` has the ones that a
completed run has been through, `CODES` how each may fail.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import operator
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send
from runengine.context import RunContext

from tests.faults import graphs, leak_graphs
from tests.faults.graphs import enter
from tests.faults.history import ours
from tests.support.chains import chain_of
from tests.support.child_graphs import terminate_child

Graph = StateGraph[Any, Any, Any, Any]
Body = Callable[[Any, Runtime[RunContext]], Awaitable[dict[str, Any] | None]]

DEPLOY, NAME = "RUNENGINE_SOAK_DEPLOY", "RUNENGINE_SOAK_NAME"
MAX_STATE_BYTES = 2 * 1024 * 1024
BLOCKED_SECONDS = 4
STEP_SECONDS = 0.3

_forking = multiprocessing.get_context("fork")


class State(TypedDict, total=False):
    key: str
    seen: Annotated[list[str], operator.add]
    size: int
    place: int
    items: Annotated[list[int], operator.add]
    blob: str
    bundle_artifact_id: str


class Inner(TypedDict, total=False):
    key: str


class Told(RuntimeError):
    """What a node raises when it is told to fail."""


def step(name: str, body: Body | None = None, **more: Any) -> Any:
    """An async node that notes what it does. `of_many`: not one of a chain, so that several may run again."""

    async def node(state: Any, runtime: Runtime[RunContext]) -> Any:
        noted = enter(name, state, runtime, **more)
        returned = await body(state, runtime) if body is not None else None
        ours.note("effect", **noted)
        return {**({} if more else {"seen": [noted["marker"]]}), **(returned or {})}

    return node


def step_on_thread(name: str, body: Callable[[Any], Any], **more: Any) -> Any:
    """The same, sync."""

    def node(state: Any, runtime: Runtime[RunContext]) -> Any:
        noted = enter(name, state, runtime, **more)
        returned = body(state)
        ours.note("effect", **noted)
        return returned or {}

    return node


def _once(runtime: Runtime[RunContext], what: str) -> bool:
    """Whether no execution of the run, in whichever process, has asked the same before."""
    place = Path(os.environ["RUNENGINE_STATE_DIR"]) / f"{what}-{runtime.context.run_id}"
    try:
        place.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


# Fan-outs, and graphs within graphs.


async def _item(state: State, runtime: Runtime[RunContext]) -> State:
    noted = enter(f"item-{state['place']}", state, runtime, of_many=True)
    ours.note("effect", **noted)
    return {"items": [state["place"]]}


async def _join(state: State, runtime: Runtime[RunContext]) -> None:
    if sorted(state["items"]) != list(range(state["size"])):
        raise AssertionError(f"{len(state['items'])} items of {state['size']} came back.")


def _fan() -> Graph:
    graph: Graph = StateGraph(State)
    graph.add_node("split", step("split", of_many=True))
    graph.add_node("item", _item)
    graph.add_node("join", step("join", _join, of_many=True))
    graph.add_edge(START, "split")
    graph.add_conditional_edges(
        "split", lambda state: [Send("item", {"place": place}) for place in range(state["size"])], ["item"]
    )
    graph.add_edge("item", "join")
    return graph


async def _pause(state: Any, runtime: Runtime[RunContext]) -> None:
    await asyncio.sleep(0.05)


def _inner(name: str, node: Any, body: Any) -> Any:
    nodes = {f"{name}-{place}": node(f"{name}-{place}", body, of_many=True) for place in ("a", "b")}
    return chain_of(Inner, **nodes).compile()


def _nested() -> Graph:
    invoked = _inner("invoked", step_on_thread, lambda state: time.sleep(0.05))
    awaited = _inner("awaited", step, _pause)

    async def await_it(state: Any, runtime: Runtime[RunContext]) -> None:
        await awaited.ainvoke({"key": "-"})

    return chain_of(
        State,
        outer=_inner("outer", step, _pause),
        invoking=step_on_thread(
            "invoking", lambda state: invoked.invoke({"key": "-"}) and None, of_many=True
        ),
        awaiting=step("awaiting", await_it, of_many=True),
    )


def _gated() -> Graph:
    inner = chain_of(Inner, before=step("before", of_many=True), beyond=step("beyond", of_many=True)).compile(
        interrupt_before=["beyond"]
    )
    return chain_of(State, inner=inner, after=step("after", of_many=True))


# What fails.


async def _fail(state: Any, runtime: Runtime[RunContext]) -> None:
    raise Told("It was told to.")


async def _fail_in_groups(state: Any, runtime: Runtime[RunContext]) -> None:
    if runtime.context.attempt > 1:
        return
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(_fail(state, runtime))
        await asyncio.sleep(0)
        raise ExceptionGroup("several", [ValueError("one"), ExceptionGroup("more", [KeyError("two")])])


def _handled() -> Graph:
    note = step("rescue", of_many=True)

    async def rescue(state: State, runtime: Runtime[RunContext]) -> Command[str]:
        return Command(goto="last", update=await note(state, runtime))

    graph: Graph = StateGraph(State)
    graph.add_node("risky", step("risky", _fail, of_many=True), error_handler=rescue)
    graph.add_node("last", step("last", of_many=True))
    graph.add_edge(START, "risky")
    return graph


async def _exit(state: Any, runtime: Runtime[RunContext]) -> None:
    if runtime.context.attempt == 1:
        sys.exit(3)


def _slow() -> Graph:
    graph: Graph = StateGraph(State)
    slow = step_on_thread("slow", lambda state: time.sleep(10 * STEP_SECONDS), of_many=True)
    graph.add_node("slow", slow, metadata={"timeout_seconds": STEP_SECONDS})
    graph.add_edge(START, "slow")
    return graph


# What is large, or much.


async def _large(state: State, runtime: Runtime[RunContext]) -> Any:
    return {"blob": "x" * state["size"]}


async def _save_many(state: State, runtime: Runtime[RunContext]) -> Any:
    saved = [
        await runtime.context.save_artifact(f"{number}.txt", b"x" * 100, "text/plain")
        for number in range(state["size"])
    ]
    return {"bundle_artifact_id": saved[-1]}


async def _save_large(state: State, runtime: Runtime[RunContext]) -> Any:
    saved = await runtime.context.save_artifact(
        "large.bin", bytes(leak_graphs.LARGE), "application/octet-stream"
    )
    return {"bundle_artifact_id": saved}


async def _fork(state: Any, runtime: Runtime[RunContext]) -> None:
    await terminate_child({})
    # One more, which the node does not wait for, and which ends by itself.
    _forking.Process(target=time.sleep, args=(1,)).start()


# What its worker does not survive.


async def _block(state: Any, runtime: Runtime[RunContext]) -> None:
    if _once(runtime, "blocked"):
        time.sleep(10 * BLOCKED_SECONDS)  # noqa: ASYNC251 - a node that blocks the event loop is the fault


async def _leave_thread(state: Any, runtime: Runtime[RunContext]) -> None:
    threading.Thread(target=time.sleep, args=(20,), name="left", daemon=False).start()


async def _stop_worker(state: Any, runtime: Runtime[RunContext]) -> None:
    if runtime.context.attempt == 1:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()


SPARING: dict[str, Any] = {
    **graphs.STORM,
    "soak-fan": _fan(),
    "soak-nested": _nested(),
    "soak-gate": _gated(),
    "soak-handler": _handled(),
    "soak-group": chain_of(State, first=step("first"), group=step("group", _fail_in_groups)),
    "soak-exit": chain_of(State, first=step("first"), leave=step("leave", _exit)),
    "soak-slow": _slow(),
    "soak-large": chain_of(State, first=step("first"), large=step("large", _large), last=step("last")),
    "soak-artifacts": chain_of(State, save=step("save", _save_many), last=step("last")),
    "soak-download": chain_of(State, save=step("save", _save_large)),
    "soak-fork": chain_of(State, fork=step("fork", _fork)),
}
DEADLY: dict[str, Graph] = {
    "soak-deadly": chain_of(graphs.State, first=graphs.first, second=graphs.second, third=graphs.third),
    "soak-block": chain_of(State, first=step("first"), block=step("block", _block)),
    "soak-thread": chain_of(State, leave=step("leave", _leave_thread)),
    "soak-stop": chain_of(State, stop=step("stop", _stop_worker)),
}


def _deployed() -> Graph:
    async def fail_once(state: Any, runtime: Runtime[RunContext]) -> None:
        if runtime.context.attempt == 1:
            raise Told("It was told to.")

    name = "transmit" if os.environ.get(DEPLOY) == "renamed" else "send"
    return chain_of(State, load=step("load"), **{name: step(name, fail_once)}, report=step("report"))


DEPLOYED: dict[str, Graph] = {"soak-deployed": _deployed()}

# Of one worker alone, so that its pools can be filled, and its artifact store has been used.
_NAME = os.environ.get(NAME, "")
FILL: dict[str, Graph] = {
    f"soak-fill-{_NAME}": leak_graphs.WORKFLOWS["leaks-wide"],
    f"soak-save-{_NAME}": chain_of(State, save=step("save", _save_many)),
}

# A completed run has been through all of these. A node of a run of the storm may be told to fail once.
NODES: dict[str, tuple[str, ...]] = {
    "storm": ("first", "second", "third"),
    "soak-deadly": ("first", "second", "third"),
    "soak-fan": ("split", "join"),
    "soak-nested": (
        *(f"{name}-{place}" for name in ("outer", "invoked", "awaited") for place in ("a", "b")),
        *("invoking", "awaiting"),
    ),
    "storm-nested": ("first", "second", "third"),
    "storm-gated": ("first", "second", "third"),
    "soak-gate": ("before", "beyond", "after"),
    "soak-handler": ("rescue", "last"),
    "soak-group": ("first", "group"),
    "soak-exit": ("first", "leave"),
    "soak-large": ("first", "large", "last"),
    "soak-artifacts": ("save", "last"),
    "soak-download": ("save",),
    "soak-fork": ("fork",),
    "soak-block": ("first", "block"),
    "soak-thread": ("leave",),
    "soak-stop": ("stop",),
    "soak-deployed": ("load", "report"),
    "zombie": ("first", "second", "third"),
    "zombie-on-thread": ("first", "second", "third"),
}
CODES: dict[str, tuple[str, ...]] = {
    "storm": ("STEP_FAILED",),
    "soak-deadly": ("WORKER_LOST",),
    "storm-nested": ("STEP_FAILED",),
    "storm-gated": ("STEP_FAILED",),
    "soak-group": ("STEP_FAILED",),
    "soak-exit": ("STEP_FAILED",),
    "soak-slow": ("STEP_TIMED_OUT",),
    "soak-large": ("STATE_TOO_LARGE",),
    "soak-stop": ("WORKER_STOPPED",),
    "soak-deployed": ("STEP_FAILED", "WORKFLOW_CHANGED"),
    "zombie": ("STEP_FAILED",),
    "zombie-on-thread": ("STEP_FAILED",),
}
# Who has lost five workers while everything was broken, or was handed back ten times, has done nothing wrong.
ANYWAY = ("WORKER_LOST", "WORKER_STOPPED")
