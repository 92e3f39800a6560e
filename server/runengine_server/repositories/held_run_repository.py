"""What a worker writes for a run that it holds. Every statement is fenced: it takes effect only while
the run is running under the worker's epoch, and raises Fenced otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from runengine_server.domain.encoded_run import encode_error
from runengine_server.domain.errors import Fenced
from runengine_server.domain.run import Artifact, CampaignStatus, ClaimedRun, Failure, RunStatus
from runengine_server.repositories import campaign_repository
from runengine_server.repositories.database import Connection, Database
from runengine_server.repositories.functions import Function
from runengine_server.repositories.transition_sql import counted, logged

# The fence. FOR SHARE, because without the lock a takeover could commit between this look and the
# write. A claim raises the epoch and skips locked rows, so it comes wholly before or wholly after.
_HELD = """held AS (
    SELECT attempt FROM runs WHERE tenant_id = $1 AND id = $2 AND epoch = $3 AND status = 'running'
    FOR SHARE
)"""

# pending or nothing -> running. An execution still marked running was stopped by its own timeout, and
# may still be cleaning up; what it writes from now on names its own attempt, and changes nothing.
_BEGIN_STEP = Function(
    "begin_step",
    "text, uuid, bigint, uuid, text, text, boolean",
    "attempt int",
    f"""
WITH {_HELD}, stopped AS (
    UPDATE run_steps SET status = 'failed', completed_at = now_ms(), updated_at = touch(updated_at),
        error = jsonb_build_object('code', 'STEP_TIMED_OUT', 'message', 'It ran into its time limit.',
            'step_id', step_id, 'attempt', run_steps.attempt, 'retryable', true)
    FROM held WHERE tenant_id = $1 AND run_id = $2 AND id = $4 AND status = 'running'
), begun AS (
    INSERT INTO run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status,
        cache_hit, started_at)
    SELECT $1, $2, $4,
        (SELECT coalesce(max(attempt), 0) + 1 FROM run_steps
            WHERE tenant_id = $1 AND run_id = $2 AND id = $4 AND status <> 'pending'),
        held.attempt, $5, $6, 'running', $7, now_ms()
    FROM held
    ON CONFLICT (tenant_id, run_id, id, attempt) DO UPDATE SET status = 'running',
        cache_hit = excluded.cache_hit, started_at = excluded.started_at,
        updated_at = touch(run_steps.updated_at)
    WHERE run_steps.status = 'pending'
    RETURNING attempt
)
SELECT attempt FROM begun
""",
)

# running -> failed; when its retry policy grants another execution, that one is pending at once.
_FAIL_STEP = Function(
    "fail_step",
    "text, uuid, bigint, uuid, jsonb, boolean, int, boolean",
    "held int",
    f"""
WITH {_HELD}, failed AS (
    UPDATE run_steps SET status = 'failed', handled = $8, completed_at = now_ms(),
        updated_at = touch(updated_at),
        error = $5 || jsonb_build_object('step_id', step_id, 'attempt', run_steps.attempt)
    FROM held WHERE tenant_id = $1 AND run_id = $2 AND id = $4 AND run_steps.attempt = $7
        AND status = 'running'
    RETURNING run_steps.attempt, run_attempt, step_id, skill_id
), next AS (
    INSERT INTO run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status)
    SELECT $1, $2, $4, attempt + 1, run_attempt, step_id, skill_id, 'pending' FROM failed WHERE $6
), handled AS (
    UPDATE run_steps SET handled = true
    FROM held WHERE $8 AND tenant_id = $1 AND run_id = $2 AND id = $4 AND run_steps.attempt = $7
        AND status = 'failed'
)
SELECT 1 FROM held
""",
)

# running -> completed, in one statement with the writes that make it so: a step is completed exactly
# when LangGraph will not run it again.
_SAVE_WRITES = Function(
    "save_writes",
    "text, uuid, bigint, text, text, text, text, int[], text[], text[], bytea[], uuid",
    "held int",
    f"""
WITH {_HELD}, saved AS (
    INSERT INTO checkpoint_writes (tenant_id, run_id, checkpoint_ns, checkpoint_id, task_id, idx,
        task_path, channel, type, value)
    SELECT $1, $2, $4, $5, $6, written.idx, $7, written.channel, written.type, written.value
    FROM held, unnest($8::int[], $9::text[], $10::text[], $11::bytea[])
        AS written(idx, channel, type, value)
    ON CONFLICT (tenant_id, run_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE
        SET channel = excluded.channel, type = excluded.type, value = excluded.value
), completed AS (
    UPDATE run_steps SET status = 'completed', completed_at = now_ms(), updated_at = touch(updated_at)
    FROM held WHERE tenant_id = $1 AND run_id = $2 AND id = $12 AND status = 'running'
)
SELECT 1 FROM held
""",
)

_SAVE_CHECKPOINT = Function(
    "save_checkpoint",
    "text, uuid, bigint, text, text, text, text, bytea, bytea",
    "held int",
    f"""
WITH {_HELD}, saved AS (
    INSERT INTO checkpoints (tenant_id, run_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
        type, checkpoint, metadata)
    SELECT $1, $2, $4, $5, $6, $7, $8, $9 FROM held
    ON CONFLICT (tenant_id, run_id, checkpoint_ns, checkpoint_id) DO UPDATE
        SET checkpoint = excluded.checkpoint, metadata = excluded.metadata
)
SELECT 1 FROM held
""",
)

_CHECKPOINT = """checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata"""
_CHECKPOINT_COLUMNS = """checkpoint_ns text, checkpoint_id text, parent_checkpoint_id text, type text,
    checkpoint bytea, metadata bytea"""

_GET_CHECKPOINT = Function(
    "get_checkpoint",
    "text, uuid, text, text",
    _CHECKPOINT_COLUMNS,
    f"""
SELECT {_CHECKPOINT} FROM checkpoints
WHERE tenant_id = $1 AND run_id = $2 AND checkpoint_ns = $3 AND ($4::text IS NULL OR checkpoint_id = $4)
ORDER BY seq DESC LIMIT 1
""",
)

_LIST_CHECKPOINTS = Function(
    "list_checkpoints",
    "text, uuid, text, text",
    _CHECKPOINT_COLUMNS,
    f"""
SELECT {_CHECKPOINT} FROM checkpoints
WHERE tenant_id = $1 AND run_id = $2 AND ($3::text IS NULL OR checkpoint_ns = $3)
    AND ($4::text IS NULL OR seq < (
        SELECT seq FROM checkpoints AS until WHERE until.tenant_id = $1 AND until.run_id = $2
            AND until.checkpoint_ns = checkpoints.checkpoint_ns AND until.checkpoint_id = $4))
ORDER BY seq DESC
""",
)

_LIST_WRITES = Function(
    "list_writes",
    "text, uuid, text, text",
    "task_id text, channel text, type text, value bytea",
    """
SELECT task_id, channel, type, value FROM checkpoint_writes
WHERE tenant_id = $1 AND run_id = $2 AND checkpoint_ns = $3 AND checkpoint_id = $4
ORDER BY task_path, task_id, idx
""",
)


def pruned(moved: str) -> str:
    """CTEs that leave of run $2, if `moved` has a row, what a retry resumes from: of each namespace the
    current checkpoint and its writes. A graph with delta channels needs more: their values are replayed
    from the writes on all the ancestors, so a namespace whose current checkpoint counts supersteps since
    a snapshot, which LangGraph notes in its metadata, is left whole.
    """
    others = f"""tenant_id = $1 AND run_id = $2 AND EXISTS (SELECT FROM {moved}) AND NOT EXISTS (
        SELECT FROM kept WHERE kept.checkpoint_ns = stored.checkpoint_ns
            AND (kept.checkpoint_id = stored.checkpoint_id OR kept.replayed))"""
    return f"""kept AS (
    SELECT DISTINCT ON (checkpoint_ns) checkpoint_ns, checkpoint_id,
        position('counters_since_delta_snapshot'::bytea IN metadata) > 0 AS replayed
    FROM checkpoints WHERE tenant_id = $1 AND run_id = $2
    ORDER BY checkpoint_ns, seq DESC
), pruned_checkpoints AS (
    DELETE FROM checkpoints AS stored WHERE {others}
), pruned_writes AS (
    DELETE FROM checkpoint_writes AS stored WHERE {others}
)"""


def _dropped(moved: str) -> str:
    """CTEs that leave no checkpoint and no write of run $2, if `moved` has a row."""
    return f"""dropped_checkpoints AS (
    DELETE FROM checkpoints WHERE tenant_id = $1 AND run_id = $2 AND EXISTS (SELECT FROM {moved})
), dropped_writes AS (
    DELETE FROM checkpoint_writes WHERE tenant_id = $1 AND run_id = $2 AND EXISTS (SELECT FROM {moved})
)"""


_PRUNE_CHECKPOINTS = Function(
    "prune_checkpoints",
    "text, uuid, bigint",
    "held int",
    f"WITH {_HELD}, {pruned('held')} SELECT 1 FROM held",
)
_DROP_CHECKPOINTS = Function(
    "drop_checkpoints",
    "text, uuid, bigint",
    "held int",
    f"WITH {_HELD}, {_dropped('held')} SELECT 1 FROM held",
)

_SAVE_ARTIFACT = Function(
    "save_artifact",
    "text, uuid, bigint, uuid, text, text, bigint, text, uuid, int",
    "held int",
    f"""
WITH {_HELD}, saved AS (
    INSERT INTO artifacts (tenant_id, run_id, id, name, media_type, size, key)
    SELECT $1, $2, $4, $5, $6, $7, $8 FROM held
), step AS (
    UPDATE run_steps SET output_artifact_ids = output_artifact_ids || $4::uuid,
        updated_at = touch(updated_at)
    FROM held WHERE tenant_id = $1 AND run_id = $2 AND id = $9 AND run_steps.attempt = $10
        AND status = 'running'
)
SELECT 1 FROM held
""",
)

_GET_CACHED = Function(
    "get_cached",
    "text, text, text, bytea",
    "type text, value bytea",
    """
SELECT type, value FROM step_cache
WHERE tenant_id = $1 AND workflow_name = $2 AND step_id = $3 AND key = $4
    AND (expires_at IS NULL OR expires_at > clock_timestamp())
""",
)

_SAVE_CACHED = Function(
    "save_cached",
    "text, uuid, bigint, text, text, bytea, text, bytea, float",
    "held int",
    f"""
WITH {_HELD}, saved AS (
    INSERT INTO step_cache (tenant_id, workflow_name, step_id, key, type, value, expires_at)
    SELECT $1, $4, $5, $6, $7, $8, clock_timestamp() + make_interval(secs => $9) FROM held
    ON CONFLICT (tenant_id, workflow_name, step_id, key) DO UPDATE
        SET type = excluded.type, value = excluded.value, expires_at = excluded.expires_at
)
SELECT 1 FROM held
""",
)

# The fence of the two that end a run is this lock, in a statement of its own so that the next one
# sees every step that was recorded under it.
_LOCK = """
SELECT 1 FROM runs WHERE tenant_id = $1 AND id = $2 AND epoch = $3 AND status = 'running' FOR UPDATE
"""

# running -> completed | failed. Steps that were due are skipped; those under way were stopped by the
# failure of another. A completed run is final, so nothing will ever resume from its checkpoints.
_END = {
    target: f"""
WITH run AS (
    UPDATE runs SET status = '{target}', error = $4, completed_at = greatest(now_ms(), started_at),
        lease_expires_at = NULL,
        updated_at = touch(updated_at)
    WHERE tenant_id = $1 AND id = $2 AND epoch = $3 AND status = 'running'
    RETURNING tenant_id, id, campaign_id, attempt, updated_at, error, trace_id
), steps AS (
    UPDATE run_steps SET
        status = CASE status WHEN 'running' THEN 'failed' ELSE 'skipped' END,
        error = CASE status WHEN 'running' THEN jsonb_build_object('code', 'STEP_INTERRUPTED',
            'message', 'It was stopped because the run ended without it.', 'step_id', step_id,
            'attempt', run_steps.attempt, 'retryable', true) END,
        completed_at = CASE status WHEN 'running' THEN now_ms() END,
        updated_at = touch(run_steps.updated_at)
    FROM run WHERE run_steps.tenant_id = $1 AND run_id = run.id AND status IN ('pending', 'running')
), {logged("run", RunStatus.RUNNING, target, actor="$5", reason="$6")},
{counted("run", RunStatus.RUNNING, target)}, {cleared("run")}
SELECT 1 FROM run
"""
    for target, cleared in ((RunStatus.COMPLETED, _dropped), (RunStatus.FAILED, pruned))
}

_HAS_ARTIFACT = Function(
    "has_artifact", "text, uuid", "found int", "SELECT 1 FROM artifacts WHERE tenant_id = $1 AND id = $2"
)

FUNCTIONS = (
    _BEGIN_STEP,
    _FAIL_STEP,
    _SAVE_WRITES,
    _SAVE_CHECKPOINT,
    _GET_CHECKPOINT,
    _LIST_CHECKPOINTS,
    _LIST_WRITES,
    _PRUNE_CHECKPOINTS,
    _DROP_CHECKPOINTS,
    _SAVE_ARTIFACT,
    _GET_CACHED,
    _SAVE_CACHED,
    _HAS_ARTIFACT,
)


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A row of checkpoints; `type` is of the serialised `checkpoint`, `metadata` is JSON."""

    checkpoint_ns: str
    checkpoint_id: str
    parent_checkpoint_id: str | None
    type: str
    checkpoint: bytes
    metadata: bytes


class EndingRun:
    """A run that is being ended; everything here shares one transaction."""

    def __init__(self, transaction: Connection, run: ClaimedRun, worker: str) -> None:
        self._transaction = transaction
        self._run = run
        self._worker = worker

    async def complete(self) -> None:
        """running → completed. Drops the checkpoints."""
        await self._end(RunStatus.COMPLETED, None)

    async def fail(self, error: Failure) -> None:
        """running → failed. Keeps of the checkpoints what a retry resumes from."""
        await self._end(RunStatus.FAILED, error)

    async def _end(self, target: RunStatus, error: Failure | None) -> None:
        run = self._run
        row = await self._transaction.fetchrow(
            _END[target],
            run.tenant_id,
            run.id,
            run.epoch,
            encode_error(error) if error else None,
            self._worker,
            error.code if error else "COMPLETED",
        )
        assert row is not None, "under lock nobody else can have moved it"

    async def update_campaign(
        self, campaign_id: UUID, status: CampaignStatus, bundle_url: str | None, latest_run_id: UUID
    ) -> None:
        """Moves the campaign of the same tenant, unless a newer run has done so."""
        await campaign_repository.update_from_run(
            self._transaction, self._run.tenant_id, campaign_id, status, bundle_url, latest_run_id
        )


class HeldRunRepository:
    """What the worker that claimed `run` may write; every method raises Fenced once it is not its own."""

    def __init__(self, database: Database, run: ClaimedRun, worker: str) -> None:
        self._scope = database.tenant(run.tenant_id)
        self._worker = worker
        self.run = run

    async def _fenced(self, function: Function, *arguments: object) -> int:
        rows = await self._scope.call(function, self.run.id, self.run.epoch, *arguments)
        if not rows:
            raise Fenced
        return int(rows[0][0])

    async def begin_step(self, task_id: UUID, step_id: str, skill_id: str, cache_hit: bool) -> int:
        """Records that a node starts, and answers which execution of the step this is, from 1."""
        return await self._fenced(_BEGIN_STEP, task_id, step_id, skill_id, cache_hit)

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

    async def save_writes(
        self,
        checkpoint_ns: str,
        checkpoint_id: str,
        task_id: str,
        task_path: str,
        writes: Sequence[tuple[int, str, str, bytes]],
        completed_step: UUID | None,
    ) -> None:
        """Stores what a task wrote, as (index, channel, type, value), and completes its step."""
        columns = [list(column) for column in zip(*writes, strict=True)] or [[], [], [], []]
        await self._fenced(
            _SAVE_WRITES, checkpoint_ns, checkpoint_id, task_id, task_path, *columns, completed_step
        )

    async def save_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        """Stores a checkpoint, which becomes the current one of its namespace."""
        await self._fenced(
            _SAVE_CHECKPOINT,
            checkpoint.checkpoint_ns,
            checkpoint.checkpoint_id,
            checkpoint.parent_checkpoint_id,
            checkpoint.type,
            checkpoint.checkpoint,
            checkpoint.metadata,
        )

    async def get_checkpoint(self, checkpoint_ns: str, checkpoint_id: str | None) -> StoredCheckpoint | None:
        """The checkpoint of that id, or the current one when the id is None."""
        rows = await self._scope.call(_GET_CHECKPOINT, self.run.id, checkpoint_ns, checkpoint_id)
        return StoredCheckpoint(**rows[0]) if rows else None

    async def list_checkpoints(self, checkpoint_ns: str | None, before: str | None) -> list[StoredCheckpoint]:
        """Newest first; `before` leaves out that id and all newer ones."""
        rows = await self._scope.call(_LIST_CHECKPOINTS, self.run.id, checkpoint_ns, before)
        return [StoredCheckpoint(**row) for row in rows]

    async def list_writes(self, checkpoint_ns: str, checkpoint_id: str) -> list[tuple[str, str, str, bytes]]:
        """What tasks wrote on top of a checkpoint: (task id, channel, type, value)."""
        rows = await self._scope.call(_LIST_WRITES, self.run.id, checkpoint_ns, checkpoint_id)
        return [(row["task_id"], row["channel"], row["type"], row["value"]) for row in rows]

    async def prune_checkpoints(self) -> None:
        """Keeps of each namespace the current checkpoint with its writes, and what these build on."""
        await self._fenced(_PRUNE_CHECKPOINTS)

    async def drop_checkpoints(self) -> None:
        """Deletes all checkpoints and writes."""
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
        return bool(await self._scope.call(_HAS_ARTIFACT, artifact_id))

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
        """The transaction that ends the run: all of it happens, or nothing."""
        run = self.run
        async with self._scope.transaction() as transaction:
            if await transaction.fetchrow(_LOCK, run.tenant_id, run.id, run.epoch) is None:
                raise Fenced
            yield EndingRun(transaction, run, self._worker)
