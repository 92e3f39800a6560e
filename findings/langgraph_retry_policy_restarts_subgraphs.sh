#!/bin/sh
# langgraph: the RetryPolicy of a node that is a sub-graph runs the sub-graph's completed nodes again.
#
# One would guess: with a checkpointer a sub-graph goes on at the node that failed, as it does when the graph is
#   resumed by invoke(None, config), and as the retry says it will ("signal subgraphs to resume", pregel/_retry.py).
# What happens: it starts anew. The node before the one that failed, here the one that charges, runs twice.
# Source: langgraph 1.2.22, pregel/_loop.py, PregelLoop.__init__: the namespace of a sub-graph's checkpoints ends in
#   the number of graphs that its task has called before, and that number (scratchpad.subgraph_counter) is not
#   reset between the attempts of a task: the second attempt looks under "order:<task>|1", where nothing is.
# Why it matters: an effect in a completed node of a sub-graph happens again for an error in a later one. What to
#   do: give each attempt a scratchpad with a new counter, or make the effects idempotent.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check langgraph==1.2.22 langgraph-checkpoint==4.3.2 2>/dev/null
cat >retry.py <<'PYTHON'
import importlib.metadata
from typing import TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy


class State(TypedDict, total=False):
    value: int


class Closed(Exception):
    pass


ran = []


def charge(state):
    ran.append("charge")
    return {"value": 1}


def ship(state):
    ran.append("ship")
    if ran.count("ship") == 1:
        raise Closed
    return {"value": 2}


def run(**options):
    ran.clear()
    inner = StateGraph(State)
    inner.add_node(charge)
    inner.add_node(ship)
    inner.add_edge(START, "charge")
    inner.add_edge("charge", "ship")
    outer = StateGraph(State)
    outer.add_node("order", inner.compile(), **options)
    outer.add_edge(START, "order")
    graph = outer.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    try:
        graph.invoke({"value": 0}, config)
    except Closed:
        graph.invoke(None, config)
    return list(ran)


print("langgraph", importlib.metadata.version("langgraph"))
resumed = run()
print("failed, then invoke(None): ", resumed)
assert resumed == ["charge", "ship", "ship"], resumed
retried = run(retry_policy=RetryPolicy(max_attempts=2, initial_interval=0, jitter=False, retry_on=Closed))
print("failed, then RetryPolicy:  ", retried)
assert retried == ["charge", "ship", "charge", "ship"], retried
PYTHON
venv/bin/python retry.py
