"""What a worker writes for a run that it holds. Every statement is fenced: it takes effect only while
the run is running under the worker's epoch, and raises Fenced otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import asyncpg

from runengine_server.database.database import Database
from runengine_server.database.functions import TenantFunction, tenant_function
from runengine_server.domain.encoded_run import encode_error
from runengine_server.domain.errors import Fenced, StatementRefused
from runengine_server.domain.run import Artifact, CampaignStatus, ClaimedRun, Failure, RunStatus
from runengine_server.repositories.write_behind import Done, StoredCheckpoint, WriteBehind

_RECORD = tenant_function("record_progress")
_BEGIN_STEP = tenant_function("begin_step")
_FAIL_STEP = tenant_function("fail_step")
_TAKE_BACK = tenant_function("take_back")
_GET_CHECKPOINT = tenant_function("get_checkpoint")
_LIST_CHECKPOINTS = tenant_function("list_checkpoints")
_LIST_WRITES = tenant_function("list_writes")
_PRUNE_CHECKPOINTS = tenant_function("prune_checkpoints")
_DROP_CHECKPOINTS = tenant_function("drop_checkpoints")
_SAVE_ARTIFACT = tenant_function("save_artifact")
_HAS_ARTIFACT = tenant_function("has_artifact")
_GET_CACHED = tenant_function("get_cached")
_SAVE_CACHED = tenant_function("save_cached")
_END = tenant_function("end_run")


class EndingRun:
    """A run that is being ended; all that is asked for here happens in one transaction."""

    def __init__(self) -> None:
        self.target: RunStatus | None = None
        self.error: Failure | None = None
        self.campaign: tuple[UUID | None, CampaignStatus | None, str | None, UUID | None] = (None,) * 4

    async def complete(self) -> None:
        """running → completed. Drops the checkpoints."""
        self.target = RunStatus.COMPLETED

    async def fail(self, error: Failure) -> None:
        """running → failed. Keeps of the checkpoints what a retry resumes from."""
        self.target, self.error = RunStatus.FAILED, error

    async def update_campaign(
        self, campaign_id: UUID, status: CampaignStatus, bundle_url: str | None, latest_run_id: UUID
    ) -> None:
        """Moves the campaign of the same tenant, unless a newer run has done so."""
        self.campaign = (campaign_id, status, bundle_url, latest_run_id)


def _columns(rows: dict[Any, tuple[object, ...]], count: int) -> list[list[object]]:
    return [list(column) for column in zip(*rows.values(), strict=True)] or [[]] * count


def _done_columns(batch: Sequence[Done]) -> list[list[object]]:
    """As store_progress has them, of what was done. A checkpoint that another one of them sums up is left
    out, with what was written on top of it.
    """
    saved = [done.checkpoint for done in batch if done.checkpoint is not None]
    summed_up = {(each.checkpoint_ns, each.sums_up) for each in saved}
    checkpoints: dict[tuple[str, str], tuple[object, ...]] = {}
    oldest: dict[str, str] = {}
    for each in saved:
        if (key := (each.checkpoint_ns, each.checkpoint_id)) not in summed_up:
            checkpoints[key] = each.row
        oldest |= each.oldest_needed
    writes = {key: row for done in batch for key, row in done.writes.items() if key[:2] not in summed_up}
    return [
        [done.completed for done in batch if done.completed is not None],
        *_columns(writes, 8),
        *_columns(checkpoints, 6),
        list(oldest),
        list(oldest.values()),
        [namespace for each in saved for namespace in each.gone],
    ]


class HeldRunRepository:
    """What the worker that claimed `run` may write; every method raises Fenced once it is not its own.

    What is done `later` goes out with the next statement, whatever that is, in the same transaction:
    between the end of the last node of a superstep and the beginning of the next node no code of the
    workflow's is run, and so a step takes one round trip, not three. What many tasks do side by side goes
    out together, see WriteBehind.
    """

    def __init__(self, database: Database, run: ClaimedRun, worker: str) -> None:
        self._scope = database.tenant(run.tenant_id)
        self._worker = worker
        self._behind = WriteBehind(self._send)
        self.run = run

    async def _fenced(self, function: TenantFunction, *arguments: object) -> Sequence[asyncpg.Record]:
        rows = await self._scope.call(function, self.run.id, self.run.epoch, *arguments)
        if not rows:
            raise Fenced
        return rows

    async def _send(self, batch: Sequence[Done]) -> dict[UUID, int]:
        """Which execution of its step each task that begins is."""
        begun: dict[UUID, tuple[object, ...]] = {
            done.begun[0]: done.begun for done in batch if done.begun is not None and done.is_awaited
        }
        if not begun:
            await self._fenced(_RECORD, *_done_columns(batch))
            return {}
        rows = await self._fenced(_BEGIN_STEP, *_done_columns(batch), *_columns(begun, 4))
        return {row["id"]: row["attempt"] for row in rows}

    @property
    def is_behind(self) -> bool:
        """Whether something was done that no statement has gone out with yet."""
        return self._behind.is_behind

    async def flush(self) -> None:
        """Stores what was done `later`."""
        await self._behind.flush()

    async def begin_step(self, task_id: UUID, step_id: str, skill_id: str, cache_hit: bool) -> int:
        """Records that a node starts, and answers which execution of the step this is, from 1."""
        return await self._behind.store(Done(begun=(task_id, step_id, skill_id, cache_hit)))

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
        will run the node once more; `handled`: an error handler of the graph goes on instead of it.
        """
        error = {"code": code, "message": message, "retryable": retryable}
        await self._fenced(_FAIL_STEP, task_id, error, again, attempt, handled)

    async def take_back(
        self, checkpoint_ns: str, checkpoint_id: str, task_ids: Sequence[str], message: str, retryable: bool
    ) -> None:
        """Forgets what those tasks wrote on top of a checkpoint, and fails those that are steps."""
        await self.flush()
        error = {"code": "STEP_FAILED", "message": message, "retryable": retryable}
        await self._fenced(_TAKE_BACK, checkpoint_ns, checkpoint_id, task_ids, error)

    async def save_writes(
        self,
        checkpoint_ns: str,
        checkpoint_id: str,
        task_id: str,
        task_path: str,
        writes: Sequence[tuple[int, str, str, bytes]],
        completed_step: UUID | None,
        *,
        later: bool = False,
    ) -> None:
        """Stores what a task wrote, as (index, channel, type, value), and completes its step."""
        keyed = {
            (checkpoint_ns, checkpoint_id, task_id, write[0]): (
                checkpoint_ns, checkpoint_id, task_id, task_path, *write,
            )
            for write in writes
        }  # fmt: skip
        await self._store(Done(completed=completed_step, writes=keyed), later)

    async def save_checkpoint(self, checkpoint: StoredCheckpoint, *, later: bool = False) -> None:
        """Stores a checkpoint, which becomes the current one of its namespace."""
        await self._store(Done(checkpoint=checkpoint), later)

    async def _store(self, done: Done, later: bool) -> None:
        if later:
            self._behind.later(done)
        else:
            await self._behind.store(done)

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
        await self._fenced(_PRUNE_CHECKPOINTS)

    async def drop_checkpoints(self) -> None:
        """Deletes all checkpoints and writes."""
        await self.flush()
        await self._fenced(_DROP_CHECKPOINTS)

    async def save_artifact(self, artifact: Artifact, task_id: UUID, attempt: int) -> None:
        """Records an artifact, whose bytes are stored already, as output of an execution of a step."""
        await self._fenced(
            _SAVE_ARTIFACT,
            artifact.id,
            artifact.name,
            artifact.media_type,
            artifact.size,
            artifact.key,
            task_id,
            attempt,
        )

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
        await self._fenced(_SAVE_CACHED, self.run.workflow_name, step_id, key, type_, value, ttl_seconds)

    @asynccontextmanager
    async def end(self) -> AsyncIterator[EndingRun]:
        """Ends the run as the block asks for, at its end: all of it happens, or nothing."""
        ending = EndingRun()
        yield ending
        assert ending.target is not None
        error, completes = ending.error, ending.target is RunStatus.COMPLETED
        if not completes:
            with suppress(StatementRefused):
                await self.flush()
        async with self._behind.in_order:
            await self._fenced(
                _END,
                ending.target,
                encode_error(error) if error else None,
                self._worker,
                error.code if error else "COMPLETED",
                *ending.campaign,
                # Of a run that failed what was written is needed, with the completion of its step.
                self._behind.completed if completes else [],
            )
            self._behind.clear()
