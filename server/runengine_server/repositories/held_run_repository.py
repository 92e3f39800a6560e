"""What a worker writes for a run that it holds. Every statement is fenced: it takes effect only while
the run is running under the worker's epoch, and raises Fenced otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import asyncpg

from runengine_server.domain.encoded_run import encode_error
from runengine_server.domain.errors import Fenced, StatementRefused
from runengine_server.domain.run import Artifact, CampaignStatus, ClaimedRun, Failure, RunStatus
from runengine_server.repositories.campaign_repository import update_from_run
from runengine_server.repositories.database import Database
from runengine_server.repositories.functions import Function
from runengine_server.repositories.transition_sql import ENDED, counted, logged
from runengine_server.repositories.write_behind import Done, StoredCheckpoint, WriteBehind

# The fence. With a lock, because without it a takeover could commit between this look and the write. FOR KEY
# SHARE, which goes with a heartbeat, however long a large state takes to store, and not with FOR UPDATE
# (README.tuplock of PostgreSQL 15): whatever raises the epoch or moves the status takes that lock before,
# and so it comes wholly before the write or wholly after.
_HELD = """held AS (
    SELECT attempt FROM public.runs WHERE tenant_id = $1 AND id = $2 AND epoch = $3 AND status = 'running'
    FOR KEY SHARE
)"""

# The fence of a function of several statements, each of which sees what others have stored before it.
_HOLD = """SELECT attempt INTO attempt_of_run FROM public.runs
    WHERE tenant_id = $1 AND id = $2 AND epoch = $3 AND status = 'running' FOR KEY SHARE;
    IF NOT FOUND THEN RETURN; END IF;"""

# What has been done since the last statement: $4 the steps that completed, $5 to $12 what tasks wrote, $13
# to $18 checkpoints, oldest first. Of the namespaces $19 what is older than the checkpoint $20 goes, and all
# of the namespaces $21. A step completes (running -> completed) in one transaction with the writes that make
# it so, or the checkpoint that sums them up: it is completed exactly when LangGraph will not run it again.
_DONE_PARAMETERS = """text, uuid, bigint, uuid[],
    text[], text[], text[], text[], int[], text[], text[], bytea[],
    text[], text[], text[], text[], bytea[], bytea[], text[], text[], text[]"""
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
        UPDATE public.run_steps SET status = 'completed', completed_at = {ENDED},
            updated_at = public.touch(updated_at)
        WHERE tenant_id = $1 AND run_id = $2 AND id = ANY($4) AND status = 'running';
    END IF;
    IF $19 <> '{{}}' THEN
        WITH needed AS (
            SELECT ns, seq FROM unnest($19, $20) AS oldest (ns, oldest_id) JOIN public.checkpoints
                ON tenant_id = $1 AND run_id = $2 AND checkpoint_ns = ns AND checkpoint_id = oldest_id
        ), superseded AS (
            DELETE FROM public.checkpoints AS stored USING needed
            WHERE tenant_id = $1 AND run_id = $2 AND checkpoint_ns = ns AND stored.seq < needed.seq
            RETURNING checkpoint_ns AS ns, checkpoint_id AS superseded_id
        )
        DELETE FROM public.checkpoint_writes USING superseded
        WHERE tenant_id = $1 AND run_id = $2 AND checkpoint_ns = ns AND checkpoint_id = superseded_id;
    END IF;
    IF $21 <> '{{}}' THEN
        DELETE FROM public.checkpoints WHERE tenant_id = $1 AND run_id = $2 AND checkpoint_ns = ANY($21);
        DELETE FROM public.checkpoint_writes
        WHERE tenant_id = $1 AND run_id = $2 AND checkpoint_ns = ANY($21);
    END IF;"""

_RECORD = Function(
    "record",
    _DONE_PARAMETERS,
    "id uuid, attempt int",
    f"{_DONE} attempt := attempt_of_run; RETURN NEXT;",
    steps=True,
    variables="attempt_of_run int;",
)

# Of the tasks $22: pending or nothing -> running; most have nothing yet. An execution still marked running
# was stopped by its own timeout, and may still be cleaning up; what it writes from now on names its own
# attempt, and changes nothing.
_BEGIN_STEP = Function(
    "begin_step",
    f"{_DONE_PARAMETERS}, uuid[], text[], text[], boolean[]",
    "id uuid, attempt int",
    f"""{_DONE}
    WITH first AS (
        INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status,
            cache_hit, started_at)
        SELECT $1, $2, task, 1, attempt_of_run, step, skill, 'running', cached, public.now_ms()
        FROM unnest($22, $23, $24, $25) WITH ORDINALITY AS begun (task, step, skill, cached, place)
        ORDER BY place
        ON CONFLICT DO NOTHING
        RETURNING run_steps.id
    )
    SELECT coalesce(array_agg(first.id), '{{}}') INTO firsts FROM first;
    RETURN QUERY SELECT unnest(firsts), 1;
    IF cardinality(firsts) = cardinality($22) THEN RETURN; END IF;
    FOR task, step, skill, cached IN SELECT * FROM unnest($22, $23, $24, $25) LOOP
        CONTINUE WHEN task = ANY(firsts);
        LOOP
            SELECT run_steps.attempt, run_steps.status INTO attempt, latest FROM public.run_steps
            WHERE tenant_id = $1 AND run_id = $2 AND run_steps.id = task
            ORDER BY run_steps.attempt DESC LIMIT 1;
            IF latest = 'pending' THEN
                UPDATE public.run_steps SET status = 'running', cache_hit = cached,
                    started_at = public.now_ms(), updated_at = public.touch(updated_at)
                WHERE tenant_id = $1 AND run_id = $2 AND run_steps.id = task AND status = 'pending';
                EXIT;
            END IF;
            UPDATE public.run_steps SET status = 'failed', completed_at = {ENDED},
                updated_at = public.touch(updated_at),
                error = jsonb_build_object('code', 'STEP_TIMED_OUT', 'message', 'It ran into its time limit.',
                    'step_id', step_id, 'attempt', run_steps.attempt, 'retryable', true)
            WHERE latest = 'running' AND tenant_id = $1 AND run_id = $2 AND run_steps.id = task
                AND status = 'running';
            attempt := coalesce(attempt, 0) + 1;
            INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id,
                status, cache_hit, started_at)
            VALUES ($1, $2, task, attempt, attempt_of_run, step, skill, 'running', cached, public.now_ms())
            ON CONFLICT DO NOTHING;
            -- Not found when one that was stopped while it began has committed only now.
            EXIT WHEN FOUND;
        END LOOP;
        id := task;
        RETURN NEXT;
    END LOOP;""",
    steps=True,
    variables="""attempt_of_run int; firsts uuid[]; latest text;
        task uuid; step text; skill text; cached boolean;""",
)

# running -> failed; when its retry policy grants another execution, that one is pending at once.
_FAIL_STEP = Function(
    "fail_step",
    "text, uuid, bigint, uuid, jsonb, boolean, int, boolean",
    "held int",
    f"""
WITH {_HELD}, failed AS (
    UPDATE public.run_steps SET status = 'failed', handled = $8,
        completed_at = {ENDED}, updated_at = public.touch(updated_at),
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
    UPDATE public.run_steps SET status = 'failed', completed_at = {ENDED},
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

# The execution that saved it lists it, up to the hundredth: the list is written again with each. The others
# name the execution.
_SAVE_ARTIFACT = Function(
    "save_artifact",
    "text, uuid, bigint, uuid, text, text, bigint, text, uuid, int",
    "held int",
    f"""
WITH {_HELD}, step AS (
    UPDATE public.run_steps SET updated_at = public.touch(updated_at),
        output_artifact_ids = CASE WHEN cardinality(output_artifact_ids) < 100
            THEN output_artifact_ids || $4::uuid ELSE output_artifact_ids END
    FROM held WHERE tenant_id = $1 AND run_id = $2 AND id = $9 AND run_steps.attempt = $10
        AND status = 'running'
    RETURNING id, run_steps.attempt, $4 = ANY(output_artifact_ids) AS listed
), saved AS (
    INSERT INTO public.artifacts (tenant_id, run_id, id, name, media_type, size, key, task_id, step_attempt)
    SELECT $1, $2, $4, $5, $6, $7, $8, step.id, step.attempt FROM held LEFT JOIN step ON NOT listed
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
            completed_at = {ENDED}, lease_expires_at = NULL,
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
            completed_at = CASE WHEN run_steps.status = 'running' THEN
                greatest(public.now_ms(), run_steps.started_at) END,
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
    """As _DONE_PARAMETERS has them, of what was done. A checkpoint that another one of them sums up is left
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

    async def _fenced(self, function: Function, *arguments: object) -> Sequence[asyncpg.Record]:
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
        async with self._behind.in_order:
            await self._fenced(
                _END[ending.target],
                encode_error(error) if error else None,
                self._worker,
                error.code if error else "COMPLETED",
                *ending.campaign,
                # Of a run that failed what was written is needed, with the completion of its step.
                self._behind.completed if completes else [],
            )
            self._behind.clear()
