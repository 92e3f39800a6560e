"""A compiled graph whose nodes are recorded as steps, in place of the one that a user has made."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._config import _CHECKPOINT_COORDINATE_KEYS as _OWN  # type: ignore[attr-defined]
from langgraph.graph import START
from langgraph.pregel import Pregel
from langgraph.pregel._read import PregelNode
from langgraph.types import RetryPolicy

from runengine_server.worker.graph.ending_node import EndingNode
from runengine_server.worker.graph.execution import EXECUTION, AnyPregel, Execution
from runengine_server.worker.graph.recorded_node import RecordedNode
from runengine_server.worker.graph.steps import STEP
from runengine_server.worker.graph.storing_node import store_writes, untracked_channels
from runengine_server.worker.graph.time_limit import TimeLimit

stream_of_langgraph, astream_of_langgraph = Pregel.stream, Pregel.astream


def recorded_copy(
    graph: AnyPregel, step_seconds: float | None, *, is_top: bool = False
) -> tuple[AnyPregel, dict[str, Sequence[RetryPolicy]]]:
    """A copy that shares no node and no channel with the user's own object, with a RecordedNode around each
    node's own runnable, and the retry policies of each. `step_seconds` is the time limit of a node that has
    none; `is_top`: there is no graph above this one. It is not compiled anew from its builder, which may have
    got further nodes since, and cannot be compiled twice when it has a default error handler (ValueError in
    langgraph 1.2.24).

    The node's CachePolicy moves into the RecordedNode, because LangGraph does not tell for which task it has
    used its cache; RetryPolicy and timeout stay where they are.
    Raises ValueError for a `timeout_seconds` that is no positive number.
    """
    own = copy.copy(graph)
    own.nodes = {name: node.copy({}) for name, node in graph.nodes.items()}
    own.channels = dict(graph.channels)
    untracked = untracked_channels(graph)
    policies: dict[str, Sequence[RetryPolicy]] = {}
    for name, node in own.nodes.items():
        if name != START:
            policies[name] = _record(name, node, own, untracked)
    own.cache_policy = None
    _limit(own, step_seconds)
    # Of an @entrypoint, which has no builder, the tasks are steps too.
    store_writes(own, is_top=is_top, records_tasks=getattr(own, "builder", None) is None)
    if graph.checkpointer is False and not is_top:
        for name, node in own.nodes.items():
            if name != START and node.node is not None:
                vars(node)["node"] = EndingNode(node.node)
    return own, policies


def _record(
    name: str, node: PregelNode, graph: AnyPregel, untracked: frozenset[str]
) -> Sequence[RetryPolicy]:
    policies = node.retry_policy or graph.retry_policy or ()
    policies = (policies,) if isinstance(policies, RetryPolicy) else tuple(policies)
    skill_id = str((node.metadata or {}).get("skill_id", name))
    cache_policy = node.cache_policy or graph.cache_policy
    node.bound = RecordedNode(name, skill_id, node.bound, policies, cache_policy, untracked)
    node.cache_policy = None
    return policies


def _limit(graph: AnyPregel, default: float | None) -> None:
    """Gives each node without a timeout the `timeout_seconds` of its metadata, or else the default: together
    with its edges; also error handlers, and the edges that lead into the graph.
    """
    for name, node in graph.nodes.items():
        seconds: float | timedelta | None
        if node.timeout is None:
            seconds = timeout_of(node.metadata, default)
        else:
            seconds = node.timeout.run_timeout if node.is_error_handler else None
        if isinstance(seconds, float) and node.node is not None:
            vars(node)["node"] = TimeLimit(name, node.node, seconds)


def timeout_of(
    metadata: Mapping[str, Any] | None, default: float | None, key: str = "timeout_seconds"
) -> float | None:
    """The limit in seconds that the metadata has under `key`, or else the default. Raises ValueError."""
    seconds = (metadata or {}).get(key, default)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"{key} must be a positive number of seconds, not {seconds!r}")
    return float(seconds)


class RecordedWithin:
    """The graphs that the nodes of a workflow are, or call, each with its nodes recorded. `step_seconds` is
    as in recorded_copy; `known` are made once, any other, which a node may have made for this call, each
    time.
    """

    def __init__(self, step_seconds: float | None, known: Iterable[AnyPregel]) -> None:
        """Raises ValueError for a `timeout_seconds` that is none."""
        self._step_seconds = step_seconds
        self._known = {graph: recorded_copy(graph, step_seconds)[0] for graph in known}

    def __call__(self, graph: AnyPregel) -> AnyPregel:
        """Such a graph in place of `graph`."""
        return self._known.get(graph) or recorded_copy(graph, self._step_seconds)[0]


def _execution_around(graph: AnyPregel, config: RunnableConfig | None) -> Execution | None:
    """The execution of the run whose node calls the graph with that config; None where it is called
    elsewhere, or with a thread of its own, which makes it a graph of its own.
    """
    given = (config or {}).get("configurable") or {}
    around = given if STEP in given else (var_child_runnable_config.get() or {}).get("configurable") or {}
    if around.get(STEP) is None:
        return None
    bound = (graph.config or {}).get("configurable") or {}
    if STEP not in given and any(each.get(key) for each in (given, bound) for key in _OWN):
        return None
    return around[EXECUTION]  # type: ignore[no-any-return]


def _recorded(
    graph: AnyPregel, config: RunnableConfig | None, *, is_async: bool
) -> tuple[AnyPregel, RunnableConfig | None]:
    """What is executed in place of the graph, and with which config. Recording is done in the run's event
    loop. What cannot wait for that, a sync graph in the loop's own thread and an async one in another loop,
    is executed as part of the step that calls it, with all that is within it.
    """
    if (execution := _execution_around(graph, config)) is None:
        return graph, config
    if execution.is_on_own_thread is not is_async:
        given = (config or {}).get("configurable") or {}
        config = {**(config or {}), "configurable": {**given, STEP: None}}
    return execution.record_within(graph), config


@functools.wraps(stream_of_langgraph)
def _stream(graph: AnyPregel, input: Any, config: RunnableConfig | None = None, **named: Any) -> Any:  # noqa: A002
    own, config = _recorded(graph, config, is_async=False)
    return stream_of_langgraph(own, input, config, **named)


@functools.wraps(astream_of_langgraph)
def _astream(graph: AnyPregel, input: Any, config: RunnableConfig | None = None, **named: Any) -> Any:  # noqa: A002
    own, config = _recorded(graph, config, is_async=True)
    return astream_of_langgraph(own, input, config, **named)


def install() -> None:
    """Replaces Pregel.stream and Pregel.astream, which all other ways to execute a graph call (langgraph
    1.2.22), for every graph of this process: of a graph that a node makes and calls by itself nothing else
    tells before it is executed.
    """
    Pregel.stream = _stream  # type: ignore[assignment, method-assign]
    Pregel.astream = _astream  # type: ignore[assignment, method-assign]
