"""One worker's execution of one run, and the only place that knows how it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

import structlog
from langgraph.errors import GraphBubbleUp
from langgraph.types import RetryPolicy

from runengine_server.domain.errors import Fenced, LeaseEnded, StatementRefused, Unavailable
from runengine_server.domain.run import ClaimedRun, Failure
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.settings import DEFAULT_MAX_STATE_BYTES, DEFAULT_STEP_DATA_BYTES
from runengine_server.worker.graph.channels import rejection_of
from runengine_server.worker.graph.failures import WorkflowError, describe, is_retryable, run_code, step_code
from runengine_server.worker.graph.gates import Gates
from runengine_server.worker.graph.open_writes import OpenWrites
from runengine_server.worker.graph.run_log import fields_of_run
from runengine_server.worker.graph.time_limit import MAY_STILL_RUN
from runengine_server.worker.graph.wide_supersteps import JointReturn

# The key in a node's config under which its execution is found; `__` keeps it out of the metadata of
# checkpoints.
EXECUTION = "__runengine_execution"

_NO_POLICIES: Mapping[str, Sequence[RetryPolicy]] = MappingProxyType({})

_log = structlog.get_logger()

Result = TypeVar("Result")


class ExecutionStopped(GraphBubbleUp):
    """The run cannot go on in this worker: its lease was lost or has ended, the database is away or refused
    a statement, or the graph has changed. The node is not at fault, so neither its retry policy nor an error
    handler of the graph may act, which is what LangGraph ensures for a GraphBubbleUp.
    """


class Execution:
    """The state of one execution of a run. Nodes, checkpointer and processor call its methods when something
    happens; nobody else changes its state.

    `held` writes for the run, `artifacts` keeps the bytes of artifacts, `open_writes` knows what tasks
    have written since the last checkpoint, `gates` where the graph stops until somebody resumes the run.
    `retry_policies` are those of each step. `holds_lease` says whether the lease is known, by the
    worker's own clock, not to have ended.
    """

    def __init__(
        self,
        held: HeldRunRepository,
        artifacts: ArtifactStore,
        retry_policies: Mapping[str, Sequence[RetryPolicy]] = _NO_POLICIES,
        max_state_bytes: int = DEFAULT_MAX_STATE_BYTES,
        holds_lease: Callable[[], bool] = lambda: True,
        step_data_bytes: int = DEFAULT_STEP_DATA_BYTES,
    ) -> None:
        self.held = held
        self.artifacts = artifacts
        self.max_state_bytes = max_state_bytes
        self.step_data_bytes = step_data_bytes
        self.holds_lease = holds_lease
        self.open_writes = OpenWrites()
        self.gates = Gates(held.run.resume_values)
        self._retry_policies = retry_policies
        # The step and the attempt of the latest execution of each task; attempt 0 until it is recorded.
        self._latest: dict[UUID, tuple[str, int]] = {}
        self._namespaces: dict[UUID, str] = {}
        # Executions whose failure is recorded.
        self._failed: set[tuple[UUID, int]] = set()
        # Tasks of the current superstep whose node was entered and has not been left for good.
        self._open_steps: set[UUID] = set()
        # The latest execution of each task of which a thread goes on.
        self._with_threads: dict[UUID, int] = {}
        # Errors that no handler of the graph took, with the step that each came from.
        self._failures: list[tuple[BaseException, str]] = []
        self._stopped_by: Exception | None = None
        self._stopped = asyncio.Event()
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
        self._stopped.set()

    async def wait_stopped(self) -> None:
        """Returns once `stop` was called."""
        await self._stopped.wait()

    def raise_if_stopped(self) -> None:
        """Raises the error that stopped the graph, if there was one."""
        if self._stopped_by is not None:
            raise self._stopped_by

    # Steps.

    async def begin_step(
        self, task_id: UUID, step_id: str, skill_id: str, cache_key: bytes | None, encoded_input: bytes | None
    ) -> tuple[int, tuple[str, bytes] | None]:
        """Records that an execution of a step begins, with its input. Returns its attempt, and (type, value)
        of its result where the cache has it under `cache_key`.
        """
        # The time limit may be over before the database has recorded the begin: even then it is this step's.
        self._latest[task_id] = (step_id, 0)
        self._open_steps.add(task_id)
        if task_id in self._with_threads:
            await self._fail_with_thread(task_id, "STEP_TIMED_OUT", "It ran into its time limit")
        cached = await self.fenced(self.held.get_cached(step_id, cache_key)) if cache_key else None
        attempt = await self.fenced(
            self.held.begin_step(task_id, step_id, skill_id, cached is not None, encoded_input)
        )
        self._latest[task_id] = (step_id, attempt)
        return attempt, cached

    async def return_together(self) -> None:
        """Returns with the other tasks of a large superstep whose nodes end at about this time."""
        await self._joint_return.wait(len(self._open_steps))

    def leave_step(self, task_id: UUID) -> None:
        """The task has written all that it will write."""
        self._open_steps.discard(task_id)

    @property
    def has_open_steps(self) -> bool:
        """Whether a step of the current superstep has not been left yet."""
        return bool(self._open_steps)

    def begin_task(self, task_id: UUID, namespace: str) -> None:
        """An `@task`, which has that namespace, is being executed."""
        self._namespaces[task_id] = namespace

    def namespace_of_task(self, task_id: UUID) -> str | None:
        """The namespace of an `@task`; None of other tasks, whose path tells it."""
        return self._namespaces.get(task_id)

    def step_of_task(self, task_id: UUID) -> str | None:
        """The step that the task has begun."""
        step_id, _ = self._latest.get(task_id, (None, 0))
        return step_id

    def attempt_of_task(self, task_id: UUID) -> int | None:
        """The attempt of the step that the task has begun, once it is recorded."""
        _, attempt = self._latest.get(task_id, (None, 0))
        return attempt or None

    async def fail_step(
        self, task_id: UUID, attempt: int, error: Exception, *, retryable: bool, again: bool
    ) -> None:
        """Records that an execution failed with `error`; `again`: its retry policy grants another one."""
        await self.fenced(
            self.held.fail_step(task_id, attempt, step_code(error), self.describe(error), retryable, again)
        )
        self._failed.add((task_id, attempt))
        if again:
            _log.info(
                "a step failed and runs again",
                **fields_of_run(self.run),
                step=self.step_of_task(task_id),
                step_attempt=attempt,
                code=step_code(error),
                exc_info=error,
            )

    def leave_thread(self, task_id: UUID | None) -> None:
        """A thread of the execution that the task has begun was abandoned."""
        if task_id is not None and (attempt := self.attempt_of_task(task_id)) is not None:
            self._with_threads[task_id] = attempt

    async def fail_steps_with_threads(self) -> None:
        """The run ends: fails the steps that were stopped with it and of which a thread goes on."""
        for task_id in list(self._with_threads):
            await self._fail_with_thread(
                task_id, "STEP_INTERRUPTED", "It was stopped because the run ended without it"
            )

    async def _fail_with_thread(self, task_id: UUID, code: str, words: str) -> None:
        attempt = self._with_threads.pop(task_id)
        message = f"{words}; {MAY_STILL_RUN}."
        await self.fenced(self.held.fail_step(task_id, attempt, code, message, retryable=True, again=False))

    async def record_task_error(self, task_id: UUID, error: Any, *, handled: bool) -> None:
        """Fails the step of a task that ended with `error`, unless its node has raised and so has failed it:
        its time ran out, an edge that leads from it raised, what it returned cannot be stored, or an error
        handler of the graph takes the error (`handled`).
        """
        step_id, attempt = self._latest.get(task_id, (None, 0))
        if (
            step_id is None
            or not isinstance(error, BaseException)
            or isinstance(error, asyncio.CancelledError)
        ):
            return
        if not handled:
            self._failures.append((error, step_id))
        if attempt == 0 or ((task_id, attempt) in self._failed and not handled):
            return
        retryable = is_retryable(error, self._retry_policies.get(step_id, ()))
        await self.fenced(
            self.held.fail_step(
                task_id,
                attempt,
                step_code(error),
                self.describe(error),
                retryable,
                again=False,
                handled=handled,
            )
        )

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
        # An error handler has the path, and so the node, of the task whose error it takes.
        own = [
            self.step_of_task(UUID(task_id)) or node
            for task_id, node in zip(rejected.task_ids, rejected.nodes, strict=True)
        ]
        by = " and ".join(map(repr, dict.fromkeys(own)))
        note = f"written under {rejection.key!r} by {by}"
        if note in getattr(error, "__notes__", ()):
            return  # the node has done this, within which it was raised
        error.add_note(note)
        policies: Sequence[RetryPolicy] = ()
        if rejected.namespace == "":
            self._failures.append((error, own[0]))
            policies = self._retry_policies.get(own[0], ())
        await self.fenced(
            self.held.discard_writes(
                rejected.namespace,
                rejected.checkpoint_id,
                rejected.task_ids,
                self.describe(error),
                is_retryable(error, policies),
            )
        )

    # What is said of errors.

    def describe(self, error: BaseException) -> str:
        """One line for a person, without what LangGraph notes of the run's own steps."""
        return describe(error, self._latest)

    def failure(self, error: BaseException) -> Failure:
        """Why the run failed, when its graph ended with `error`."""
        if isinstance(error, StatementRefused):
            _log.error("the engine could not store what a run did", exc_info=error)
            error = WorkflowError("What the run did could not be stored.")
        step = next((step_id for each, step_id in self._failures if each is error), None)
        return Failure(
            code=run_code(error, step),
            message=self.describe(error),
            step_id=step,
            attempt=self.run.attempt,
            retryable=is_retryable(error, self._retry_policies.get(step, ()) if step else ()),
        )
