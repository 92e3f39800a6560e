#!/bin/sh
# langgraph: a question of a sub-graph compiled with checkpointer=False cannot be answered by the id that it has.
#
# One would guess: what interrupt() asks has an id so that Command(resume={id: value}) answers just that question, as
#   the documentation advises where there may be several; and a sub-graph that keeps no checkpoints of its own is asked
#   and answered through those of the graph above.
# What happens: the call returns as if nothing had been given, with the same question under another id, each time anew,
#   and raises and logs nothing. Command(resume=value), without an id, does answer it; but of two questions in one node
#   it answers only the first: the second is asked for ever, whatever is given.
# Source: langgraph 1.2.22, types.py: the id of an interrupt is a hash of the namespace of its task, in which the id of
#   the task is; pregel/_algo.py: that comes from the id of a checkpoint, which such a sub-graph makes anew each time.
# Why it matters: a human-in-the-loop service that answers by ids, as it must where branches run side by side, loops on
#   such a graph and asks its people the same question again. What to do: compile sub-graphs that ask with the default
#   checkpointer=None, which uses that of the graph above.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check langgraph==1.2.22 langgraph-checkpoint==4.3.2 2>/dev/null
cat >unsaved.py <<'PYTHON'
import importlib.metadata
from typing import TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt


class State(TypedDict, total=False):
    heard: list[str]


def built(node, **settings):
    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    return graph.compile(**settings)


def answers(questions, by_id, inner):
    """What is asked, call after call; None once the graph has ended."""

    def ask(state):
        return {"heard": [interrupt(each) for each in questions]}

    graph = built(built(ask, checkpointer=inner), checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    result, asked, ids = graph.invoke({}, config), [], set()
    for number in range(4):
        found = result.get("__interrupt__")
        asked.append(found[0].value if found else None)
        if not found:
            break
        ids.add(found[0].id)
        value = f"answer {number}"
        result = graph.invoke(Command(resume={found[0].id: value} if by_id else value), config)
    return asked, len(ids)


print("langgraph", importlib.metadata.version("langgraph"))
expected = {
    ("one question, by id, checkpointer=None", ("1",), True, None): (["1", None], 1),
    ("one question, by id, checkpointer=False", ("1",), True, False): (["1", "1", "1", "1"], 4),
    ("one question, by value, checkpointer=False", ("1",), False, False): (["1", None], 1),
    ("two questions, by value, checkpointer=None", ("1", "2"), False, None): (["1", "2", None], 2),
    ("two questions, by value, checkpointer=False", ("1", "2"), False, False): (["1", "2", "2", "2"], 4),
}
for (title, questions, by_id, inner), wanted in expected.items():
    asked, ids = answers(questions, by_id, inner)
    print(f"{title}: asked {asked}, under {ids} ids")
    assert (asked, ids) == wanted, wanted
PYTHON
venv/bin/python unsaved.py
