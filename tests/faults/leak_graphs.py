"""Graphs under which processes have been seen to keep what they should give back."""

from __future__ import annotations

import asyncio
from typing import Any

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy
from runengine.context import RunContext

from tests.faults.arrivals import arrive, arrive_on_thread
from tests.faults.graphs import State
from tests.faults.graphs import deaf as deafly
from tests.support import graphs

# As many sync nodes side by side as there are threads for them, and connections, in a worker, and two more.
WIDTH = 14

# More than the buffers between a server and a reader that has stopped to read can hold.
LARGE = 8 * 1024 * 1024


async def forever(state: State) -> State:
    await asyncio.Event().wait()
    return {}


def on_thread(state: State, runtime: Runtime[RunContext]) -> State:
    arrive_on_thread(state["gates"], "on-thread", str(runtime.context.run_id))
    return {}


async def deaf(state: State, runtime: Runtime[RunContext]) -> State:
    async def gate() -> str:
        async with arrive(state["gates"], "deaf", str(runtime.context.run_id)) as word:
            return word

    await deafly(gate())
    return {}


def wide(state: State, runtime: Runtime[RunContext]) -> State:
    arrive_on_thread(state["gates"], "wide", str(runtime.context.run_id))
    return {}


async def large(state: State, runtime: Runtime[RunContext]) -> State:
    saved = await runtime.context.save_artifact("large.bin", bytes(LARGE), "application/octet-stream")
    return {"bundle_artifact_id": saved}


def _side_by_side(*names: str, node: Any, **options: Any) -> StateGraph[Any, Any, Any, Any]:
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    for name in names:
        graph.add_node(name, node, **options)
        graph.add_edge(START, name)
    return graph


_slow_run = _side_by_side("forever", "for-ever", node=forever)
_slow_run.metadata = {"timeout_seconds": 0.2}  # type: ignore[attr-defined]

# Looks into the cache before it begins, and never finds anything there.
_per_run: CachePolicy[Any] = CachePolicy(key_func=lambda state: str(state["key"]))

WORKFLOWS = {
    "leaks-slow-step": _side_by_side("forever", node=forever, metadata={"timeout_seconds": 0.1}),
    "leaks-slow-thread": _side_by_side("on-thread", node=on_thread, metadata={"timeout_seconds": 0.1}),
    "leaks-slow-run": _slow_run,
    "leaks-deaf": _side_by_side("deaf", node=deaf),
    "leaks-wide": _side_by_side(
        *(f"wide{number}" for number in range(WIDTH)), node=wide, cache_policy=_per_run
    ),
    "leaks-large": _side_by_side("large", node=large),
}

# Under names of their own: another worker may serve them on the same database.
WORKFLOWS |= {f"leaks-{name}": graph for name, graph in graphs.WORKFLOWS.items()}
