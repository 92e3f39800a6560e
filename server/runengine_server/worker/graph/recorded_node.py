"""A node of a user's graph, recorded as a step each time it is executed.

Wrapping the node is the one place that sees everything: LangGraph's streams show no retries, and its
own attempt counter restarts at 1 when a graph resumes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn
from uuid import UUID

import structlog
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._constants import (
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_TASK_ID,
)
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.pregel._algo import LazyAtomicCounter
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, RetryPolicy
from runengine.context import RunContext

from runengine_server.domain.errors import LeaseEnded
from runengine_server.worker.graph.execution import EXECUTION, Execution, ExecutionStopped
from runengine_server.worker.graph.failures import contained, is_retryable, matches
from runengine_server.worker.graph.fingerprint import fingerprint
from runengine_server.worker.graph.log_fields import CONFIG_OF_NODE
from runengine_server.worker.graph.step_context import context_of_step
from runengine_server.worker.graph.step_data import input_of_step
from runengine_server.worker.graph.stored_values import SERIALISER, as_stored

_log = structlog.get_logger()


class RecordedNode(Runnable[Any, Any]):
    """Executes `bound` as it is, and records when it begins, fails, or is skipped because the cache has its
    result. Its completion is recorded with the node's writes, by FencedCheckpointer.
    """

    def __init__(
        self,
        step_id: str,
        skill_id: str,
        bound: Runnable[Any, Any],
        retry_policies: Sequence[RetryPolicy],
        cache_policy: CachePolicy[Any] | None,
        untracked: frozenset[str] = frozenset(),
    ) -> None:
        self.step_id = step_id
        self.skill_id = skill_id
        self.bound = bound
        self.retry_policies = retry_policies
        self.cache_policy = cache_policy
        self.untracked = untracked
        self._code = fingerprint(bound) if cache_policy else b""

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> NoReturn:  # noqa: A002
        """The engine executes graphs asynchronously; LangGraph puts sync nodes on threads."""
        raise NotImplementedError

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """One execution of the step. Raises what the node raises, and ExecutionStopped."""
        assert config is not None
        execution: Execution = config["configurable"][EXECUTION]
        # Not execution_info.task_id: for an error handler that is the task whose error it handles.
        task_id = UUID(config["configurable"][CONFIG_KEY_TASK_ID])
        cache_key, key_error = self._cache_key(input)
        # Before the node is executed, which may change its input.
        shown = input_of_step(self._shown(input), self.untracked, execution.step_data_bytes)
        attempt, cached = await execution.begin_step(task_id, self.step_id, self.skill_id, cache_key, shown)
        if cached is not None:
            return SERIALISER.loads_typed(cached)

        config, executions = _config_of_step(config, execution, task_id, attempt)
        try:
            if key_error is not None:
                raise key_error
            execution.check_lease()
            result = await self._execute(input, config, **kwargs)
        except ExecutionStopped:
            # Of a sync node: it had to wait for its thread until the lease was over.
            execution.stop(LeaseEnded())
            raise
        except GraphInterrupt:
            execution.gates.stop(config["configurable"][CONFIG_KEY_CHECKPOINT_NS])
            execution.leave_step(task_id)
            raise
        except GraphBubbleUp:
            raise
        except Exception as error:
            await self._fail(execution, task_id, attempt, error, executions)
            raise
        if cache_key:
            result = await self._save_cached(execution, cache_key, result)
        await execution.return_together()
        return result

    async def _execute(self, input: Any, config: RunnableConfig, **kwargs: Any) -> Any:  # noqa: A002
        # A graph that the node calls takes its context from this variable, in which LangGraph has put the
        # config that it made before ours.
        token = var_child_runnable_config.set(config)
        CONFIG_OF_NODE.set(config)
        try:
            return await contained(self.bound.ainvoke(input, config, **kwargs))
        finally:
            with contextlib.suppress(ValueError):  # an abandoned one is closed in another context
                var_child_runnable_config.reset(token)

    async def _fail(
        self, execution: Execution, task_id: UUID, attempt: int, error: Exception, executions: int
    ) -> None:
        policy = next((policy for policy in self.retry_policies if matches(policy, error)), None)
        again = policy is not None and executions < policy.max_attempts
        await execution.discard_rejected_writes(error)
        retryable = is_retryable(error, self.retry_policies)
        await execution.fail_step(task_id, attempt, error, retryable=retryable, again=again)

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

    async def _save_cached(self, execution: Execution, key: bytes, result: Any) -> Any:
        """Puts the result into the cache, and returns it as it will come back; unchanged where it cannot be
        cached.
        """
        assert self.cache_policy is not None
        try:
            result = as_stored(result)
            type_, value = SERIALISER.dumps_typed(result)
        except Exception as error:
            _log.warning("result cannot be cached", step=self.step_id, error=type(error).__name__)
            return result
        await execution.fenced(
            execution.held.save_cached(self.step_id, key, type_, value, self.cache_policy.ttl)
        )
        return result


def _config_of_step(
    config: RunnableConfig, execution: Execution, task_id: UUID, attempt: int
) -> tuple[RunnableConfig, int]:
    """The config with which the node is executed, and which execution of the task LangGraph counts."""
    configurable = config["configurable"]
    runtime: Runtime[Any] = configurable[CONFIG_KEY_RUNTIME]
    assert runtime.execution_info is not None
    executions = runtime.execution_info.node_attempt
    if isinstance(runtime.context, RunContext):
        runtime = runtime.override(context=context_of_step(execution, task_id, attempt))
    # LangGraph counts the graphs that a task calls over all its executions, so that the first of the
    # second execution would not find the checkpoints of the first.
    scratchpad = replace(configurable[CONFIG_KEY_SCRATCHPAD], subgraph_counter=LazyAtomicCounter())
    ours = {CONFIG_KEY_RUNTIME: runtime, CONFIG_KEY_SCRATCHPAD: scratchpad}
    return {**config, "configurable": {**configurable, **ours}}, executions
