"""The fingerprint of a node's code changes with what it does, and with nothing else."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from runengine_server.worker.graph.fingerprint import fingerprint

NODE = """
import functools

def helper(value):
    return value + 1

def factory(factor, function):
    def node(state, more=1):
        if state["kind"] in {"a", "b", "c"}:
            return {"price": helper(state["price"]) * factor}
        return function(more)
    return node

class Callable:
    def __init__(self, rate):
        self.rate = rate
    def __call__(self, state):
        return state

def inner(value):
    return value

node = factory(2, inner)
partial = functools.partial(node, more=3)
"""


def node_of(source: str, name: str = "node") -> Any:
    names: dict[str, Any] = {"__name__": "shop"}
    exec(source, names)
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(dict)
    graph.add_node("node", names[name])
    graph.add_edge(START, "node")
    return graph.compile().nodes["node"].bound


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* factor", "+ factor"),
        ('"price"', '"cost"'),
        ("more=1", "more=2"),
        ("value + 1", "value + 2"),
        ("factory(2, inner)", "factory(3, inner)"),
        ("    return value\n", "    return -value\n"),
        ('{"a", "b", "c"}', '{"a", "b", "d"}'),
    ],
)
@pytest.mark.parametrize("name", ["node", "partial"])
def test_code_that_does_something_else_has_another_fingerprint(old: str, new: str, name: str) -> None:
    assert old in NODE
    assert fingerprint(node_of(NODE, name)) != fingerprint(node_of(NODE.replace(old, new), name))


def test_a_partial_with_another_argument_has_another_fingerprint() -> None:
    changed = NODE.replace("more=3", "more=4")
    assert fingerprint(node_of(NODE, "partial")) != fingerprint(node_of(changed, "partial"))


@pytest.mark.parametrize("change", [("import functools", "# A comment.\n\nimport functools")])
def test_code_that_has_moved_has_the_same_fingerprint(change: tuple[str, str]) -> None:
    assert fingerprint(node_of(NODE)) == fingerprint(node_of(NODE.replace(*change)))


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    command = "from tests.unit.test_fingerprint import *; print(fingerprint(node_of(NODE)).hex())"
    seen = {
        subprocess.run(
            [sys.executable, "-c", command],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert seen == {fingerprint(node_of(NODE)).hex() + "\n"}
