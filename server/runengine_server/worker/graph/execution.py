"""One worker's execution of one run, and the only place that knows how it goes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

import structlog
from langgraph.errors import GraphBubbleUp
from langgraph.pregel import Pregel
from langgraph.types import RetryPolicy

from runengine_server.domain.errors import Fenced, LeaseEnded, StatementRefused, Unavailable
from runengine_server.domain.run import ClaimedRun, Failure
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.settings import DEFAULT_MAX_STATE_BYTES, DEFAULT_STEP_DATA_BYTES
from runengine_server.worker.graph.causes import Causes
from runengine_server.worker.graph.channels import is_rejection, rejection_of
from runengine_server.worker.graph.failures import (
    WorkflowError,
    describe,
    is_retryable,
    noted_tasks,
    run_code,
)
from runengine_server.worker.graph.gates import Gates
from runengine_server.worker.graph.large_values import LargeValues
from runengine_server.worker.graph.namespaces import step_path
from runengine_server.worker.graph.open_writes import OpenWrites
from runengine_server.worker.graph.output import to_json
from runengine_server.worker.graph.run_log import step_failed
from runengine_server.worker.graph.step_data import StepInput
from runengine_server.worker.graph.steps import BegunStep
from runengine_server.worker.graph.time_limit import MAY_STILL_RUN
from runengine_server.worker.graph.wide_supersteps import WIDE, JointReturn
from runengine_server.worker.progress import RunProgress

# The key in a node's config under which its execution is found; `__` keeps it out of the metadata of
# checkpoints.
EXECUTION = "__runengine_execution"

# How long deferred writes may wait for the next statement. None may come for long: a superstep goes on after
# all its nodes have ended when a node has started a task and not waited for it.
FLUSH_SECONDS = 0.05

_NO_POLICIES: Mapping[str, Sequence[RetryPolicy]] = MappingProxyType({})

_log = structlog.get_logger()

AnyPregel = Pregel[Any, Any, Any, Any]
Result = TypeVar("Result")


class ExecutionStopped(GraphBubbleUp):
    """The run cannot go on in this worker: its lease was lost or has ended, the database is away or refused
    a statement, or the graph has changed. The node is not at fault, so neither its retry policy nor an error
    handler of the graph may act, which is what LangGraph ensures for a GraphBubbleUp.
    """


class Execution:
    """The state of one execution of a run. Nodes, checkpointer and processor call its methods when something
    happens; nobody else changes its state.

    `held` writes for the run, `artifacts` keeps the bytes of artifacts, `progress` tells those who watch the
    run what goes on, `open_writes` knows what tasks have written since the last checkpoint, `gates` where the
    graph stops until somebody resumes the run. `retry_policies` are those of each node of the top graph.
    `holds_lease` says whether the lease is known, by the worker's own clock, not to have ended.
    `record_within` returns a graph that is executed within a node, with its nodes recorded.
    """

    def __init__(
        self,
        held: HeldRunRepository,
        artifacts: ArtifactStore,
        progress: RunProgress,
        retry_policies: Mapping[str, Sequence[RetryPolicy]] = _NO_POLICIES,
        max_state_bytes: int = DEFAULT_MAX_STATE_BYTES,
        holds_lease: Callable[[], bool] = lambda: True,
        step_data_bytes: int = DEFAULT_STEP_DATA_BYTES,
        record_within: Callable[[AnyPregel], AnyPregel] = lambda graph: graph,
    ) -> None:
        self.held = held
        self.progress = progress
        self.artifacts = artifacts
        self.max_state_bytes = max_state_bytes
        self.step_data_bytes = step_data_bytes
        self.holds_lease = holds_lease
        self.open_writes = OpenWrites()
        self.large_inputs = LargeValues(partial(to_json, shows_unknown=True))
        self.gates = Gates(held.run.resume_values)
        self.record_within = record_within
        self._retry_policies = retry_policies
        # The latest execution of the step of each task.
        self._latest: dict[UUID, BegunStep] = {}
        self._namespaces: dict[UUID, str] = {}
        # Steps of the top graph's current superstep whose node was entered and has not been left for good.
        self._open: dict[UUID, BegunStep] = {}
        # The latest execution of each step of which a thread goes on.
        self._with_threads: dict[UUID, int] = {}
        self._causes = Causes()
        self._flush_is_due = False
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._stopped_by: Exception | None = None
        # Done once `stop` was called.
        self.stopped: asyncio.Future[None] = self._loop.create_future()
        self._joint_return = JointReturn()

    @property
    def run(self) -> ClaimedRun:
        """The run, as it was claimed."""
        return self.held.run

    # Whether the run can go on here.

    async def fenced(self, statement: Awaitable[Result]) -> Result:
        """What a statement of the engine returns. When it shows that the run cannot go on here, the whole
        graph is stopped, and ExecutionStopped is raised.
        """
        try:
            return await statement
        except (Fenced, Unavailable, StatementRefused) as error:
            self.stop(error)
            raise ExecutionStopped from error

    def check_lease(self) -> None:
        """Raises ExecutionStopped when the lease has ended by the worker's own clock. The process may have
        been suspended while it waited for the database, and a successor may have completed the step since.
        """
        if not self.holds_lease():
            self.stop(LeaseEnded())
            raise ExecutionStopped from self._stopped_by

    def stop(self, error: Exception) -> None:
        """Stops the whole graph because of `error`; the first error counts."""
        self._stopped_by = self._stopped_by or error
        self._loop.call_soon_threadsafe(self._set_stopped)  # this thread may be that of a sync node

    def _set_stopped(self) -> None:
        if not self.stopped.done():
            self.stopped.set_result(None)

    def raise_if_stopped(self) -> None:
        """Raises the error that stopped the graph, if there was one."""
        if self._stopped_by is not None:
            raise self._stopped_by

    # What is stored later.

    async def flush(self) -> None:
        """Stores what is deferred, as the next statement of the run would."""
        await self.fenced(self.held.flush())

    def flush_soon(self) -> None:
        """As flush, after FLUSH_SECONDS."""
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_later(FLUSH_SECONDS, self._begin_flush)

    def _begin_flush(self) -> None:
        async def flush() -> None:
            with suppress(ExecutionStopped):  # the graph is stopped then
                await self.flush()

        self._flush_is_due = False
        if self.held.has_deferred_writes:
            self.open_writes.add_flush(asyncio.create_task(flush()))

    # Code on other threads.

    @property
    def is_on_own_thread(self) -> bool:
        """Whether this is called on the event loop's own thread, which cannot wait for itself."""
        return threading.get_ident() == self._thread

    def wait_for(self, call: Coroutine[Any, Any, Result]) -> Result:
        """What the call returns; only for other threads."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    # Steps.

    async def begin_step(
        self,
        task_id: UUID,
        step: BegunStep,
        skill_id: str,
        cache_key: bytes | None,
        shown: StepInput | None,
    ) -> tuple[str, bytes] | None:
        """Records that an execution of a step begins, with its input; it gets its attempt. Returns (type,
        value) of its result where the cache has it under `cache_key`.
        """
        if step.is_abandoned:
            raise ExecutionStopped
        if (before := self._latest.get(task_id)) is not None:
            await self.end_within(before, well=False)  # its time was over, and nobody has told
        # The time limit may be over before the database has recorded the begin: even then it is this step's.
        self._latest[task_id] = step
        self._beside(step)[step.id] = step
        if step.id in self._with_threads:
            await self._fail_with_thread(step.id, "STEP_TIMED_OUT", "It ran into its time limit")
        cached = await self.fenced(self.held.get_cached(step.name, cache_key)) if cache_key else None
        cut = self.large_inputs.cut("", shown.encoded, shown.values) if shown else None
        step.attempt = await self.fenced(
            self.held.begin_step(step.id, step.name, skill_id, cached is not None, cut, step.parent_id)
        )
        return cached

    def _beside(self, step: BegunStep) -> dict[UUID, BegunStep]:
        """The open executions of the same graph, or of those that the same node has called."""
        return self._open if step.parent is None else step.parent.open

    def joint_return(self, step: BegunStep) -> Awaitable[None] | None:
        """Ends with the other tasks of a large superstep whose nodes end at about this time."""
        tasks = len(self._beside(step))
        return self._joint_return.wait(tasks) if tasks >= WIDE else None

    def leave_step(self, task_id: UUID, error: Any = None) -> BegunStep | None:
        """The task has written all that it will write. Returns its step, if it has begun one. Where it was
        cancelled within another step, it ends with that one.
        """
        step = self._latest.get(task_id)
        if step is not None and not (step.parent and isinstance(error, asyncio.CancelledError)):
            self._beside(step).pop(step.id, None)
        return step

    @property
    def has_open_steps(self) -> bool:
        """Whether a step of the top graph's current superstep has not been left yet."""
        return bool(self._open)

    async def complete_unsaved(self, task_id: UUID) -> None:
        """The task has ended well, of a graph that stores nothing."""
        if (step := self.leave_step(task_id)) is not None:
            await self.end_within(step, well=True)
            self.held.complete_step(step.id)
            self.flush_soon()

    async def end_within(self, step: BegunStep, *, well: bool) -> None:
        """The step has ended, well or not. What is open within it was stopped with it; but where it has
        ended well, its nodes that have returned have completed: the graph stored nothing, or was left with a
        Command to the graph above.
        """
        if not step.open:
            return
        still = list(step.within())
        step.open = {}
        for each in still:
            if well and each.returned:
                self.held.complete_step(each.id)
        stopped = [each.id for each in still if not (well and each.returned)]
        for each_id in self._with_threads.keys() & set(stopped):
            words = "It was stopped because the step that it is within ended without it"
            await self._fail_with_thread(each_id, "STEP_INTERRUPTED", words)
        if stopped:
            await self.fenced(self.held.interrupt_steps(stopped))

    def begin_task(self, task_id: UUID, namespace: str) -> None:
        """An `@task`, which has that namespace, is being executed."""
        self._namespaces[task_id] = namespace

    def namespace_of_task(self, task_id: UUID) -> str | None:
        """The namespace of an `@task`; None of other tasks, whose path tells it."""
        return self._namespaces.get(task_id)

    def step_of_task(self, task_id: UUID) -> str | None:
        """The step that the task has begun."""
        step = self._latest.get(task_id)
        return None if step is None else step.name

    def attempt_of_task(self, task_id: UUID) -> int | None:
        """The attempt of the step that the task has begun, once it is recorded."""
        step = self._latest.get(task_id)
        return None if step is None else step.attempt or None

    async def fail_step(self, step: BegunStep, error: Exception, *, again: bool) -> None:
        """Records that an execution failed with `error`; `again`: its retry policy grants another one."""
        if step.open:
            await self.open_writes.settle()
            # LangGraph's own timeout of a node, in a graph that stores nothing, is told by a note alone.
            for task_id in noted_tasks(error):
                inner = self._latest.get(task_id)
                if inner is not None and inner.id in step.open:
                    await self.record_task_error(task_id, error, handled=False)
        await self.end_within(step, well=False)
        code, message, retryable = self._causes.words_of(step, error, self.describe(error))
        await self.fenced(self.held.fail_step(step.id, step.attempt, code, message, retryable, again))
        step_failed(self.run, step, code, error, again=again)
        step.is_failed = True
        if step.parent is not None:
            # Of a graph that stores nothing nobody else tells.
            self._causes.add(error, step)
            if not again:
                step.parent.open.pop(step.id, None)

    def leave_thread(self, task_id: UUID | None) -> None:
        """A thread of the execution that the task has begun was abandoned."""
        step = None if task_id is None else self._latest.get(task_id)
        if step is not None and step.attempt:
            self._with_threads[step.id] = step.attempt

    async def fail_steps_with_threads(self) -> None:
        """The run ends: fails the steps that were stopped with it and of which a thread goes on."""
        for step_id in list(self._with_threads):
            await self._fail_with_thread(
                step_id, "STEP_INTERRUPTED", "It was stopped because the run ended without it"
            )

    async def _fail_with_thread(self, step_id: UUID, code: str, words: str) -> None:
        attempt = self._with_threads.pop(step_id)
        message = f"{words}; {MAY_STILL_RUN}."
        await self.fenced(self.held.fail_step(step_id, attempt, code, message, retryable=True, again=False))

    async def record_task_error(self, task_id: UUID, error: Any, *, handled: bool) -> None:
        """Fails the step of a task that ended with `error`, unless its node has raised and so has failed it:
        its time ran out, an edge that leads from it raised, what it returned cannot be stored, or an error
        handler of the graph takes the error (`handled`).
        """
        step = self._latest.get(task_id)
        if step is None or not isinstance(error, BaseException) or isinstance(error, asyncio.CancelledError):
            return
        step.is_over = True
        await self.end_within(step, well=False)
        if not handled:
            self._causes.add(error, step)
        if step.attempt == 0 or (step.is_failed and not handled):
            return
        code, message, retryable = self._causes.words_of(step, error, self.describe(error))
        await self.fenced(
            self.held.fail_step(step.id, step.attempt, code, message, retryable, again=False, handled=handled)
        )
        if not step.is_failed:
            step_failed(self.run, step, code, error, again=False)

    async def discard_rejected_writes(self, error: BaseException) -> None:
        """Where `error` means that a channel did not take what tasks wrote: forgets those writes, so that
        their nodes run again when the graph resumes, fails their steps, and notes in the error who wrote
        them. Nothing happens, and nothing is waited for, with any other error.
        """
        if (rejection := rejection_of(error)) is None:
            return
        await self.open_writes.settle()
        if (rejected := self.open_writes.find(rejection)) is None:
            return
        tasks = zip(rejected.task_ids, rejected.nodes, strict=True)
        steps = [self._step_of(rejected.namespace, *each) for each in tasks]
        by = " and ".join(map(repr, dict.fromkeys(step.name.rpartition(":")[2] for step in steps)))
        note = f"written under {rejection.key!r} by {by}"
        if note in getattr(error, "__notes__", ()):
            return  # the node has done this, within which it was raised
        error.add_note(note)
        if is_rejection(error):
            self._causes.add(error, steps[0])
        await self.fenced(
            self.held.discard_writes(
                rejected.namespace,
                rejected.checkpoint_id,
                rejected.task_ids,
                [step.id for step in steps],
                self.describe(error),
                is_retryable(error, steps[0].policies),
            )
        )

    def _step_of(self, namespace: str, task_id: str, node: str) -> BegunStep:
        """The step of a task, which another worker may have executed."""
        found = self._latest.get(UUID(task_id))
        if found is not None:
            return found
        policies = () if namespace else self._retry_policies.get(node, ())
        return BegunStep(UUID(task_id), step_path(namespace, node), policies=policies)

    # What is said of errors.

    def describe(self, error: BaseException) -> str:
        """One line for a person, without what LangGraph notes of the run's own steps."""
        return describe(error, [task_id for task_id, step in self._latest.items() if step.parent is None])

    def failure(self, error: BaseException) -> Failure:
        """Why the run failed, when its graph ended with `error`."""
        if isinstance(error, StatementRefused):
            _log.error("the engine could not store what a run did", exc_info=error)
            error = WorkflowError("What the run did could not be stored.")
        step = self._causes.of(error)
        name = None if step is None else step.name
        return Failure(
            code=run_code(error, name),
            message=self.describe(error),
            step_id=name,
            attempt=self.run.attempt,
            retryable=is_retryable(error, () if step is None else step.policies),
        )
