"""Workflows of one's own: plain LangGraph, and nothing of the engine but the artifact that is saved.

$ RUNENGINE_WORKFLOWS=examples.shop:WORKFLOWS make run
"""

from typing import TypedDict

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy
from runengine.context import RunContext


class Order(TypedDict, total=False):
    item: str
    note: str
    bundle_artifact_id: str


def praise(state: Order) -> Order:
    return {"note": f"What a fine {state['item']}!"}


async def print_label(state: Order, runtime: Runtime[RunContext]) -> Order:
    text = f"To: the {state['item']} fan\n{state['note']}\n"
    saved = await runtime.context.save_artifact("label.txt", text.encode(), "text/plain")
    return {"bundle_artifact_id": saved}


graph = StateGraph(Order, context_schema=RunContext)
graph.add_node("praise", praise, metadata={"skill_id": "copywriting"})
graph.add_node("print-label", print_label, retry_policy=RetryPolicy(max_attempts=3))
graph.add_edge(START, "praise")
graph.add_edge("praise", "print-label")

WORKFLOWS = {"praise-order": graph}
