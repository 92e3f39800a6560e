"""Workflows that a version before and that of today both run: this file is imported on either side, and takes
nothing but its own version's sample. A name says who executes its runs; `shared` is executed by either.
"""

from __future__ import annotations

import asyncio
import operator
import os
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from runengine_server.settings import SAMPLE


class State(TypedDict, total=False):
    gates: str
    needs: str
    brief: str
    seen: Annotated[list[str], operator.add]


def begin(state: State) -> State:
    return {"seen": ["begin"]}


def _is_there(name: str) -> bool:
    return Path(name).exists()


async def check(state: State) -> State:
    """Waits at its gate (tests.support.gates), and fails without the file that it needs, if any."""
    if "gates" in state:
        reader, writer = await asyncio.open_unix_connection(state["gates"])
        try:
            writer.write(b"check\n")
            await reader.readline()
        finally:
            writer.close()
    if "needs" in state and not _is_there(state["needs"]):
        raise FileNotFoundError("It is not there yet.")
    return {"seen": ["check"]}


def end(state: State) -> State:
    return {"seen": ["end"]}


CHECKED = StateGraph(State)
CHECKED.add_node("begin", begin)
CHECKED.add_node("check", check)
CHECKED.add_node("end", end)
CHECKED.add_edge(START, "begin")
CHECKED.add_edge("begin", "check")
CHECKED.add_edge("check", "end")
CHECKED.add_edge("end", END)

_module, _, _attribute = SAMPLE.partition(":")
_SIDE = os.environ["RUNENGINE_SIDE"]

WORKFLOWS: dict[str, Any] = {
    "shared": CHECKED,
    f"{_SIDE}-checked": CHECKED,
    **{f"{_SIDE}-{name}": graph for name, graph in getattr(import_module(_module), _attribute).items()},
}
