"""What a worker writes for a run that it holds. Every statement is fenced: it takes effect only while
the run is running under the worker's epoch, and raises Fenced otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

from runengine_server.domain.encoded_run import encode_error
from runengine_server.domain.errors import Fenced, StatementRefused
from runengine_server.domain.run import Artifact, CampaignStatus, ClaimedRun, Failure, RunStatus
from runengine_server.repositories.campaign_repository import update_from_run
from runengine_server.repositories.database import Database
from runengine_server.repositories.functions import Function
from runengine_server.repositories.transition_sql import counted, logged

# The fence. FOR SHARE, because without the lock a takeover could commit between this look and the
# write. A claim raises the epoch and skips locked rows, so it comes wholly before or wholly after.
_HELD = """held AS (
    SELECT attempt FROM public.runs WHERE tenant_id = $1 AND id = $2 AND epoch = $3 AND status = 'running'
    FOR SHARE
)"""

# The fence of a function of several statements, each of which sees what others have stored before it.
_HOLD = """SELECT attempt INTO attempt_of_run FROM public.runs
    WHERE tenant_id = $1 AND id = $2 AND epoch = $3 AND status = 'running' FOR SHARE;
    IF NOT FOUND THEN RETURN; END IF;"""

# What has been done since the last statement: $4 the steps that completed, $5 to $12 what tasks wrote, $13
# to $18 checkpoints, oldest first. A step completes (running -> completed) in one transaction with the
# writes that make it so: it is completed exactly when LangGraph will not run it again.
_DONE_PARAMETERS = """text, uuid, bigint, uuid[],
    text[], text[], text[], text[], int[], text[], text[], bytea[],
    text[], text[], text[], text[], bytea[], bytea[]"""
_DONE = f"""
    {_HOLD}
    IF $5 <> '{{}}' THEN
        INSERT INTO public.checkpoint_writes (tenant_id, run_id, checkpoint_ns, checkpoint_id, task_id,
            task_path, idx, channel, type, value)
        SELECT $1, $2, written.* FROM unnest($5, $6, $7, $8, $9, $10, $11, $12) AS written
        ON CONFLICT (tenant_id, run_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE
            SET channel = excluded.channel, type = excluded.type, value = excluded.value;
    END IF;
    IF $13 <> '{{}}' THEN
        INSERT INTO public.checkpoints (tenant_id, run_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
            type, checkpoint, metadata)
        SELECT $1, $2, saved.* FROM unnest($13, $14, $15, $16, $17, $18) AS saved
        ON CONFLICT (tenant_id, run_id, checkpoint_ns, checkpoint_id) DO UPDATE
            SET checkpoint = excluded.checkpoint, metadata = excluded.metadata;
    END IF;
    IF $4 <> '{{}}' THEN
        UPDATE public.run_steps SET status = 'completed', completed_at = public.now_ms(),
            updated_at = public.touch(updated_at)
        WHERE tenant_id = $1 AND run_id = $2 AND id = ANY($4) AND status = 'running';
    END IF;"""

_RECORD = Function(
    "record",
    _DONE_PARAMETERS,
    "attempt int",
    f"{_DONE} attempt := attempt_of_run; RETURN NEXT;",
    steps=True,
    variables="attempt_of_run int;",
)

# pending or nothing -> running. An execution still marked running was stopped by its own timeout, and
# may still be cleaning up; what it writes from now on names its own attempt, and changes nothing.
_BEGIN_STEP = Function(
    "begin_step",
    f"{_DONE_PARAMETERS}, uuid, text, text, boolean",
    "attempt int",
    f"""{_DONE}
    LOOP
        SELECT run_steps.attempt, run_steps.status INTO attempt, latest FROM public.run_steps
        WHERE tenant_id = $1 AND run_id = $2 AND id = $19 ORDER BY run_steps.attempt DESC LIMIT 1;
        IF latest = 'pending' THEN
            UPDATE public.run_steps SET status = 'running', cache_hit = $22, started_at = public.now_ms(),
                updated_at = public.touch(updated_at)
            WHERE tenant_id = $1 AND run_id = $2 AND id = $19 AND status = 'pending';
            EXIT;
        END IF;
        UPDATE public.run_steps SET status = 'failed', completed_at = public.now_ms(),
            updated_at = public.touch(updated_at),
            error = jsonb_build_object('code', 'STEP_TIMED_OUT', 'message', 'It ran into its time limit.',
                'step_id', step_id, 'attempt', run_steps.attempt, 'retryable', true)
        WHERE latest = 'running' AND tenant_id = $1 AND run_id = $2 AND id = $19 AND status = 'running';
        attempt := coalesce(attempt, 0) + 1;
        INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status,
            cache_hit, started_at)
        VALUES ($1, $2, $19, attempt, attempt_of_run, $20, $21, 'running', $22, public.now_ms())
        ON CONFLICT DO NOTHING;
        -- Not found when one that was stopped while it began has committed only now.
        EXIT WHEN FOUND;
    END LOOP;
    RETURN NEXT;""",
    steps=True,
    variables="attempt_of_run int; latest text;",
)

# running -> failed; when its retry policy grants another execution, that one is pending at once.
_FAIL_STEP = Function(
    "fail_step",
    "text, uuid, bigint, uuid, jsonb, boolean, int, boolean",
    "held int",
    f"""
WITH {_HELD}, failed AS (
    UPDATE public.run_steps SET status = 'failed', handled = $8, completed_at = public.now_ms(),
        updated_at = public.touch(updated_at),
        error = $5 || jsonb_build_object('step_id', step_id, 'attempt', run_steps.attempt)
    FROM held WHERE tenant_id = $1 AND run_id = $2 AND id = $4 AND run_steps.attempt = $7
        AND status = 'running'
    RETURNING run_steps.attempt, run_attempt, step_id, skill_id
), next AS (
    INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status)
    SELECT $1, $2, $4, attempt + 1, run_attempt, step_id, skill_id, 'pending' FROM failed WHERE $6
), handled AS (
    UPDATE public.run_steps SET handled = true
    FROM held WHERE $8 AND tenant_id = $1 AND run_id = $2 AND id = $4 AND run_steps.attempt = $7
        AND status = 'failed'
)
SELECT 1 FROM held
""",
)

# running or completed -> failed, when what the execution wrote turns out to be what its graph cannot take: it
# is not stored any more, so that the node runs again when the graph resumes. The tasks of a sub-graph are no
# steps.
_TAKE_BACK = Function(
    "take_back",
    "text, uuid, bigint, text, text, text[], jsonb",
    "held int",
    f"""
WITH {_HELD}, written AS (
    DELETE FROM public.checkpoint_writes USING held
    WHERE tenant_id = $1 AND run_id = $2 AND checkpoint_ns = $4 AND checkpoint_id = $5 AND task_id = ANY($6)
), failed AS (
    UPDATE public.run_steps SET status = 'failed', completed_at = public.now_ms(),
        updated_at = public.touch(updated_at),
        error = $7 || jsonb_build_object('step_id', step_id, 'attempt', run_steps.attempt)
    FROM held WHERE tenant_id = $1 AND run_id = $2 AND id = ANY($6::uuid[])
        AND status IN ('running', 'completed')
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
SELECT {_CHECKPOINT} FROM public.checkpoints
WHERE tenant_id = $1 AND run_id = $2 AND checkpoint_ns = $3 AND ($4::text IS NULL OR checkpoint_id = $4)
ORDER BY seq DESC LIMIT 1
""",
)

_LIST_CHECKPOINTS = Function(
    "list_checkpoints",
    "text, uuid, text, text",
    _CHECKPOINT_COLUMNS,
    f"""
SELECT {_CHECKPOINT} FROM public.checkpoints
WHERE tenant_id = $1 AND run_id = $2 AND ($3::text IS NULL OR checkpoint_ns = $3)
    AND ($4::text IS NULL OR seq < (
        SELECT seq FROM public.checkpoints AS until WHERE until.tenant_id = $1 AND until.run_id = $2
            AND until.checkpoint_ns = checkpoints.checkpoint_ns AND until.checkpoint_id = $4))
ORDER BY seq DESC
""",
)

_LIST_WRITES = Function(
    "list_writes",
    "text, uuid, text, text",
    "task_id text, task_path text, channel text, type text, value bytea",
    """
SELECT task_id, task_path, channel, type, value FROM public.checkpoint_writes
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
    FROM public.checkpoints WHERE tenant_id = $1 AND run_id = $2
    ORDER BY checkpoint_ns, seq DESC
), pruned_checkpoints AS (
    DELETE FROM public.checkpoints AS stored WHERE {others}
), pruned_writes AS (
    DELETE FROM public.checkpoint_writes AS stored WHERE {others}
)"""


def _dropped(moved: str) -> str:
    """CTEs that leave no checkpoint and no write of run $2, if `moved` has a row."""
    return f"""dropped_checkpoints AS (
    DELETE FROM public.checkpoints WHERE tenant_id = $1 AND run_id = $2 AND EXISTS (SELECT FROM {moved})
), dropped_writes AS (
    DELETE FROM public.checkpoint_writes WHERE tenant_id = $1 AND run_id = $2 AND EXISTS (SELECT FROM {moved})
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
    INSERT INTO public.artifacts (tenant_id, run_id, id, name, media_type, size, key)
    SELECT $1, $2, $4, $5, $6, $7, $8 FROM held
), step AS (
    UPDATE public.run_steps SET output_artifact_ids = output_artifact_ids || $4::uuid,
        updated_at = public.touch(updated_at)
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
SELECT type, value FROM public.step_cache
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
    INSERT INTO public.step_cache (tenant_id, workflow_name, step_id, key, type, value, expires_at)
    SELECT $1, $4, $5, $6, $7, $8, clock_timestamp() + make_interval(secs => $9) FROM held
    ON CONFLICT (tenant_id, workflow_name, step_id, key) DO UPDATE
        SET type = excluded.type, value = excluded.value, expires_at = excluded.expires_at
)
SELECT 1 FROM held
""",
)

# running -> completed | failed, and the campaign $7, where there is one, with it. The fence is a lock in a
# statement of its own, so that the next one sees every step that was recorded under it. $11 are steps that
# have completed; of the others those that were due are skipped, and those under way were stopped by the
# failure of another. A completed run is final, so nothing will ever resume from its checkpoints.
_END = {
    target: Function(
        f"end_{target}",
        "text, uuid, bigint, bytea, text, text, uuid, text, text, uuid, uuid[]",
        "ended int",
        f"""
    PERFORM FROM public.runs
    WHERE tenant_id = $1 AND id = $2 AND epoch = $3 AND status = 'running' FOR UPDATE;
    IF NOT FOUND THEN RETURN; END IF;
    WITH run AS (
        UPDATE public.runs SET status = '{target}', error = $4,
            completed_at = greatest(public.now_ms(), started_at), lease_expires_at = NULL,
            updated_at = public.touch(updated_at)
        WHERE tenant_id = $1 AND id = $2 AND epoch = $3 AND status = 'running'
        RETURNING tenant_id, id, campaign_id, attempt, updated_at, error, trace_id
    ), steps AS (
        UPDATE public.run_steps SET
            status = CASE WHEN run_steps.status = 'pending' THEN 'skipped'
                WHEN run_steps.id = ANY($11) THEN 'completed' ELSE 'failed' END,
            error = CASE WHEN run_steps.status = 'running' AND run_steps.id <> ALL($11) THEN
                jsonb_build_object('code', 'STEP_INTERRUPTED',
                    'message', 'It was stopped because the run ended without it.', 'step_id', step_id,
                    'attempt', run_steps.attempt, 'retryable', true) END,
            completed_at = CASE WHEN run_steps.status = 'running' THEN public.now_ms() END,
            updated_at = public.touch(run_steps.updated_at)
        FROM run
        WHERE run_steps.tenant_id = $1 AND run_id = $2 AND run_steps.status IN ('pending', 'running')
    ), {logged("run", RunStatus.RUNNING, target, actor="$5", reason="$6")},
    {counted("run", RunStatus.RUNNING, target)}, {cleared("run")}
    SELECT 1 INTO ended FROM run;
    {update_from_run(campaign="$7", status="$8", bundle_url="$9", run="$10")};
    RETURN NEXT;""",
        steps=True,
    )
    for target, cleared in ((RunStatus.COMPLETED, _dropped), (RunStatus.FAILED, pruned))
}

_HAS_ARTIFACT = Function(
    "has_artifact",
    "text, uuid",
    "found int",
    "SELECT 1 FROM public.artifacts WHERE tenant_id = $1 AND id = $2",
)

FUNCTIONS = (
    _RECORD,
    _BEGIN_STEP,
    _FAIL_STEP,
    _TAKE_BACK,
    _GET_CHECKPOINT,
    _LIST_CHECKPOINTS,
    _LIST_WRITES,
    _PRUNE_CHECKPOINTS,
    _DROP_CHECKPOINTS,
    _SAVE_ARTIFACT,
    _GET_CACHED,
    _SAVE_CACHED,
    _HAS_ARTIFACT,
    *_END.values(),
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


class _Done:
    """What was done and is not stored yet, by the keys of its rows."""

    def __init__(self) -> None:
        self.completed: list[UUID] = []
        self.writes: dict[tuple[str, str, str, int], tuple[object, ...]] = {}
        self.checkpoints: dict[tuple[str, str], tuple[object, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self.completed or self.writes or self.checkpoints)

    def before(self, other: _Done) -> _Done:
        """Both as one."""
        both = _Done()
        both.completed = self.completed + other.completed
        both.writes = self.writes | other.writes
        both.checkpoints = self.checkpoints | other.checkpoints
        return both

    def columns(self) -> list[list[object]]:
        """As _DONE_PARAMETERS has them."""
        return [list(self.completed), *_columns(self.writes, 8), *_columns(self.checkpoints, 6)]


def _columns(rows: dict[Any, tuple[object, ...]], count: int) -> list[list[object]]:
    return [list(column) for column in zip(*rows.values(), strict=True)] or [[]] * count


class HeldRunRepository:
    """What the worker that claimed `run` may write; every method raises Fenced once it is not its own.

    What is done `later` goes out with the next statement, whatever that is, in the same transaction:
    between the end of the last node of a superstep and the beginning of the next node no code of the
    workflow's is run, and so a step takes one round trip, not three.
    """

    def __init__(self, database: Database, run: ClaimedRun, worker: str) -> None:
        self._scope = database.tenant(run.tenant_id)
        self._worker = worker
        self._done = _Done()
        self._in_order = asyncio.Lock()
        self.run = run

    async def _fenced(self, function: Function, *arguments: object) -> int:
        rows = await self._scope.call(function, self.run.id, self.run.epoch, *arguments)
        if not rows:
            raise Fenced
        return int(rows[0][0])

    async def _with_done(self, function: Function, *arguments: object) -> int:
        """Calls it with all that was done; whoever has done nothing still comes after what was."""
        async with self._in_order:
            if self._done:
                return await self._send_done(function, *arguments)
        return await self._fenced(function, *_Done().columns(), *arguments)

    async def _send_done(self, function: Function, *arguments: object) -> int:
        done, self._done = self._done, _Done()
        try:
            return await self._fenced(function, *done.columns(), *arguments)
        except StatementRefused:
            if function is not _RECORD:
                # By itself it may be fine; and when it is not, it would be refused each time.
                self._done = done.before(self._done)
            raise
        except BaseException:
            # Whether it is stored nobody knows. To store it twice does no harm.
            self._done = done.before(self._done)
            raise

    @property
    def is_behind(self) -> bool:
        """Whether something was done that no statement has gone out with yet."""
        return bool(self._done)

    async def flush(self) -> None:
        """Stores what was done `later`."""
        async with self._in_order:
            if self._done:
                await self._send_done(_RECORD)

    async def begin_step(self, task_id: UUID, step_id: str, skill_id: str, cache_hit: bool) -> int:
        """Records that a node starts, and answers which execution of the step this is, from 1."""
        return await self._with_done(_BEGIN_STEP, task_id, step_id, skill_id, cache_hit)

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
        if completed_step is not None:
            self._done.completed.append(completed_step)
        for write in writes:
            key = (checkpoint_ns, checkpoint_id, task_id, write[0])
            self._done.writes[key] = (checkpoint_ns, checkpoint_id, task_id, task_path, *write)
        if not later:
            await self._with_done(_RECORD)

    async def save_checkpoint(self, checkpoint: StoredCheckpoint, *, later: bool = False) -> None:
        """Stores a checkpoint, which becomes the current one of its namespace."""
        key = (checkpoint.checkpoint_ns, checkpoint.checkpoint_id)
        # Not dataclasses.astuple(), which copies: 5 % of what a worker does.
        self._done.checkpoints[key] = tuple(getattr(checkpoint, each.name) for each in fields(checkpoint))
        if not later:
            await self._with_done(_RECORD)

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
        """Ends the run as the block asks for, at its end: all of it happens, or nothing."""
        ending = EndingRun()
        yield ending
        assert ending.target is not None
        error, completes = ending.error, ending.target is RunStatus.COMPLETED
        if not completes:
            with suppress(StatementRefused):
                await self.flush()
        async with self._in_order:
            await self._fenced(
                _END[ending.target],
                encode_error(error) if error else None,
                self._worker,
                error.code if error else "COMPLETED",
                *ending.campaign,
                # Of a run that failed what was written is needed, with the completion of its step.
                self._done.completed if completes else [],
            )
            self._done = _Done()
