#!/bin/sh
# langgraph: a graph that is resumed at a node that a deploy has renamed returns as after a success.
#
# One would guess: invoke(None, config) raises, or logs at least, that the node which is due is not there.
# What happens: the node is passed over, and so is all that would have followed it; it returns the state as it was,
#   nothing raised, nothing logged. A Command(goto=...), a conditional edge and a Send to a node that never was (a
#   typo) end the same way, with a warning in the log.
# Source: langgraph 1.2.22, pregel/_algo.py: prepare_next_tasks looks among the nodes that the graph has, and the
#   stored channel branch:to:send has no reader; apply_writes logs "wrote to unknown channel ..., ignoring it".
# Why it matters: who resumes from checkpoints after a deploy takes half a job for a whole one. What to do: compare
#   what the checkpoint has due (branch:to:*, join:*, __pregel_tasks, pending writes) with the graph before resuming.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check langgraph==1.2.22 langgraph-checkpoint==4.3.2 2>/dev/null
cat >renamed.py <<'PYTHON'
import importlib.metadata
import logging
import operator
from typing import Annotated, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command

logging.basicConfig(format="    logged: %(levelname)s %(message)s")


class State(TypedDict):
    ran: Annotated[list[str], operator.add]


class Closed(Exception):
    pass


def load(state):
    return {"ran": ["load"]}


def send(state):
    raise Closed


def transmit(state):
    return {"ran": ["transmit"]}


def report(state):
    return {"ran": ["report"]}


def chain(*nodes):
    graph = StateGraph(State)
    for before, node in zip((START, *(each.__name__ for each in nodes)), nodes):
        graph.add_node(node)
        graph.add_edge(before, node.__name__)
    return graph.compile(checkpointer=saver)


print("langgraph", importlib.metadata.version("langgraph"))
saver = InMemorySaver()
config = {"configurable": {"thread_id": "1"}}
try:
    chain(load, send, report).invoke({"ran": []}, config)
except Closed:
    print("load -> send -> report: send failed")
resumed = chain(load, transmit, report).invoke(None, config)
print("load -> transmit -> report, resumed: returned", resumed)
assert resumed == {"ran": ["load"]}, resumed

typo = StateGraph(State)
typo.add_node("load", lambda state: Command(goto="reprot", update={"ran": ["load"]}))
typo.add_node("report", report)
typo.add_edge(START, "load")
returned = typo.compile().invoke({"ran": []})
print("goto a node that is not there: returned", returned)
assert returned == {"ran": ["load"]}, returned
PYTHON
venv/bin/python renamed.py
