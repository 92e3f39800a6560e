"""Workflows for the console alone: artifacts that mean harm to whoever opens them, and graphs in nodes."""

from __future__ import annotations

from typing import Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from runengine.context import RunContext

from tests.support.graphs import GATED
from tests.support.graphs import State as Gated

ATTACK = """
  try { parent.document.title = "taken over"; } catch {}
  try { top.location = "https://evil.example/"; } catch {}
  document.body.append("a script has run");
"""
PAGE = f"""<!doctype html><title>A page</title><h1>Harmless words</h1><script>{ATTACK}</script>
<script src="/console/main.js"></script><img src="x" onerror="document.body.append('a script has run')">
<img src="https://evil.example/seen.png"><style>h1 {{ color: rgb(1, 2, 3) }}</style>"""
PICTURE = f"""<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"
onload="parent.document.title='taken over'"><script>{ATTACK}</script><rect width="20" height="20"/></svg>"""


class State(TypedDict, total=False):
    """Nothing is in it."""


async def publish(state: State, runtime: Runtime[RunContext]) -> State:
    await runtime.context.save_artifact("page.html", PAGE.encode(), "text/html; charset=utf-8")
    await runtime.context.save_artifact("picture.svg", PICTURE.encode(), "image/svg+xml")
    return {}


graph = StateGraph(State, context_schema=RunContext)
graph.add_node("publish", publish)
graph.add_edge(START, "publish")


async def call(state: Gated) -> dict[str, Any]:
    # Compiled here, because LangGraph describes a graph that it finds compiled in a node's function.
    return await GATED.compile().ainvoke(state)


within = StateGraph(Gated)
within.add_node("described", GATED.compile())
within.add_node("calling", call)
within.add_edge(START, "described")
within.add_edge("described", "calling")

WORKFLOWS: dict[str, Any] = {"hostile-artifacts": graph, "graphs-within": within}
