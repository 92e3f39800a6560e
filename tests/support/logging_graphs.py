"""Graphs whose nodes log in each way there is."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, TypedDict

import structlog
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy

from tests.support.gates import pass_gate

SECRET = "sk-not-for-the-log"

_log = logging.getLogger("shop")
_structured = structlog.get_logger()


class State(TypedDict, total=False):
    gates: str
    secret: str


class Inner(TypedDict, total=False):
    gates: str


def _one(name: str, node: Any, **options: Any) -> StateGraph[Any, Any, Any, Any]:
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    graph.add_node(name, node, **options)
    graph.add_edge(START, name)
    return graph


async def in_async_node(state: State) -> State:
    _log.debug("shop at debug")
    _log.info("shop %s", "at info", extra={"order": 7, "run_id": "of the shop"})
    _log.warning("shop at warning")
    _structured.debug("structured at debug")
    _structured.info("structured at info", order=8, tenant="of the shop")

    async def in_task() -> None:
        _log.info("in a task")

    await asyncio.create_task(in_task())
    await asyncio.to_thread(_log.info, "in a thread")
    return {}


def in_sync_node(state: State) -> State:
    _log.info("in a sync node")
    _called.invoke({}, {"configurable": {"thread_id": "its own"}})
    return {}


def in_called(state: Inner) -> Inner:
    _log.info("in a called graph")
    return {}


def in_sub_graph(state: Inner) -> Inner:
    _log.info("in a sub-graph")
    return {}


def edge(state: State) -> str:
    _log.info("in an edge")
    return END


_called = _one("deep", in_called).compile()

WAYS: StateGraph[Any, Any, Any, Any] = StateGraph(State)
WAYS.add_node("asynchronous", in_async_node)
WAYS.add_node("synchronous", in_sync_node)
WAYS.add_node("outer", _one("inner", in_sub_graph).compile())
WAYS.add_edge(START, "asynchronous")
WAYS.add_edge("asynchronous", "synchronous")
WAYS.add_edge("synchronous", "outer")
WAYS.add_conditional_edges("outer", edge)


async def library(state: State) -> State:
    """Loggers that have levels of their own."""
    for name, level in (("chatty", logging.DEBUG), ("curt", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        for each in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logger.log(each, "%s at %s", name, logging.getLevelName(each).lower())
    return {}


async def flaky(state: State, config: RunnableConfig) -> State:
    raise ValueError(f"The key {state['secret']} is wrong.")


async def says_why(state: State) -> State:
    try:
        raise ValueError("The kettle is empty.")
    except ValueError:
        _log.exception("shop failed")
        _structured.exception("structured failed")
    return {}


async def held(state: State) -> State:
    await pass_gate(state["gates"], "held")
    return {}


_TWICE = RetryPolicy(retry_on=ValueError, max_attempts=2, initial_interval=0, jitter=False)

WORKFLOWS = {
    "log-ways": WAYS,
    "log-levels": _one("levels", library),
    "log-failure": _one("flaky", flaky, retry_policy=_TWICE),
    "log-words": _one("words", says_why),
    "log-held": _one("held", held),
}
