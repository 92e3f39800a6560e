"""A node of a user's graph, recorded as a step each time it executes.

Wrapping the node is the one place that sees everything: LangGraph's streams show no retries, and its
own attempt counter restarts at 1 when a graph resumes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn
from uuid import UUID

import structlog
import uuid_utils.compat
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, RetryPolicy

from runengine_server.domain.errors import Fenced, Unavailable
from runengine_server.domain.run import Artifact
from runengine_server.domain.struct import to_dict
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.workflows.run_context import RunContext

# Where LangGraph keeps these two in a node's config; `__` keeps ours out of checkpoint metadata.
_RUNTIME = "__pregel_runtime"
EXECUTION = "__runengine_execution"

_MAX_MESSAGE = 2000

_log = structlog.get_logger()


@dataclass(slots=True)
class Execution:
    """One worker's execution of one run: what its nodes and its checkpointer share.

    `step_names` has the node's name of each task id begun here. `failed_step` is the node whose error
    nobody handled, `interrupted_by` the one that asked for input, which no run can get.
    """

    held: HeldRunRepository
    artifacts: ArtifactStore
    step_names: dict[UUID, str] = field(default_factory=dict)
    failed_step: str | None = None
    interrupted_by: str | None = None

    def context_of_step(self, task_id: UUID) -> RunContext:
        """What the node of that task may ask of the engine."""
        run = self.held.run
        return RunContext(
            run_id=run.id,
            tenant_id=run.tenant_id,
            campaign_id=run.campaign_id,
            context=None if run.context is None else to_dict(run.context),
            attempt=run.attempt,
            idempotency_key=f"{run.id}:{task_id}",
            _save_artifact=lambda name, data, media_type: self._save_artifact(
                task_id, name, data, media_type
            ),
        )

    async def _save_artifact(self, task_id: UUID, name: str, data: bytes, media_type: str) -> str:
        if not 0 < len(name) <= 255 or "/" in name or "\0" in name:
            raise ValueError("An artifact's name has 1 to 255 characters and no slash.")
        run = self.held.run
        artifact_id = uuid_utils.compat.uuid7()
        key = self.artifacts.key(run.tenant_id, run.id, artifact_id)
        await self.artifacts.put(key, data)
        try:
            await self.held.save_artifact(
                Artifact(id=artifact_id, name=name, media_type=media_type, size=len(data), key=key), task_id
            )
        except Fenced:
            await self.artifacts.delete(key)
            raise
        return str(artifact_id)


def is_retryable(error: BaseException, policies: Sequence[RetryPolicy]) -> bool:
    """Whether another execution may help: what the node's own policy says, else LangGraph's default,
    which takes ValueError, TypeError and their like for mistakes that will be met again.
    """
    return any(_matches(policy, error) for policy in policies or (RetryPolicy(),))


def _matches(policy: RetryPolicy, error: BaseException) -> bool:
    retry_on = policy.retry_on
    if isinstance(retry_on, type):
        return isinstance(error, retry_on)
    if isinstance(retry_on, Sequence):
        return isinstance(error, tuple(retry_on))
    return isinstance(error, Exception) and retry_on(error)


def describe(error: BaseException) -> str:
    """One line for a person, as the workflow's author worded it."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text.replace("\0", "")[:_MAX_MESSAGE]


class RecordedNode(Runnable[Any, Any]):
    """Executes `bound` as it is, and records when it starts, fails, or is answered from the cache.

    Completion is not recorded here but with the node's writes, see FencedCheckpointer.
    """

    def __init__(
        self,
        step_id: str,
        skill_id: str,
        bound: Runnable[Any, Any],
        retry_policies: Sequence[RetryPolicy],
        cache_policy: CachePolicy[Any] | None,
    ) -> None:
        self.step_id = step_id
        self.skill_id = skill_id
        self.bound = bound
        self.retry_policies = retry_policies
        self.cache_policy = cache_policy

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> NoReturn:  # noqa: A002
        """The engine executes graphs asynchronously; LangGraph puts sync nodes on threads."""
        raise NotImplementedError

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """One execution of the step. Raises what the node raises, and Fenced."""
        assert config is not None
        execution: Execution = config["configurable"][EXECUTION]
        runtime: Runtime[Any] = config["configurable"][_RUNTIME]
        info = runtime.execution_info
        assert info is not None
        task_id = UUID(info.task_id)
        execution.step_names[task_id] = self.step_id

        key = self._cache_key(input)
        cached = await execution.held.get_cached(self.step_id, key) if key else None
        await execution.held.begin_step(task_id, self.step_id, self.skill_id, cached is not None)
        if cached is not None:
            return JsonPlusSerializer().loads_typed(cached)

        if isinstance(runtime.context, RunContext):
            runtime = runtime.override(context=execution.context_of_step(task_id))
            config = {**config, "configurable": {**config["configurable"], _RUNTIME: runtime}}
        try:
            result = await self.bound.ainvoke(input, config, **kwargs)
        except (GraphBubbleUp, Fenced, Unavailable):
            raise
        except asyncio.CancelledError:
            # A sibling failed, the run was cancelled, or this node raised it by itself.
            task = asyncio.current_task()
            if task is not None and task.cancelling() == 0:
                await execution.held.fail_step(
                    task_id, "STEP_FAILED", "The node cancelled itself.", True, False
                )
            raise
        except Exception as error:
            await self._record_failure(execution, task_id, error, info.node_attempt)
            raise
        if key:
            await self._fill_cache(execution, key, result)
        return result

    async def _record_failure(
        self, execution: Execution, task_id: UUID, error: Exception, executions: int
    ) -> None:
        policy = next((policy for policy in self.retry_policies if _matches(policy, error)), None)
        again = policy is not None and executions < policy.max_attempts
        retryable = is_retryable(error, self.retry_policies)
        await execution.held.fail_step(task_id, "STEP_FAILED", describe(error), retryable, again)

    def _cache_key(self, input: Any) -> bytes | None:  # noqa: A002
        if self.cache_policy is None:
            return None
        key = self.cache_policy.key_func(input)
        return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()

    async def _fill_cache(self, execution: Execution, key: bytes, result: Any) -> None:
        assert self.cache_policy is not None
        try:
            type_, value = JsonPlusSerializer().dumps_typed(result)
        except Exception as error:
            _log.warning("result cannot be cached", step=self.step_id, error=type(error).__name__)
            return
        await execution.held.save_cached(self.step_id, key, type_, value, self.cache_policy.ttl)
