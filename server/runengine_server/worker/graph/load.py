"""A user's graph → a workflow that the worker can execute."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
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

from runengine_server.worker.graph.due import due_nodes
from runengine_server.worker.graph.namespaces import namespace_path
from runengine_server.worker.graph.recorded_node import RecordedNode
from runengine_server.worker.graph.storing_node import store_writes, untracked_channels
from runengine_server.worker.graph.time_limit import TimeLimit

AnyGraph = StateGraph[Any, Any, Any, Any] | Pregel[Any, Any, Any, Any]

# The name of a graph that was compiled without one.
_UNNAMED = "LangGraph"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Workflow:
    """A user's graph, compiled, each node recorded as a step; `timeout_seconds` is that of a run, and
    `waiting_timeout_seconds` how long it may wait for somebody at a time. `subgraphs`
    has the graphs that are nodes of it, or of one another, by their names, as in "outer|inner";
    `callable_graphs` also those that the function of a node refers to, and may call.
    """

    name: str
    graph: Pregel[Any, Any, Any, Any]
    retry_policies: dict[str, Sequence[RetryPolicy]]
    timeout_seconds: float | None
    waiting_timeout_seconds: float | None
    subgraphs: dict[str, Pregel[Any, Any, Any, Any]]
    callable_graphs: dict[str, list[Pregel[Any, Any, Any, Any]]]

    def graphs_of(self, namespace: str) -> list[Pregel[Any, Any, Any, Any]]:
        """The graph whose checkpoints have that namespace, or the graphs among which it is; none where it is
        unknown, because a function makes it.
        """
        graph = self.graph_of(namespace)
        return self.callable_graphs.get(namespace_path(namespace), []) if graph is None else [graph]

    def graph_of(self, namespace: str) -> Pregel[Any, Any, Any, Any] | None:
        """The graph whose checkpoints have that namespace; None of one that a node calls by itself."""
        return self.subgraphs.get(namespace_path(namespace)) if namespace else self.graph

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
    """The graph compiled, with a RecordedNode around each node's own runnable; a graph that is compiled
    already stays as it is, and a copy of it is the workflow's.

    The node's CachePolicy moves into the RecordedNode, because LangGraph does not tell for which task it has
    used its cache; RetryPolicy and timeout stay where they are.
    Raises ValueError for a `timeout_seconds` or `waiting_timeout_seconds` that is no positive number.
    """
    compiled = graph.compile(name=name) if isinstance(graph, StateGraph) else _own_copy(name, graph)
    subgraphs = _subgraphs(compiled)
    callable_graphs = _callable_graphs(compiled)
    retry_policies: dict[str, Sequence[RetryPolicy]] = {}
    untracked = untracked_channels(compiled)
    for step_id, node in compiled.nodes.items():
        if step_id == START:
            continue
        policies = node.retry_policy or compiled.retry_policy or ()
        retry_policies[step_id] = (policies,) if isinstance(policies, RetryPolicy) else tuple(policies)
        skill_id = str((node.metadata or {}).get("skill_id", step_id))
        cache_policy = node.cache_policy or compiled.cache_policy
        policies = retry_policies[step_id]
        node.bound = RecordedNode(step_id, skill_id, node.bound, policies, cache_policy, untracked)
        node.cache_policy = None
    compiled.cache_policy = None
    _limit(compiled, timeouts.step)
    for each in chain.from_iterable(callable_graphs.values()):
        # A graph within another has, as a whole, the limit of the node that it is in.
        _limit(each, None)
    builder = getattr(compiled, "builder", None)
    # Of an @entrypoint, which has none, the tasks are steps too.
    store_writes(compiled, is_top=True, records_tasks=builder is None)
    for each in chain.from_iterable(callable_graphs.values()):
        store_writes(each)
    metadata = getattr(graph, "metadata", None) or getattr(builder, "metadata", None)
    of_run = _timeout(metadata, timeouts.run)
    waiting = _timeout(metadata, None, "waiting_timeout_seconds")
    return Workflow(name, compiled, retry_policies, of_run, waiting, subgraphs, callable_graphs)


def _own_copy(name: str, graph: Pregel[Any, Any, Any, Any]) -> Pregel[Any, Any, Any, Any]:
    """A copy that shares no node and no channel with the user's own object. It is not compiled anew from its
    builder, which may have got further nodes since, and cannot be compiled twice when it has a default error
    handler (ValueError in langgraph 1.2.24).

    The engine keeps the checkpoints. A cache of the graph's own would be used for all tenants alike; nodes
    with a CachePolicy use the engine's.
    """
    own = copy.copy(graph)
    own.nodes = {step_id: node.copy({}) for step_id, node in graph.nodes.items()}
    own.channels = dict(graph.channels)
    if own.name == _UNNAMED:
        own.name = name
    for role in ("checkpointer", "cache"):
        if (theirs := getattr(graph, role)) is not None:
            setattr(own, role, None)
            _log.info(f"the engine's {role} is used", workflow=name, instead_of=type(theirs).__name__)
    return own


def _limit(graph: Pregel[Any, Any, Any, Any], default: float | None) -> None:
    """Gives each node without a timeout the `timeout_seconds` of its metadata, or else the default: together
    with its edges; also error handlers, and the edges that lead into the graph.
    """
    for name, node in graph.nodes.items():
        # compile() has read the cached property `node` of a PregelNode with a timeout, which would keep
        # the node as it was.
        vars(node).pop("node", None)
        seconds: float | timedelta | None
        if node.timeout is None:
            seconds = _timeout(node.metadata, default)
        else:
            seconds = node.timeout.run_timeout if node.is_error_handler else None
        if isinstance(seconds, float) and node.node is not None:
            vars(node)["node"] = TimeLimit(name, node.node, seconds)


def _timeout(
    metadata: Mapping[str, Any] | None, default: float | None, key: str = "timeout_seconds"
) -> float | None:
    seconds = (metadata or {}).get(key, default)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"{key} must be a positive number of seconds, not {seconds!r}")
    return float(seconds)
