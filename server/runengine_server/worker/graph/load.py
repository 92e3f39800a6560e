"""A user's graph → a workflow that the worker can execute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import structlog
from langchain_core.runnables import Runnable
from langgraph._internal._constants import NS_SEP
from langgraph._internal._runnable import RunnableCallable
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.pregel._utils import get_function_nonlocals
from langgraph.types import RetryPolicy

from runengine_server.worker.graph.description import describe
from runengine_server.worker.graph.due import due_nodes
from runengine_server.worker.graph.namespaces import namespace_path
from runengine_server.worker.graph.recording import RecordedWithin, recorded_copy, timeout_of

AnyGraph = StateGraph[Any, Any, Any, Any] | Pregel[Any, Any, Any, Any]

# The name of a graph that was compiled without one.
_UNNAMED = "LangGraph"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Workflow:
    """A user's graph, compiled, each node recorded as a step; `timeout_seconds` is that of a run, and
    `waiting_timeout_seconds` how long it may wait for somebody at a time. `subgraphs`
    has the graphs that are nodes of it, or of one another, by their names, as in "outer|inner";
    `callable_graphs` also those that the function of a node refers to, and may call. `record_within` records
    the nodes of any graph within it. `description` is as in describe.
    """

    name: str
    graph: Pregel[Any, Any, Any, Any]
    retry_policies: dict[str, Sequence[RetryPolicy]]
    timeout_seconds: float | None
    waiting_timeout_seconds: float | None
    subgraphs: dict[str, Pregel[Any, Any, Any, Any]]
    callable_graphs: dict[str, list[Pregel[Any, Any, Any, Any]]]
    record_within: RecordedWithin
    description: bytes

    def graphs_of(self, namespace: str) -> list[Pregel[Any, Any, Any, Any]]:
        """The graph whose checkpoints have that namespace, or the graphs among which it is; none where it is
        unknown, because a function makes it.
        """
        graph = self.graph_of(namespace)
        return self.callable_graphs.get(namespace_path(namespace), []) if graph is None else [graph]

    def graph_of(self, namespace: str) -> Pregel[Any, Any, Any, Any] | None:
        """The graph whose checkpoints have that namespace; None of one that a node calls by itself."""
        return self.subgraphs.get(namespace_path(namespace)) if namespace else self.graph

    def may_have_gates(self, namespace: str) -> bool:
        """Whether the graph of that namespace stops before or after a node, as far as is known."""
        graph = self.graph_of(namespace)
        return graph is None or bool(graph.interrupt_before_nodes or graph.interrupt_after_nodes)

    def gates_at(
        self, namespace: str, values: Mapping[str, Any], after: Sequence[str]
    ) -> Sequence[str] | None:
        """The nodes before or after which the graph of that namespace stops, by the channels of a checkpoint
        and the gates `after` nodes that came before it. None where the graph is unknown.
        """
        if after:
            return after
        return self.gates_before(namespace, values) if self.graphs_of(namespace) else None

    def gates_after(self, namespace: str, done: Iterable[str]) -> list[str]:
        """Those of the nodes `done` after which the graph of that namespace has a gate."""
        gated = [graph for graph in self.graphs_of(namespace) if graph.interrupt_after_nodes]
        names = set(done) - {START} if gated else set()
        for graph in gated:
            # Of several graphs that a function may call it is the one that has those nodes.
            if names <= graph.nodes.keys():
                return _gated(names, graph.interrupt_after_nodes)
        return []

    def gates_before(self, namespace: str, values: Mapping[str, Any]) -> list[str]:
        """The nodes that are due by the channels of a checkpoint, and have a gate before them."""
        for graph in self.graphs_of(namespace):
            gates = graph.interrupt_before_nodes
            if gates and (found := _gated(due_nodes(values, graph), gates)):
                return found
        return []


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a run and a step may take, in seconds, unless the graph's metadata has a limit of its own."""

    run: float | None = None
    step: float | None = None


_NO_TIMEOUTS = Timeouts()


def _gated(names: Iterable[str], gates: Sequence[str] | str) -> list[str]:
    return sorted(name for name in names if gates == "*" or name in gates)


def _subgraphs(graph: Pregel[Any, Any, Any, Any], within: str = "") -> dict[str, Pregel[Any, Any, Any, Any]]:
    found: dict[str, Pregel[Any, Any, Any, Any]] = {}
    for name, node in graph.nodes.items():
        if isinstance(node.bound, Pregel):
            path = within + name
            found[path] = node.bound
            found |= _subgraphs(node.bound, path + NS_SEP)
    return found


def _callable_graphs(graph: Pregel[Any, Any, Any, Any]) -> dict[str, list[Pregel[Any, Any, Any, Any]]]:
    found: dict[str, list[Pregel[Any, Any, Any, Any]]] = {}

    def look(graph: Pregel[Any, Any, Any, Any], within: str, above: tuple[int, ...]) -> None:
        for name, node in graph.nodes.items():
            inner = [node.bound] if isinstance(node.bound, Pregel) else _called(node.bound)
            if inner:
                found.setdefault(within + name, []).extend(inner)
            for each in inner:
                if id(each) not in above:  # one may call itself
                    look(each, within + name + NS_SEP, (*above, id(each)))

    look(graph, "", ())
    return found


def _called(node: Runnable[Any, Any]) -> list[Pregel[Any, Any, Any, Any]]:
    functions = (node.func, node.afunc) if isinstance(node, RunnableCallable) else ()
    known = (value for each in functions if each is not None for value in get_function_nonlocals(each))
    return [graph for value in known for graph in _graphs_in(value)]


def _graphs_in(value: Any) -> Iterable[Pregel[Any, Any, Any, Any]]:
    """The graph, that whose method the value is, or those in a collection, of which a function may choose
    one.
    """
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple | set | frozenset):
        value = (getattr(value, "__self__", value),)
    return [each for each in value if isinstance(each, Pregel)]


def compile_workflow(name: str, graph: AnyGraph, timeouts: Timeouts = _NO_TIMEOUTS) -> Workflow:
    """The graph compiled, with its nodes recorded, and those of the graphs within it; a graph that is
    compiled already stays as it is, and a copy of it is the workflow's.

    Raises ValueError for a `timeout_seconds` or `waiting_timeout_seconds` that is no positive number.
    """
    theirs = graph.compile(name=name) if isinstance(graph, StateGraph) else graph
    compiled, retry_policies = recorded_copy(theirs, timeouts.step, is_top=True)
    if isinstance(graph, Pregel):
        _take_charge(name, compiled)
    subgraphs, callable_graphs = _subgraphs(theirs), _callable_graphs(theirs)
    known = chain(subgraphs.values(), *callable_graphs.values())
    metadata = getattr(graph, "metadata", None) or getattr(
        getattr(compiled, "builder", None), "metadata", None
    )
    return Workflow(
        name,
        compiled,
        retry_policies,
        timeout_of(metadata, timeouts.run),
        timeout_of(metadata, None, "waiting_timeout_seconds"),
        subgraphs,
        callable_graphs,
        RecordedWithin(timeouts.step, known),
        describe(theirs),
    )


def _take_charge(name: str, own: Pregel[Any, Any, Any, Any]) -> None:
    """The engine keeps the checkpoints. A cache of the graph's own would be used for all tenants alike; nodes
    with a CachePolicy use the engine's.
    """
    if own.name == _UNNAMED:
        own.name = name
    for role in ("checkpointer", "cache"):
        if (theirs := getattr(own, role)) is not None:
            setattr(own, role, None)
            _log.info(f"the engine's {role} is used", workflow=name, instead_of=type(theirs).__name__)
