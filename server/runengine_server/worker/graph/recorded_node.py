"""A node of a user's graph, recorded as a step each time it executes.

Wrapping the node is the one place that sees everything: LangGraph's streams show no retries, and its
own attempt counter restarts at 1 when a graph resumes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn, TypeVar
from uuid import UUID

import structlog
import uuid_utils.compat
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._constants import CONFIG_KEY_RUNTIME, CONFIG_KEY_SCRATCHPAD, CONFIG_KEY_TASK_ID
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.pregel._algo import LazyAtomicCounter
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, RetryPolicy
from runengine.context import RunContext

from runengine_server.domain.errors import Fenced, LeaseEnded, StatementRefused, Unavailable
from runengine_server.domain.run import Artifact
from runengine_server.domain.struct import to_dict
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.settings import DEFAULT_MAX_STATE_BYTES
from runengine_server.worker.graph.failures import WorkflowError, describe, is_retryable, matches, step_code
from runengine_server.worker.graph.fingerprint import fingerprint
from runengine_server.worker.graph.idempotency_key import idempotency_key
from runengine_server.worker.graph.stored_values import SERIALISER, as_stored

# Where our own part of a node's config is; `__` keeps it out of the metadata of checkpoints.
EXECUTION = "__runengine_execution"

_log = structlog.get_logger()

# LangGraph looks at every task of a superstep once for each time that some have ended, which takes it about
# a microsecond each (langgraph 1.2.22, pregel/_runner.py: asyncio.wait over all futures). Where there are
# many, those that end at about the same time end at once, so that this takes a fifth of the time at most.
_MANY, _SECONDS_A_TASK = 200, 5e-6

Answer = TypeVar("Answer")


class ArtifactNotStored(Exception):
    """The artifact store refused; its own words, with paths in them, are in the log alone."""


class NodeExited(Exception):
    """A node raised what is no Exception: it called sys.exit(), say."""


class Lost(GraphBubbleUp):
    """The run cannot go on here. No fault of the node: neither its retry policy nor an error handler of
    the graph has anything to do with it, and that is what LangGraph lets a GraphBubbleUp be.
    """


async def _takes_nothing_back(error: BaseException) -> None: ...


@dataclass(slots=True)
class Execution:
    """One worker's execution of one run: what its nodes and its checkpointer share.

    `begun` has name and number of the latest execution of each task, 0 until it is recorded;
    `failed` those executions whose failure is recorded;
    `under_way` the tasks of the superstep whose node has been entered, and not left for good;
    `failures` the errors that no handler of the graph took, with the node each came from;
    `interrupted_by` the node that asked for input, which no run can get; `lost` why the run cannot go
    on here, after which `stop` was called; `holds` whether the lease is still known to be the worker's;
    `take_back` forgets the writes that a channel did not take, where that made a graph fail with the error.
    """

    held: HeldRunRepository
    artifacts: ArtifactStore
    max_state_bytes: int = DEFAULT_MAX_STATE_BYTES
    begun: dict[UUID, tuple[str, int]] = field(default_factory=dict)
    failed: set[tuple[UUID, int]] = field(default_factory=set)
    under_way: set[UUID] = field(default_factory=set)
    failures: list[tuple[BaseException, str]] = field(default_factory=list)
    asked: WorkflowError | None = None
    lost: Exception | None = None
    holds: Callable[[], bool] = lambda: True
    stop: Callable[[], object] = lambda: None
    take_back: Callable[[BaseException], Awaitable[None]] = _takes_nothing_back
    _ending: asyncio.Event | None = None

    async def end_together(self) -> None:
        """Returns with the other tasks of a large superstep whose node ends about now: for 12,000 of them
        that is 60 ms later at most.
        """
        if len(self.under_way) < _MANY:
            return
        if self._ending is None:
            self._ending = asyncio.Event()
            asyncio.get_running_loop().call_later(len(self.under_way) * _SECONDS_A_TASK, self._end)
        await self._ending.wait()

    def _end(self) -> None:
        if self._ending is not None:
            self._ending.set()
            self._ending = None

    async def engine(self, write: Awaitable[Answer]) -> Answer:
        """The answer of a statement of the engine's own. When it shows that the run cannot go on here,
        the whole graph is stopped, and Lost is raised.
        """
        try:
            return await write
        except (Fenced, Unavailable, StatementRefused) as error:
            self.end_here(error)
            raise Lost from error

    def enter(self) -> None:
        """Raises Lost when the lease has ended, by the worker's own clock, since it was last renewed: the
        process was stopped, say, while it heard that the step begins, and a successor may have completed it.
        """
        if not self.holds():
            self.end_here(LeaseEnded())
            raise Lost from self.lost

    def end_here(self, error: Exception) -> None:
        """Stops the whole graph: the run cannot go on here."""
        self.lost = self.lost or error
        self.stop()

    def step_of_failure(self, error: BaseException) -> str | None:
        """The node that raised `error`."""
        return next((name for each, name in self.failures if each is error), None)

    def context_of_step(self, task_id: UUID, attempt: int) -> RunContext:
        """What that execution of a node may ask of the engine."""
        run = self.held.run

        async def save_artifact(name: str, data: bytes, media_type: str) -> str:
            return await self._save_artifact(task_id, attempt, name, data, media_type)

        return RunContext(
            run_id=run.id,
            tenant_id=run.tenant_id,
            campaign_id=run.campaign_id,
            attempt=run.attempt,
            _context=lambda: None if run.context is None else to_dict(run.context),
            _idempotency_key=partial(idempotency_key, run.id, task_id),
            _save_artifact=save_artifact,
        )

    async def _save_artifact(
        self, task_id: UUID, attempt: int, name: str, data: bytes, media_type: str
    ) -> str:
        for word in (name, media_type):
            if not 0 < len(word) <= 255 or not word.isprintable():
                raise ValueError("An artifact's name and media type are 1 to 255 printable characters.")
        if "/" in name:
            raise ValueError("The name of an artifact has no slash.")
        run = self.held.run
        artifact_id = uuid_utils.compat.uuid7()
        key = self.artifacts.key(run.tenant_id, run.id, artifact_id)
        try:
            await self.artifacts.put(key, data)
        except Exception as error:
            _log.error("artifact not stored", run_id=str(run.id), exc_info=error)
            raise ArtifactNotStored("The artifact could not be stored.") from None
        artifact = Artifact(id=artifact_id, name=name, media_type=media_type, size=len(data), key=key)
        try:
            await self.engine(self.held.save_artifact(artifact, task_id, attempt))
        except Lost as lost:
            # Not for Unavailable: the row may have been committed, and only the answer lost.
            if isinstance(lost.__cause__, Fenced | StatementRefused):
                with contextlib.suppress(Exception):
                    await self.artifacts.delete(key)
            raise
        return str(artifact_id)


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
        self._code = fingerprint(bound) if cache_policy else b""

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> NoReturn:  # noqa: A002
        """The engine executes graphs asynchronously; LangGraph puts sync nodes on threads."""
        raise NotImplementedError

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """One execution of the step. Raises what the node raises, and Lost."""
        assert config is not None
        execution: Execution = config["configurable"][EXECUTION]
        runtime: Runtime[Any] = config["configurable"][CONFIG_KEY_RUNTIME]
        assert runtime.execution_info is not None
        executions = runtime.execution_info.node_attempt
        # Not execution_info.task_id: for an error handler that is the task whose error it handles.
        task_id = UUID(config["configurable"][CONFIG_KEY_TASK_ID])

        # Its time may run out while the database is asked to begin it: even then it is this step that did.
        execution.begun[task_id] = (self.step_id, 0)
        execution.under_way.add(task_id)
        key, flaw = self._cache_key(input)
        cached = await execution.engine(execution.held.get_cached(self.step_id, key)) if key else None
        attempt = await execution.engine(
            execution.held.begin_step(task_id, self.step_id, self.skill_id, cached is not None)
        )
        execution.begun[task_id] = (self.step_id, attempt)
        if cached is not None:
            return SERIALISER.loads_typed(cached)

        if isinstance(runtime.context, RunContext):
            runtime = runtime.override(context=execution.context_of_step(task_id, attempt))
        # LangGraph counts the graphs that a task calls over all its executions, so that the first of the
        # second execution would not find the checkpoints of the first.
        scratchpad = replace(
            config["configurable"][CONFIG_KEY_SCRATCHPAD], subgraph_counter=LazyAtomicCounter()
        )
        given = {CONFIG_KEY_RUNTIME: runtime, CONFIG_KEY_SCRATCHPAD: scratchpad}
        config = {**config, "configurable": {**config["configurable"], **given}}
        try:
            if flaw is not None:
                raise flaw
            execution.enter()
            result = await self._bound(input, config, **kwargs)
        except Lost:
            # Its thread had to wait until the lease was over.
            execution.end_here(LeaseEnded())
            raise
        except GraphInterrupt:
            asked = WorkflowError(f"{self.step_id} asked for input, which a run cannot get")
            execution.asked = asked
            execution.failures.append((asked, self.step_id))
            await execution.engine(
                execution.held.fail_step(task_id, attempt, "STEP_FAILED", describe(asked), False, False)
            )
            raise
        except GraphBubbleUp:
            raise
        except Exception as error:
            await self._fail(execution, task_id, attempt, error, executions)
            raise
        if key:
            result = await self._cached(execution, key, result)
        await execution.end_together()
        return result

    async def _bound(self, input: Any, config: RunnableConfig, **kwargs: Any) -> Any:  # noqa: A002
        # From which a graph that the node calls takes its context. LangGraph has set the one before ours.
        before = var_child_runnable_config.set(config)
        try:
            return await self.bound.ainvoke(input, config, **kwargs)
        except (Exception, asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            # sys.exit() in a node would end the worker, and all the runs on it.
            raise NodeExited(describe(error)) from None
        finally:
            with contextlib.suppress(ValueError):  # one that was left behind is closed in another context
                var_child_runnable_config.reset(before)

    async def _fail(
        self, execution: Execution, task_id: UUID, attempt: int, error: Exception, executions: int
    ) -> None:
        policy = next((policy for policy in self.retry_policies if matches(policy, error)), None)
        again = policy is not None and executions < policy.max_attempts
        await execution.take_back(error)
        retryable = is_retryable(error, self.retry_policies)
        words = describe(error, execution.begun)
        await execution.engine(
            execution.held.fail_step(task_id, attempt, step_code(error), words, retryable, again)
        )
        execution.failed.add((task_id, attempt))

    def _cache_key(self, input: Any) -> tuple[bytes | None, Exception | None]:  # noqa: A002
        """The key, or what its function raised, which is an error of the node."""
        if self.cache_policy is None:
            return None, None
        try:
            key = self.cache_policy.key_func(input)
            return hashlib.sha256(self._code + (key.encode() if isinstance(key, str) else key)).digest(), None
        except Exception as error:
            return None, error

    async def _cached(self, execution: Execution, key: bytes, result: Any) -> Any:
        """Puts the result there, and returns it as it will come back; as it is where it cannot be cached."""
        assert self.cache_policy is not None
        try:
            result = as_stored(result)
            type_, value = SERIALISER.dumps_typed(result)
        except Exception as error:
            _log.warning("result cannot be cached", step=self.step_id, error=type(error).__name__)
            return result
        await execution.engine(
            execution.held.save_cached(self.step_id, key, type_, value, self.cache_policy.ttl)
        )
        return result
