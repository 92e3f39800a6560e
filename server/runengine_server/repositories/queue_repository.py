"""What a worker asks of all tenants together: which runs to take, and to keep."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from runengine_server.domain.run import ClaimedRun, RunStatus
from runengine_server.repositories.database import Database
from runengine_server.repositories.transition_sql import counted, logged

_CLAIMED = """runs.tenant_id, runs.id, runs.epoch, runs.workflow_name, runs.attempt, runs.losses,
    runs.campaign_id, runs.trigger_payload, runs.context"""

# queued -> running. Two statements for the two ways to claim, each on its partial index: one
# statement with OR uses neither index (105 against 3,900 claims/s).
_CLAIM_QUEUED = f"""
WITH due AS (
    SELECT tenant_id, id FROM runs WHERE status = 'queued' AND workflow_name = ANY($1)
    ORDER BY queued_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE runs SET status = 'running', epoch = epoch + 1, started_at = now_ms(),
        lease_expires_at = clock_timestamp() + make_interval(secs => $3), updated_at = touch(updated_at)
    FROM due WHERE runs.tenant_id = due.tenant_id AND runs.id = due.id
    RETURNING {_CLAIMED}, runs.updated_at, runs.error, runs.trace_id
), {logged("claimed", RunStatus.QUEUED, RunStatus.RUNNING, actor="$4", reason="'CLAIMED'")},
{counted("claimed", RunStatus.QUEUED, RunStatus.RUNNING)}
SELECT {_CLAIMED} FROM claimed AS runs
"""

# running -> running under another worker. A lease of -infinity was handed back by a worker that
# stopped in good order, which is no loss. statement_timestamp(), because clock_timestamp() is volatile
# and no index condition: 5.9 ms instead of 0.01 ms with 50,000 running runs.
_CLAIM_EXPIRED = f"""
WITH lost AS (
    SELECT tenant_id, id, (lease_expires_at > '-infinity')::int AS loss FROM runs
    WHERE status = 'running' AND lease_expires_at < statement_timestamp() AND workflow_name = ANY($1)
    ORDER BY lease_expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE runs SET epoch = epoch + 1, losses = losses + lost.loss,
        lease_expires_at = clock_timestamp() + make_interval(secs => $3)
    FROM lost WHERE runs.tenant_id = lost.tenant_id AND runs.id = lost.id
    RETURNING {_CLAIMED}, now_ms() AS updated_at, runs.error, runs.trace_id
), {logged("claimed", RunStatus.RUNNING, RunStatus.RUNNING, actor="$4", reason="'TAKEN_OVER'")}
SELECT {_CLAIMED} FROM claimed AS runs
"""

# The steps of the runs just taken over. A statement of its own, for its snapshot must be younger than
# the new epochs: the lost worker may have started a step while _CLAIM_EXPIRED was looking.
_FAIL_LOST_STEPS = """
UPDATE run_steps SET status = 'failed', completed_at = now_ms(), updated_at = touch(updated_at),
    error = jsonb_build_object('code', 'WORKER_LOST', 'message', 'Its worker went away.',
        'step_id', step_id, 'attempt', attempt, 'retryable', true)
FROM unnest($1::text[], $2::uuid[]) AS taken(tenant_id, id)
WHERE run_steps.tenant_id = taken.tenant_id AND run_steps.run_id = taken.id AND status = 'running'
"""

_HEARTBEAT = """
UPDATE runs SET lease_expires_at = clock_timestamp() + make_interval(secs => $4)
FROM unnest($1::text[], $2::uuid[], $3::bigint[]) AS held(tenant_id, id, epoch)
WHERE runs.tenant_id = held.tenant_id AND runs.id = held.id AND runs.epoch = held.epoch
    AND runs.status = 'running'
RETURNING runs.id
"""

_HAND_BACK = """
UPDATE runs SET lease_expires_at = '-infinity'
FROM unnest($1::text[], $2::uuid[], $3::bigint[]) AS held(tenant_id, id, epoch)
WHERE runs.tenant_id = held.tenant_id AND runs.id = held.id AND runs.epoch = held.epoch
    AND runs.status = 'running'
"""

# A thousand at a time, so that no transaction is long.
_FORGET_KEYS = """
DELETE FROM idempotency_keys WHERE (tenant_id, key) IN (
    SELECT tenant_id, key FROM idempotency_keys
    WHERE created_at < statement_timestamp() - interval '7 days' LIMIT 1000)
RETURNING 1
"""
_FORGET_CACHED = """
DELETE FROM step_cache WHERE (tenant_id, workflow_name, step_id, key) IN (
    SELECT tenant_id, workflow_name, step_id, key FROM step_cache
    WHERE expires_at < statement_timestamp() LIMIT 1000)
RETURNING 1
"""

_REGISTER = "INSERT INTO workflows (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"


def _claimed(row: asyncpg.Record) -> ClaimedRun:
    return ClaimedRun(**row)


def _columns(held: Sequence[ClaimedRun]) -> tuple[list[str], list[UUID], list[int]]:
    return [run.tenant_id for run in held], [run.id for run in held], [run.epoch for run in held]


class QueueRepository:
    """The queue as one worker sees it; `worker` names it in the log of transitions."""

    def __init__(self, database: Database, worker: str, workflow_names: Sequence[str], lease: float) -> None:
        self._dispatch = database.dispatch()
        self._worker = worker
        self._workflow_names = list(workflow_names)
        self._lease = lease

    async def register_workflows(self) -> None:
        """Lets callers trigger the workflows of this worker."""
        await self._dispatch.fetch(_REGISTER, self._workflow_names)

    async def claim_queued(self, limit: int) -> list[ClaimedRun]:
        """Takes up to `limit` queued runs, oldest first, for one lease."""
        rows = await self._dispatch.fetch(
            _CLAIM_QUEUED, self._workflow_names, limit, self._lease, self._worker
        )
        return [_claimed(row) for row in rows]

    async def claim_expired(self, limit: int) -> list[ClaimedRun]:
        """Takes up to `limit` runs whose worker let the lease end."""
        async with self._dispatch.transaction() as transaction:
            rows = await transaction.fetch(
                _CLAIM_EXPIRED, self._workflow_names, limit, self._lease, self._worker
            )
            taken = [_claimed(row) for row in rows]
            if taken:
                tenant_ids, ids, _ = _columns(taken)
                await transaction.execute(_FAIL_LOST_STEPS, tenant_ids, ids)
        return taken

    async def heartbeat(self, held: Sequence[ClaimedRun]) -> set[UUID]:
        """Renews the leases, all in one statement, and answers the ids that are still held."""
        rows = await self._dispatch.fetch(_HEARTBEAT, *_columns(held), self._lease)
        return {row["id"] for row in rows}

    async def hand_back(self, held: Sequence[ClaimedRun]) -> None:
        """Ends the leases now, so that another worker goes on at once, and no loss is counted."""
        await self._dispatch.fetch(_HAND_BACK, *_columns(held))

    async def forget_old(self) -> None:
        """Deletes idempotency keys of more than seven days, and cache entries that have expired."""
        for sql in (_FORGET_KEYS, _FORGET_CACHED):
            while await self._dispatch.fetch(sql):
                pass
