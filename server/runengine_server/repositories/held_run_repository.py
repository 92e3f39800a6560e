"""What a worker writes for a run that it holds. Every statement is fenced: it takes effect only while
the run is running under the worker's epoch, and raises Fenced otherwise.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

import asyncpg
from google.protobuf.struct_pb2 import Struct

from runengine_server.database.channels import QUEUED
from runengine_server.database.database import Database
from runengine_server.database.functions import TenantFunction, tenant_function
from runengine_server.domain.encoded_run import encode_error
from runengine_server.domain.errors import Fenced, StatementRefused
from runengine_server.domain.run import (
    Artifact,
    ClaimedRun,
    RunStatus,
    WaitingFor,
)
from runengine_server.repositories.complete_runs import COMPLETE_RUNS, Completion
from runengine_server.repositories.record_progress import RECORD_PROGRESS
from runengine_server.repositories.run_outcome import RunOutcome
from runengine_server.repositories.write_behind import (
    CompletedSteps,
    CutBytes,
    PendingWrites,
    StoredCheckpoint,
    WriteBehind,
)

_FAIL_STEP = tenant_function("fail_step")
_INTERRUPT_STEPS = tenant_function("interrupt_steps")
_DISCARD_WRITES = tenant_function("discard_writes")
_GET_CHECKPOINT = tenant_function("get_checkpoint")
_LIST_CHECKPOINTS = tenant_function("list_checkpoints")
_LIST_WRITES = tenant_function("list_writes")
_PRUNE_CHECKPOINTS = tenant_function("prune_checkpoints")
_DROP_CHECKPOINTS = tenant_function("drop_checkpoints")
_SAVE_ARTIFACT = tenant_function("save_artifact")
_GET_ARTIFACT = tenant_function("get_artifact")
_HAS_ARTIFACT = tenant_function("has_artifact")
_GET_CACHED = tenant_function("get_cached")
_SAVE_CACHED = tenant_function("save_cached")
_GET_ITEMS = tenant_function("get_store_items")
_SEARCH_ITEMS = tenant_function("search_store_items")
_LIST_NAMESPACES = tenant_function("list_store_namespaces")
_WRITE_ITEMS = tenant_function("write_store_items")
_BEGIN_IN_THREAD = tenant_function("begin_in_thread")
_END_RUN = tenant_function("end_run")
_WAIT_RUN = tenant_function("wait_run")

_NO_VALUES: Mapping[bytes, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class StoreItem:
    """A row of store_items; `value` is JSON."""

    namespace: str
    key: str
    value: str
    created_at: datetime
    updated_at: datetime


def _columns_of(artifact: Artifact | None) -> tuple[object, ...]:
    if artifact is None:
        return (None,) * 5
    return artifact.id, artifact.name, artifact.media_type, artifact.size, artifact.key


class HeldRunRepository:
    """What the worker that claimed `run` may write; every method raises Fenced once it is not its own.

    What is deferred is sent with the begin of the next step, a flush, or the end of the run, in the same
    transaction: between the end of the last node of a superstep and the beginning of the next node no code of
    the workflow is run, and so a step takes one round trip, not three. What many tasks write side by side is
    sent together, see WriteBehind.
    """

    def __init__(
        self,
        database: Database,
        run: ClaimedRun,
        worker: str,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_change` is called after each commit that may have changed a step or the run."""
        self._scope = database.tenant(run.tenant_id)
        self._worker = worker
        self._pending = WriteBehind(self.record_progress)
        self._on_change = on_change
        self.run = run

    async def call_fenced(self, function: TenantFunction, *arguments: object) -> Sequence[asyncpg.Record]:
        """The rows of a function whose first arguments are tenant, run and epoch. Raises Fenced when there
        are none: such a function returns no row unless the run is still held.
        """
        rows = await self._scope.call(function, self.run.id, self.run.epoch, *arguments)
        if not rows:
            raise Fenced
        self._on_change()
        return rows

    def record_progress(self, batch: Sequence[PendingWrites]) -> Future[Mapping[UUID, int] | None]:
        """Stores it now, in one statement with what the process has to store for other runs at the same time.
        Returns the attempt of each step that begins; None when the run is not held any more.
        """
        stored = self._scope.submit(RECORD_PROGRESS, self.run.id, self.run.epoch, batch)
        stored.add_done_callback(lambda _: self._on_change())
        return stored

    @property
    def has_deferred_writes(self) -> bool:
        """Whether something is deferred that no statement has been sent with yet."""
        return self._pending.has_deferred

    async def flush(self) -> None:
        """Stores what was deferred."""
        await self._pending.flush()

    async def begin_step(
        self,
        id_: UUID,
        step_id: str,
        skill_id: str,
        cache_hit: bool,
        encoded_input: CutBytes | None = None,
        parent_id: UUID | None = None,
    ) -> int:
        """Records that a node starts, and returns which execution of the step this is, from 1. `parent_id` is
        the step whose node has called its graph.
        """
        given = encoded_input or CutBytes(b"")
        rest = None if encoded_input is None else given.rest
        begun = PendingWrites(
            begun_step=(id_, step_id, skill_id, cache_hit, rest, parent_id, given.refs),
            large_values={(True, each): value for each, value in given.new.items()},
        )
        return await self._pending.store(begun)

    def complete_step(self, id_: UUID) -> None:
        """Records, with the next statement, that a step has completed of which nothing else is stored."""
        self._pending.defer(PendingWrites(id_))

    async def interrupt_steps(self, ids: Sequence[UUID]) -> None:
        """Fails those of the steps that are running: the step that they are within is over."""
        await self.flush()
        await self.call_fenced(_INTERRUPT_STEPS, ids)

    async def fail_step(
        self,
        task_id: UUID,
        attempt: int,
        code: str,
        message: str,
        retryable: bool,
        again: bool,
        handled: bool = False,
    ) -> None:
        """Records that an execution failed, unless that is recorded already. `again`: its retry policy
        grants the node another execution; `handled`: an error handler of the graph goes on in its place.
        """
        error = {"code": code, "message": message, "retryable": retryable}
        await self.call_fenced(_FAIL_STEP, task_id, error, again, attempt, handled)

    async def discard_writes(
        self,
        checkpoint_ns: str,
        checkpoint_id: str,
        task_ids: Sequence[str],
        step_ids: Sequence[UUID],
        message: str,
        retryable: bool,
    ) -> None:
        """Forgets what those tasks wrote on top of a checkpoint, and fails their steps."""
        await self.flush()
        error = {"code": "STEP_FAILED", "message": message, "retryable": retryable}
        await self.call_fenced(_DISCARD_WRITES, checkpoint_ns, checkpoint_id, task_ids, step_ids, error)

    async def save_writes(
        self,
        checkpoint_ns: str,
        checkpoint_id: str,
        task_id: str,
        task_path: str,
        writes: Sequence[tuple[int, str, str, bytes]],
        completed_step: UUID | None,
        update: bytes | None = None,
        *,
        defer: bool = False,
    ) -> None:
        """Stores what a task wrote, as (index, channel, type, value), and completes its step, which keeps the
        encoded `update`.
        """
        keyed = {
            (checkpoint_ns, checkpoint_id, task_id, write[0]): (
                checkpoint_ns, checkpoint_id, task_id, task_path, *write,
            )
            for write in writes
        }  # fmt: skip
        await self._store(PendingWrites(completed_step, update, keyed), defer)

    async def save_checkpoint(
        self, checkpoint: StoredCheckpoint, values: Mapping[bytes, bytes] = _NO_VALUES, *, defer: bool = False
    ) -> None:
        """Stores a checkpoint, which becomes the current one of its namespace, and large values that it or a
        later one refers to, by their hashes.
        """
        large = {(False, each): value for each, value in values.items()}
        await self._store(PendingWrites(checkpoint=checkpoint, large_values=large), defer)

    async def _store(self, writes: PendingWrites, defer: bool) -> None:
        if defer:
            self._pending.defer(writes)
        else:
            await self._pending.store(writes)

    async def begin_in_thread(self) -> bool:
        """Whether the run, which is of a thread, has no checkpoint of its own. Then its checkpoints are those
        that the last run of the thread has left.
        """
        ((begins,),) = await self.call_fenced(_BEGIN_IN_THREAD)
        return bool(begins)

    async def get_checkpoint(self, checkpoint_ns: str, checkpoint_id: str | None) -> StoredCheckpoint | None:
        """The checkpoint of that id, or the current one when the id is None."""
        await self.flush()
        rows = await self._scope.call(_GET_CHECKPOINT, self.run.id, checkpoint_ns, checkpoint_id)
        return StoredCheckpoint(**rows[0]) if rows else None

    async def list_checkpoints(self, checkpoint_ns: str | None, before: str | None) -> list[StoredCheckpoint]:
        """Newest first; `before` leaves out that id and all newer ones."""
        await self.flush()
        rows = await self._scope.call(_LIST_CHECKPOINTS, self.run.id, checkpoint_ns, before)
        return [StoredCheckpoint(**row) for row in rows]

    async def list_writes(
        self, checkpoint_ns: str, checkpoint_id: str
    ) -> list[tuple[str, str, str, str, bytes]]:
        """What tasks wrote on top of a checkpoint: (task id, task path, channel, type, value)."""
        await self.flush()
        rows = await self._scope.call(_LIST_WRITES, self.run.id, checkpoint_ns, checkpoint_id)
        return [tuple(row) for row in rows]

    async def prune_checkpoints(self) -> None:
        """Keeps of each namespace the current checkpoint with its writes, and what these build on."""
        await self.flush()
        await self.call_fenced(_PRUNE_CHECKPOINTS)

    async def drop_checkpoints(self) -> None:
        """Deletes all checkpoints and writes."""
        await self.flush()
        await self.call_fenced(_DROP_CHECKPOINTS)

    async def save_artifact(self, artifact: Artifact, task_id: UUID, attempt: int) -> None:
        """Records an artifact, whose bytes are stored already, as output of an execution of a step."""
        await self.call_fenced(_SAVE_ARTIFACT, *_columns_of(artifact), task_id, attempt)

    async def get_artifact(self, artifact_id: UUID) -> Artifact | None:
        """The artifact; None when the tenant has none of that id."""
        rows = await self._scope.call(_GET_ARTIFACT, artifact_id)
        return Artifact(**rows[0]) if rows else None

    async def has_artifact(self, artifact_id: UUID) -> bool:
        """Whether a run of the tenant has saved that artifact; not this one, if a step was cached."""
        ((found,),) = await self._scope.call(_HAS_ARTIFACT, artifact_id)
        return bool(found)

    async def get_cached(self, step_id: str, key: bytes) -> tuple[str, bytes] | None:
        """What the step returned for that key before, as (type, value), unless it has expired."""
        rows = await self._scope.call(_GET_CACHED, self.run.workflow_name, step_id, key)
        return (rows[0]["type"], rows[0]["value"]) if rows else None

    async def save_cached(
        self, step_id: str, key: bytes, type_: str, value: bytes, ttl_seconds: float | None
    ) -> None:
        """Keeps what a step returned; `ttl_seconds` None means for ever."""
        await self.call_fenced(_SAVE_CACHED, self.run.workflow_name, step_id, key, type_, value, ttl_seconds)

    async def get_items(self, keys: Collection[tuple[str, str]]) -> list[StoreItem]:
        """The items of the tenant's store with those (namespace, key), in any order."""
        rows = await self._scope.call(_GET_ITEMS, [each for each, _ in keys], [each for _, each in keys])
        return [StoreItem(**row) for row in rows]

    async def search_items(self, path: str, wanted: str | None, limit: int, offset: int) -> list[StoreItem]:
        """Items of the namespaces that begin with `path`, last changed first. `wanted` is a filter as JSON,
        see store.sql.
        """
        rows = await self._scope.call(_SEARCH_ITEMS, path, wanted, limit, offset)
        return [StoreItem(**row) for row in rows]

    async def list_namespaces(
        self, path: str, patterns: Sequence[str], max_depth: int | None, limit: int, offset: int
    ) -> list[str]:
        """The namespaces that begin with `path` and match all patterns, no deeper than `max_depth`."""
        rows = await self._scope.call(_LIST_NAMESPACES, path, patterns, max_depth, limit, offset)
        return [row["namespace"] for row in rows]

    async def write_items(self, values: Mapping[tuple[str, str], str | None]) -> None:
        """Puts items into the tenant's store by (namespace, key), as JSON; None deletes one."""
        columns = [each for each, _ in values], [each for _, each in values], list(values.values())
        await self.call_fenced(_WRITE_ITEMS, *columns)

    async def wait(
        self, waiting_for: Sequence[WaitingFor], timeout_seconds: float | None, kept: Struct
    ) -> None:
        """The run waits for somebody, for up to `timeout_seconds`, and nobody holds it any more. Of what came
        with the last resume only `kept` is still needed.
        """
        await self.flush()
        async with self._pending.alone():
            await self.call_fenced(
                _WAIT_RUN,
                self._worker,
                [each.id for each in waiting_for],
                [each.step_id for each in waiting_for],
                [each.value for each in waiting_for],
                [each.note for each in waiting_for],
                timeout_seconds,
                kept.SerializeToString() or None,
            )
            self._pending.clear()

    @asynccontextmanager
    async def end(self) -> AsyncIterator[RunOutcome]:
        """Ends the run with the outcome that the block sets: all of it happens, or nothing."""
        outcome = RunOutcome()
        yield outcome
        assert outcome.target is not None
        completes, is_of_thread = outcome.target is RunStatus.COMPLETED, self.run.thread_id is not None
        if not completes:
            with suppress(StatementRefused):
                await self.flush()
        elif is_of_thread:
            await self.flush()  # the next run of the thread goes on from there
        async with self._pending.alone():
            # A run that failed still needs what its steps wrote, and completes them with that.
            completed, output = self._pending.completed_steps if completes else [], outcome.output
            if completes and not is_of_thread and output.artifact is None:
                await self.complete(Completion(self._worker, outcome.campaign, completed, output.encoded))
            else:
                await self._end_alone(outcome, completed)
            self._pending.clear()
        if is_of_thread:
            self._scope.notifier.notify(QUEUED)

    async def complete(self, completion: Completion) -> None:
        """Completes the run, in one statement with the others of the process that do so at the same time."""
        if not await self._scope.submit(COMPLETE_RUNS, self.run.id, self.run.epoch, completion):
            raise Fenced
        self._on_change()

    async def _end_alone(self, outcome: RunOutcome, completed: CompletedSteps) -> None:
        await self.call_fenced(
            _END_RUN,
            outcome.target,
            encode_error(error) if (error := outcome.error) else None,
            self._worker,
            error.code if error else "COMPLETED",
            *outcome.campaign,
            [step for step, _ in completed],
            [update for _, update in completed],
            outcome.output.encoded,
            *_columns_of(outcome.output.artifact),
            None if self.run.thread_id is None else outcome.thread_checkpoints,
        )
