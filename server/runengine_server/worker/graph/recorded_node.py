"""A node of a user's graph, recorded as a step each time it is executed.

Wrapping the node is the one place that sees everything: LangGraph's streams show no retries, and its
own attempt counter restarts at 1 when a graph resumes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import structlog
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._constants import (
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_STREAM,
    CONFIG_KEY_TASK_ID,
)
from langgraph.errors import GraphBubbleUp, GraphInterrupt, ParentCommand
from langgraph.pregel._algo import LazyAtomicCounter
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, RetryPolicy
from runengine.context import RunContext

from runengine_server.domain.errors import LeaseEnded
from runengine_server.metrics import STEPS
from runengine_server.tracing import StepSpan
from runengine_server.worker.graph.execution import EXECUTION, Execution, ExecutionStopped
from runengine_server.worker.graph.failures import matches, raise_contained
from runengine_server.worker.graph.fingerprint import fingerprint
from runengine_server.worker.graph.log_fields import CONFIG_OF_NODE
from runengine_server.worker.graph.step_context import context_of_step
from runengine_server.worker.graph.step_data import input_of_step
from runengine_server.worker.graph.step_progress import PROGRESS, SILENT_STREAM, StepProgress, telling
from runengine_server.worker.graph.steps import STEP, BegunStep, is_part_of_another, step_of_config
from runengine_server.worker.graph.stored_values import SERIALISER, as_stored

_log = structlog.get_logger()


@dataclass(slots=True)
class Begun:
    """An execution of a node that is recorded: with which config it is executed, which execution of its task
    LangGraph counts, and what the cache has of it.
    """

    execution: Execution
    step: BegunStep
    task_id: UUID
    config: RunnableConfig
    executions: int
    cache_key: bytes | None
    cached: tuple[str, bytes] | None
    key_error: Exception | None

    def check(self) -> None:
        """Raises what keeps the node from being entered."""
        if self.key_error is not None:
            raise self.key_error
        self.execution.check_lease()


class RecordedNode(Runnable[Any, Any]):
    """Executes `bound` as it is, and records when it begins, fails, or is skipped because the cache has its
    result. Its completion is recorded with the node's writes, by FencedCheckpointer.
    """

    def __init__(
        self,
        name: str,
        skill_id: str,
        bound: Runnable[Any, Any],
        retry_policies: Sequence[RetryPolicy],
        cache_policy: CachePolicy[Any] | None,
        untracked: frozenset[str] = frozenset(),
    ) -> None:
        self.name = self._step = name
        self.skill_id = skill_id
        self.bound = bound
        self.retry_policies = retry_policies
        self.cache_policy = cache_policy
        self.untracked = untracked
        self._code = fingerprint(bound) if cache_policy else b""

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """As ainvoke, for a graph that a sync node or a tool calls."""
        assert config is not None
        if is_part_of_another(config):
            return self.bound.invoke(input, config, **kwargs)
        execution: Execution = config["configurable"][EXECUTION]
        begun = execution.wait_for(self._begin(input, config))
        if begun.cached is not None:
            return SERIALISER.loads_typed(begun.cached)
        try:
            begun.check()
            with telling(begun.config) as config, _AsCurrent(config, begun.step, self.skill_id):
                result = self._call(input, config, **kwargs)
        except BaseException as error:
            execution.wait_for(self._end_badly(begun, error))
            raise
        finally:
            begun.step.is_over = True
        return execution.wait_for(self._end_well(begun, result))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """One execution of the step. Raises what the node raises, and ExecutionStopped."""
        assert config is not None
        if is_part_of_another(config):
            return await self.bound.ainvoke(input, config, **kwargs)
        begun = await self._begin(input, config)
        if begun.cached is not None:
            return SERIALISER.loads_typed(begun.cached)
        try:
            begun.check()
            with telling(begun.config) as config, _AsCurrent(config, begun.step, self.skill_id):
                result = await self._acall(input, config, **kwargs)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            await self._end_badly(begun, error)
            raise
        finally:
            begun.step.is_over = True
        return await self._end_well(begun, result)

    def _call(self, input: Any, config: RunnableConfig, **kwargs: Any) -> Any:  # noqa: A002
        return self.bound.invoke(input, config, **kwargs)

    def _acall(self, input: Any, config: RunnableConfig, **kwargs: Any) -> Awaitable[Any]:  # noqa: A002
        return self.bound.ainvoke(input, config, **kwargs)

    async def _begin(self, input: Any, config: RunnableConfig) -> Begun:  # noqa: A002
        execution: Execution = config["configurable"][EXECUTION]
        step = step_of_config(config, self._step, self.retry_policies)
        cache_key, key_error = self._cache_key(input)
        task_id = step.id if step.parent is None else UUID(config["configurable"][CONFIG_KEY_TASK_ID])
        # Before the node is executed, which may change its input.
        shown = input_of_step(self._shown(input), self.untracked, execution.step_data_bytes)
        cached = await execution.begin_step(task_id, step, self.skill_id, cache_key, shown)
        if cached is not None:
            STEPS.labels(execution.run.workflow_name, "cached").inc()
            step.returned = step.is_over = True
        own, executions = _config_of_step(config, execution, step)
        return Begun(execution, step, task_id, own, executions, cache_key, cached, key_error)

    async def _end_badly(self, begun: Begun, error: BaseException) -> None:
        """Records that the node has raised, unless that is no failure of its own."""
        execution, step = begun.execution, begun.step
        if isinstance(error, ExecutionStopped):
            # Of a sync node: it had to wait for its thread until the lease was over.
            if not step.is_abandoned:
                execution.stop(LeaseEnded())
        elif isinstance(error, GraphInterrupt):
            if step.parent is None:
                execution.gates.stop(begun.config["configurable"][CONFIG_KEY_CHECKPOINT_NS])
            execution.leave_step(begun.task_id)
        elif isinstance(error, ParentCommand):
            step.returned = True
        elif isinstance(error, Exception) and not isinstance(error, GraphBubbleUp):
            await self._fail(begun, error)

    async def _fail(self, begun: Begun, error: Exception) -> None:
        policy = next((policy for policy in self.retry_policies if matches(policy, error)), None)
        again = policy is not None and begun.executions < policy.max_attempts
        await begun.execution.discard_rejected_writes(error)
        await begun.execution.fail_step(begun.step, error, again=again)

    async def _end_well(self, begun: Begun, result: Any) -> Any:
        if begun.cache_key:
            result = await self._save_cached(begun, begun.cache_key, result)
        STEPS.labels(begun.execution.run.workflow_name, "returned").inc()
        begun.step.returned = True
        if (joint := begun.execution.joint_return(begun.step)) is not None:
            await joint
        return result

    def _cache_key(self, input: Any) -> tuple[bytes | None, Exception | None]:  # noqa: A002
        """The key, or what its function raised, which is an error of the node."""
        if self.cache_policy is None:
            return None, None
        try:
            key = self._key_of(self.cache_policy, input)
            return hashlib.sha256(self._code + (key.encode() if isinstance(key, str) else key)).digest(), None
        except Exception as error:
            return None, error

    def _shown(self, input: Any) -> Any:  # noqa: A002
        return input

    def _key_of(self, policy: CachePolicy[Any], input: Any) -> str | bytes:  # noqa: A002
        return policy.key_func(input)  # type: ignore[no-any-return]

    async def _save_cached(self, begun: Begun, key: bytes, result: Any) -> Any:
        """Puts the result into the cache, and returns it as it will come back; unchanged where it cannot be
        cached.
        """
        assert self.cache_policy is not None
        try:
            result = as_stored(result)
            type_, value = SERIALISER.dumps_typed(result)
        except Exception as error:
            _log.warning("result cannot be cached", step=begun.step.name, error=type(error).__name__)
            return result
        save = begun.execution.held.save_cached(begun.step.name, key, type_, value, self.cache_policy.ttl)
        await begun.execution.fenced(save)
        return result


class _AsCurrent:
    """While the node is executed. A graph that it calls takes its context from this variable, in which
    LangGraph has put the config that it made before ours.
    """

    __slots__ = ("_config", "_skill_id", "_span", "_step", "_token")

    def __init__(self, config: RunnableConfig, step: BegunStep, skill_id: str) -> None:
        self._config, self._step, self._skill_id = config, step, skill_id

    def __enter__(self) -> None:
        self._token = var_child_runnable_config.set(self._config)
        CONFIG_OF_NODE.set(self._config)
        self._span = StepSpan(self._step.name, self._skill_id, self._step.attempt)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with contextlib.suppress(ValueError):  # an abandoned one is closed in another context
            var_child_runnable_config.reset(self._token)
        is_failure = isinstance(error, Exception) and not isinstance(error, GraphBubbleUp)
        self._span.end(type(error).__name__ if is_failure else None)
        if error is not None:
            raise_contained(error)


def _config_of_step(
    config: RunnableConfig, execution: Execution, step: BegunStep
) -> tuple[RunnableConfig, int]:
    """The config with which the node is executed, and which execution of the task LangGraph counts."""
    configurable = config["configurable"]
    runtime: Runtime[Any] = configurable[CONFIG_KEY_RUNTIME]
    assert runtime.execution_info is not None
    executions = runtime.execution_info.node_attempt
    changes: dict[str, Any] = {}
    if isinstance(runtime.context, RunContext):
        changes["context"] = context_of_step(execution, step, configurable[CONFIG_KEY_TASK_ID])
    ours: dict[str, Any] = {STEP: step}
    if executions > 1:
        # LangGraph counts the graphs that a task calls over all its executions, so that the first of the
        # second execution would not find the checkpoints of the first.
        scratchpad = configurable[CONFIG_KEY_SCRATCHPAD]
        ours[CONFIG_KEY_SCRATCHPAD] = replace(scratchpad, subgraph_counter=LazyAtomicCounter())
    if step.parent is None:
        # What is called within it tells as part of it, unless who calls it has a stream of his own.
        progress = StepProgress(execution.progress, step.id)
        changes["stream_writer"] = progress.write
        ours |= {CONFIG_KEY_STREAM: SILENT_STREAM, PROGRESS: progress}
    ours[CONFIG_KEY_RUNTIME] = runtime.override(**changes)
    return {**config, "configurable": {**configurable, **ours}}, executions
