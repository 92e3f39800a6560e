"""The runs of one tenant, as callers see and move them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg

from runengine_server.domain.run import Failure, Run, RunStatus, RunStep, StepStatus
from runengine_server.domain.transitions import Transition
from runengine_server.repositories.database import Connection, Database

_RUN = """id, workflow_name, status, attempt, trigger_payload, context, error,
    started_at, completed_at, created_at, updated_at"""

# nothing -> queued. No row when no worker has registered the workflow. The notification goes out
# with the commit, and wakes a worker that waits in listen('runengine_queued').
_INSERT = f"""
WITH run AS (
    INSERT INTO runs (tenant_id, id, workflow_name, trigger_payload, context, campaign_id)
    SELECT $1, $2, name, $4, $5, $6 FROM workflows WHERE name = $3
    RETURNING {_RUN}
), event AS (
    INSERT INTO run_events (tenant_id, run_id, at, to_status, attempt, actor)
    SELECT $1, id, created_at, status, attempt, $7 FROM run
)
SELECT {_RUN}, pg_notify('runengine_queued', '') FROM run
"""

_GET = f"SELECT {_RUN} FROM runs WHERE tenant_id = $1 AND id = $2"

# The page and the total in one statement, so in one snapshot. LEFT JOIN: past the end of the list
# there is still one row, with the total and without a run.
_LIST_OF_CAMPAIGN = f"""
WITH page AS (
    SELECT {_RUN} FROM runs
    WHERE tenant_id = $1 AND campaign_id = $2 AND status = ANY($3)
    ORDER BY created_at DESC, id DESC LIMIT $4 OFFSET $5
), counted AS (
    SELECT count(*) AS total FROM runs WHERE tenant_id = $1 AND campaign_id = $2 AND status = ANY($3)
)
SELECT total, page.* FROM counted LEFT JOIN page ON true ORDER BY created_at DESC, id DESC
"""

# Cancel and retry take this lock in a statement of its own, so that the next statement's snapshot
# has every step that a worker recorded while it held the row. In one statement the step that was
# just being started would stay running for ever.
_LOCK = f"SELECT {_RUN} FROM runs WHERE tenant_id = $1 AND id = $2 FOR UPDATE"

# queued | running -> cancelled. The steps that were due are skipped, those under way have failed.
# Notified workers stop the graph; whatever they still write is fenced off by the status.
_CANCEL = f"""
WITH run AS (
    UPDATE runs SET status = 'cancelled', completed_at = now_ms(), lease_expires_at = NULL,
        updated_at = touch(updated_at)
    WHERE tenant_id = $1 AND id = $2 AND attempt = $3 AND status = $4 AND status = ANY($5)
    RETURNING {_RUN}
), steps AS (
    UPDATE run_steps SET
        status = CASE status WHEN 'running' THEN 'failed' ELSE 'skipped' END,
        error = CASE status WHEN 'running' THEN jsonb_build_object('code', 'RUN_CANCELLED',
            'message', 'The run was cancelled.', 'step_id', step_id, 'attempt', attempt,
            'retryable', true) END,
        completed_at = CASE status WHEN 'running' THEN now_ms() END,
        updated_at = touch(updated_at)
    WHERE tenant_id = $1 AND run_id = (SELECT id FROM run) AND status IN ('pending', 'running')
), event AS (
    INSERT INTO run_events (tenant_id, run_id, at, from_status, to_status, attempt, actor)
    SELECT $1, id, updated_at, $4, status, attempt, $6 FROM run
)
SELECT {_RUN}, pg_notify('runengine_cancelled', id || ' ' || attempt) FROM run
"""

# failed | cancelled -> queued, attempt + 1. Steps that failed or were skipped are due again.
_RETRY = f"""
WITH run AS (
    UPDATE runs SET status = 'queued', attempt = attempt + 1, error = NULL, started_at = NULL,
        completed_at = NULL, losses = 0, queued_at = now_ms(), updated_at = touch(updated_at)
    WHERE tenant_id = $1 AND id = $2 AND attempt = $3 AND status = $4 AND status = ANY($5)
    RETURNING {_RUN}
), latest AS (
    SELECT DISTINCT ON (id) id, attempt, step_id, skill_id, status FROM run_steps
    WHERE tenant_id = $1 AND run_id = $2
    ORDER BY id, attempt DESC
), steps AS (
    INSERT INTO run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status)
    SELECT $1, run.id, latest.id, latest.attempt + 1, run.attempt, step_id, skill_id, 'pending'
    FROM latest, run WHERE latest.status IN ('failed', 'skipped')
), event AS (
    INSERT INTO run_events (tenant_id, run_id, at, from_status, to_status, attempt, actor)
    SELECT $1, id, updated_at, $4, status, attempt, $6 FROM run
)
SELECT {_RUN}, pg_notify('runengine_queued', '') FROM run
"""

# The current attempt of each step. A step keeps its place from its first attempt. LEFT JOIN: a run
# that has no step yet is one row without a step, and an absent run is no row.
_LIST_STEPS = """
SELECT step.id, step_id, skill_id, step.status, cache_hit, step.attempt, step.error, output_artifact_ids,
    step.started_at, step.completed_at, step.created_at, step.updated_at
FROM runs LEFT JOIN LATERAL (
    SELECT *, min(seq) OVER step AS place, max(attempt) OVER step AS current FROM run_steps
    WHERE tenant_id = $1 AND run_id = $2 WINDOW step AS (PARTITION BY id)
) AS step ON step.attempt = step.current
WHERE runs.tenant_id = $1 AND runs.id = $2 ORDER BY place
"""


def _failure(stored: dict[str, Any] | None) -> Failure | None:
    return Failure(**stored) if stored is not None else None


def _run(row: asyncpg.Record) -> Run:
    return Run(
        id=row["id"],
        workflow_name=row["workflow_name"],
        status=RunStatus(row["status"]),
        attempt=row["attempt"],
        trigger_payload=row["trigger_payload"],
        context=row["context"],
        error=_failure(row["error"]),
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _step(row: asyncpg.Record) -> RunStep:
    return RunStep(
        id=row["id"],
        step_id=row["step_id"],
        skill_id=row["skill_id"],
        status=StepStatus(row["status"]),
        cache_hit=row["cache_hit"],
        attempt=row["attempt"],
        error=_failure(row["error"]),
        output_artifact_ids=tuple(row["output_artifact_ids"]),
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


class LockedRun:
    """A run under lock; `run` is what it is now."""

    def __init__(self, transaction: Connection, tenant_id: str, run: Run) -> None:
        self._transaction = transaction
        self._tenant_id = tenant_id
        self.run = run

    async def cancel(self, actor: str) -> Run:
        """The run, cancelled, and its steps ended."""
        return await self._move(_CANCEL, Transition.CANCEL, actor)

    async def retry(self, actor: str) -> Run:
        """The run, queued again, and its unfinished steps due again."""
        return await self._move(_RETRY, Transition.RETRY, actor)

    async def _move(self, sql: str, transition: Transition, actor: str) -> Run:
        run = self.run
        row = await self._transaction.fetchrow(
            sql, self._tenant_id, run.id, run.attempt, run.status, list(transition.sources), actor
        )
        assert row is not None, "under lock nobody else can have moved it"
        return _run(row)


class RunRepository:
    """The runs of `tenant_id`. `actor` is who moves a run, for its log of transitions."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self._database = database
        self._tenant_id = tenant_id

    async def insert(
        self,
        run_id: UUID,
        workflow_name: str,
        trigger_payload: bytes | None,
        context: bytes | None,
        campaign_id: UUID | None,
        actor: str,
    ) -> Run | None:
        """The run, queued; None when no worker has registered the workflow."""
        row = await self._database.fetchrow(
            _INSERT, self._tenant_id, run_id, workflow_name, trigger_payload, context, campaign_id, actor
        )
        return _run(row) if row else None

    async def get(self, run_id: UUID) -> Run | None:
        """The run as it is now; None when the tenant has none of that id."""
        row = await self._database.fetchrow(_GET, self._tenant_id, run_id)
        return _run(row) if row else None

    async def list_of_campaign(
        self, campaign_id: UUID, statuses: Sequence[RunStatus], limit: int, offset: int
    ) -> tuple[list[Run], int]:
        """One page, most recent first, and the exact number of all that match; no statuses means all."""
        rows = await self._database.fetch(
            _LIST_OF_CAMPAIGN, self._tenant_id, campaign_id, list(statuses or RunStatus), limit, offset
        )
        return [_run(row) for row in rows if row["id"] is not None], rows[0]["total"]

    @asynccontextmanager
    async def lock(self, run_id: UUID) -> AsyncIterator[LockedRun | None]:
        """The run, which nothing else moves until the block ends; None when the tenant has none."""
        async with self._database.transaction() as transaction:
            row = await transaction.fetchrow(_LOCK, self._tenant_id, run_id)
            yield LockedRun(transaction, self._tenant_id, _run(row)) if row else None

    async def list_steps(self, run_id: UUID) -> list[RunStep] | None:
        """The steps in execution order, each at its current attempt; None when there is no such run."""
        rows = await self._database.fetch(_LIST_STEPS, self._tenant_id, run_id)
        return [_step(row) for row in rows if row["id"] is not None] if rows else None
