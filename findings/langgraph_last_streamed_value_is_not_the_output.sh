#!/bin/sh
# langgraph: the last value of stream(stream_mode="values") is not what invoke() returns: it has what the output schema
#   leaves out.
#
# One would guess: invoke() is stream() with stream_mode="values", its default, of which it returns the last value; so
#   whoever streams gets the same at the end, and a graph with an output_schema shows nobody what is not in it.
# What happens: of a graph with an output_schema invoke() returns the keys of that schema, and each value of the stream
#   has all keys of the state, those too that are private to one node. With output_keys=graph.output_channels both are
#   the same.
# Source: langgraph 1.2.22, pregel/main.py: invoke() and ainvoke() take output_channels where output_keys is not given,
#   and _defaults(), which stream() and astream() take it from, stream_channels_asis.
# Why it matters: a service that streams a graph to its users sends them drafts, prompts and keys that its author has
#   left out of the output on purpose; and one that goes from invoke() to the stream returns something else.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check langgraph==1.2.22 langgraph-checkpoint==4.3.2
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version
from typing import TypedDict

from langgraph.graph import START, StateGraph


class Question(TypedDict):
    question: str


class Private(TypedDict):
    prompt: str


class Answer(TypedDict):
    answer: str


class State(Question, Answer):
    draft: str


def think(state: Question) -> Private:
    return {"prompt": f"Answer kindly: {state['question']}"}


def write(state: Private) -> State:
    return {"draft": "first try", "answer": "42"}


builder = StateGraph(State, input_schema=Question, output_schema=Answer)
builder.add_node("think", think)
builder.add_node("write", write)
builder.add_edge(START, "think")
builder.add_edge("think", "write")
graph = builder.compile()
given = {"question": "6 * 7?"}
returned = graph.invoke(given)
*_, streamed = graph.stream(given, stream_mode="values")
*_, narrowed = graph.stream(given, stream_mode="values", output_keys=graph.output_channels)
print(f"langgraph {version('langgraph')}")
print("invoke():                  ", sorted(returned))
print("last value of stream():    ", sorted(streamed))
print("with the output's channels:", sorted(narrowed))
sys.exit(
    (sorted(returned), sorted(streamed), sorted(narrowed))
    != (["answer"], ["answer", "draft", "prompt", "question"], ["answer"])
)
PYTHON
echo "as described: the last value that is streamed has what the output leaves out"
