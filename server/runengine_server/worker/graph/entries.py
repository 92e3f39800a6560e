"""What RUNENGINE_WORKFLOWS lists → the workflows that the worker can execute."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from langchain_core.runnables import ensure_config
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from runengine_server.settings import SettingsError
from runengine_server.worker.graph.langgraph_json import Unusable, first_line, read_langgraph_json
from runengine_server.worker.graph.load import AnyGraph, Timeouts, Workflow, compile_workflow

_log = structlog.get_logger()


async def load_workflows(
    entries: Sequence[str],
    timeouts: Timeouts,
    opened: AsyncExitStack,
    *,
    skip_unusable: bool = False,
) -> dict[str, Workflow]:
    """All workflows that `entries` name, by name. Factories are called here, once; the context managers that
    they return stay open until `opened` is closed.

    Raises SettingsError, in one line, for what cannot be imported, is no graph, does not compile, or is named
    twice. With `skip_unusable` that line is logged and the others are loaded, unless there are none.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    loaded: dict[str, Workflow] = {}

    def refuse(error: Unusable) -> None:
        if not skip_unusable:
            raise SettingsError(f"RUNENGINE_WORKFLOWS: {error}") from error
        _log.error(f"RUNENGINE_WORKFLOWS: {error}; the worker goes on without it")

    for entry in entries:
        try:
            named = list(_read(entry))
        except Unusable as error:
            refuse(error)
            continue
        for name, get in named:
            try:
                if name in loaded:
                    raise Unusable(f"the workflow {name!r} is named twice")
                graph = await _graph_of(f"{name!r} of {entry}", get(), opened)
                loaded[name] = _compile(name, graph, timeouts)
            except Unusable as error:
                refuse(error)
    if not loaded:
        raise SettingsError("RUNENGINE_WORKFLOWS: there is no workflow that can be used")
    return loaded


async def workflow_of(name: str, value: Any, opened: AsyncExitStack) -> Workflow:
    """The workflow that `value`, of a dict of workflows, is; without limits of time. `opened` is as in
    load_workflows. Raises ValueError.
    """
    try:
        return _compile(name, await _graph_of("the workflow", value, opened), Timeouts())
    except Unusable as error:
        raise ValueError(str(error)) from error


def _compile(name: str, graph: AnyGraph, timeouts: Timeouts) -> Workflow:
    try:
        return compile_workflow(name, graph, timeouts)
    except Exception as error:
        raise Unusable(f"{name!r} does not compile: {error}") from error


def _read(entry: str) -> Iterable[tuple[str, Callable[[], Any]]]:
    """The names in the entry, each with a function that returns what stands there, or raises Unusable."""
    if entry.endswith(".json"):
        return read_langgraph_json(Path(entry))
    module_name, _, attribute = entry.partition(":")
    try:
        value = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:
        raise Unusable(
            f"cannot import {entry} ({first_line(error)}); "
            "it must be installed, or lie in the current directory"
        ) from error
    if not isinstance(value, dict) or not all(isinstance(name, str) and name for name in value):
        raise Unusable(f"{entry} must be a dict from name to a graph, or to a function that returns one")
    return [(name, partial(_itself, each)) for name, each in value.items()]


def _itself(value: Any) -> Any:
    return value


async def _graph_of(where: str, value: Any, opened: AsyncExitStack) -> AnyGraph:
    """The graph that `value` is, or that it returns when it is a factory."""
    if callable(value) and not isinstance(value, StateGraph | Pregel | type):
        value = await _made_by(where, value, opened)
    if isinstance(value, StateGraph | Pregel):
        return value
    raise Unusable(
        f"{where} is a {type(value).__name__}; it must be a StateGraph, compiled or not, an @entrypoint, "
        "or a function that returns one"
    )


async def _made_by(where: str, factory: Callable[..., Any], opened: AsyncExitStack) -> Any:
    """What the factory returns, awaited where it is a coroutine, entered where it is a context manager."""
    try:
        made = factory(**_arguments_for(where, factory))
        if inspect.isawaitable(made):
            made = await made
        if isinstance(made, AbstractAsyncContextManager):
            return await opened.enter_async_context(made)
        return opened.enter_context(made) if isinstance(made, AbstractContextManager) else made
    except Unusable:
        raise
    except Exception as error:
        raise Unusable(f"{where} could not be made: its function raised {first_line(error)}") from error


def _arguments_for(where: str, factory: Callable[..., Any]) -> dict[str, Any]:
    """A RunnableConfig for a factory that takes one, as LangGraph's server gives it; with nothing in it,
    since the graph is made once, for all runs.
    """
    given: dict[str, Any] = {}
    for name, each in inspect.signature(factory).parameters.items():
        if name == "config" or "RunnableConfig" in str(each.annotation):
            given[name] = ensure_config()
        elif each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            raise Unusable(
                f"{where} is a function that takes {name!r}; "
                "one that makes a graph takes nothing, or a RunnableConfig as `config`"
            )
    return given
