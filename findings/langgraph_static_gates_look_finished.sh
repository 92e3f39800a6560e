#!/bin/sh
# langgraph: a graph that stops at interrupt_before or interrupt_after returns as one that has finished.
#
# One would guess: invoke() tells in what it returns that the graph waits, as it does for interrupt(), which adds the
#   key __interrupt__; and a graph with such a gate but without a checkpointer is refused, as nothing could resume it.
# What happens: what is returned has no sign of the gate at all; only get_state(config).next has. Compiled without a
#   checkpointer the graph stops there too, for good, with nothing raised and nothing logged. And a gate after the
#   last node shows nowhere: next is empty then, as after the end.
# Source: langgraph 1.2.22, pregel/main.py: invoke() adds __interrupt__ for the values of Interrupt alone; a static
#   gate has none. pregel/_loop.py: tick() and after_tick() raise GraphInterrupt() without any, whatever the saver is.
# Why it matters: a caller that goes by what invoke() returned takes half a job for a whole one, and publishes what
#   nobody has approved. What to do: read get_state(config).next, and compare the nodes that ran with interrupt_after.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check langgraph==1.2.22 langgraph-checkpoint==4.3.2 2>/dev/null
cat >gates.py <<'PYTHON'
import importlib.metadata
import logging
import operator
from typing import Annotated, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

logging.basicConfig(format="    logged: %(levelname)s %(message)s")


class State(TypedDict):
    ran: Annotated[list[str], operator.add]


def draft(state):
    return {"ran": ["draft"]}


def publish(state):
    return {"ran": ["publish"]}


def asks(state):
    interrupt("publish?")
    return {"ran": ["publish"]}


def graph(last=publish, **settings):
    built = StateGraph(State)
    built.add_node("draft", draft)
    built.add_node("publish", last)
    built.add_edge(START, "draft")
    built.add_edge("draft", "publish")
    return built.compile(**settings)


def run(title, expected, next_expected, **settings):
    compiled = graph(**settings)
    config = {"configurable": {"thread_id": "1"}}
    returned = compiled.invoke({"ran": []}, config)
    following = compiled.get_state(config).next if "checkpointer" in settings else None
    print(f"{title}: returned {returned}, next {following}")
    assert (returned, following) == (expected, next_expected), (returned, following)


print("langgraph", importlib.metadata.version("langgraph"))
asked = graph(last=asks, checkpointer=InMemorySaver()).invoke({"ran": []}, {"configurable": {"thread_id": "1"}})
print("interrupt() in publish: returned the keys", sorted(asked))
assert sorted(asked) == ["__interrupt__", "ran"], asked

half, whole = {"ran": ["draft"]}, {"ran": ["draft", "publish"]}
run("no gate", whole, (), checkpointer=InMemorySaver())
run("interrupt_before publish", half, ("publish",), checkpointer=InMemorySaver(), interrupt_before=["publish"])
run("interrupt_before publish, no saver", half, None, interrupt_before=["publish"])
run("interrupt_after publish, the last", whole, (), checkpointer=InMemorySaver(), interrupt_after=["publish"])
PYTHON
venv/bin/python gates.py
