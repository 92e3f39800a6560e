"""A module, and a node, that configure logging and structlog as if they were alone in the process."""

from __future__ import annotations

import logging
import logging.config
import sys
from typing import Any, TypedDict

import structlog
from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    pass


def take_over() -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"own": {"format": "own %(message)s"}},
            "handlers": {
                "own": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "own"}
            },
            "root": {"level": "ERROR", "handlers": ["own"]},
        }
    )
    logging.basicConfig(level=logging.CRITICAL, force=True, stream=sys.stdout)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


take_over()


async def node(state: State) -> State:
    take_over()
    structlog.contextvars.clear_contextvars()
    logging.getLogger("shop").info("after the takeover")
    structlog.get_logger().info("configured by the author")
    return {}


GRAPH: StateGraph[Any, Any, Any, Any] = StateGraph(State)
GRAPH.add_node("node", node)
GRAPH.add_edge(START, "node")

WORKFLOWS = {"log-takeover": GRAPH}
