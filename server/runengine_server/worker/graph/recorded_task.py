"""A task of an `@entrypoint`, recorded as a step each time it is executed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import run_in_executor
from langgraph._internal._constants import CONFIG_KEY_CHECKPOINT_NS, CONFIG_KEY_TASK_ID
from langgraph._internal._runnable import RunnableCallable, is_async_callable
from langgraph.config import get_config
from langgraph.errors import ParentCommand
from langgraph.types import CachePolicy, RetryPolicy

from runengine_server.worker.graph.execution import EXECUTION, Execution
from runengine_server.worker.graph.failures import WorkflowError
from runengine_server.worker.graph.recorded_node import Begun, RecordedNode


class RecordedTask(RecordedNode):
    """A RecordedNode whose input is what the task is called with: (arguments, named arguments)."""

    async def _begin(self, input: Any, config: RunnableConfig) -> Begun:  # noqa: A002
        configurable = config["configurable"]
        execution: Execution = configurable[EXECUTION]
        execution.begin_task(UUID(configurable[CONFIG_KEY_TASK_ID]), configurable[CONFIG_KEY_CHECKPOINT_NS])
        return await super()._begin(input, config)

    def _shown(self, input: Any) -> Any:  # noqa: A002
        arguments, named = input
        return {"args": arguments, "kwargs": named}

    def _call(self, input: Any, config: RunnableConfig, **kwargs: Any) -> Any:  # noqa: A002
        with self._without_commands():
            return super()._call(input, config, **kwargs)

    async def _acall(self, input: Any, config: RunnableConfig, **kwargs: Any) -> Any:  # noqa: A002
        with self._without_commands():
            return await super()._acall(input, config, **kwargs)

    @contextlib.contextmanager
    def _without_commands(self) -> Iterator[None]:
        try:
            yield
        except ParentCommand:
            # An @entrypoint has no nodes to which it could lead.
            words = f"A graph that {self.name!r} calls returned a Command to the graph above."
            raise WorkflowError(words) from None

    def _key_of(self, policy: CachePolicy[Any], input: Any) -> str | bytes:  # noqa: A002
        arguments, named = input
        key: str | bytes = policy.key_func(*arguments, **named)
        return key


def recorded(
    function: Callable[..., Any],
    retry_policy: Sequence[RetryPolicy] | RetryPolicy | None,
    cache_policy: CachePolicy[Any] | None,
    *,
    is_async: bool,
) -> Callable[..., Any]:
    """What LangGraph calls in place of the function of a task; `is_async` tells how its entrypoint is
    called.
    """
    name = getattr(function, "__name__", type(function).__name__)
    node = RecordedTask(name, name, _runnable(function, name), _all(retry_policy), cache_policy)

    async def execute(*arguments: Any, **named: Any) -> Any:
        return await node.ainvoke((arguments, named), get_config())

    def execute_on_thread(*arguments: Any, **named: Any) -> Any:
        return node.invoke((arguments, named), get_config())

    # LangGraph names the task after it.
    execute.__name__ = execute_on_thread.__name__ = name
    return execute if is_async else execute_on_thread


def _all(policies: Sequence[RetryPolicy] | RetryPolicy | None) -> Sequence[RetryPolicy]:
    return (policies,) if isinstance(policies, RetryPolicy) else tuple(policies or ())


def _runnable(function: Callable[..., Any], name: str) -> RunnableCallable:
    """As LangGraph makes it of a task, which gives the function what its parameters ask for."""
    if is_async_callable(function):
        return RunnableCallable(None, function, explode_args=True, name=name, trace=False, recurse=False)
    # The parameters of the function, for RunnableCallable.
    on_thread = functools.wraps(function)(functools.partial(run_in_executor, None, function))
    return RunnableCallable(function, on_thread, explode_args=True, name=name, trace=False, recurse=False)
