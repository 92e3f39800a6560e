"""The runs of one tenant, as callers see and move them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from runengine_server.domain.caller import Actor
from runengine_server.domain.run import Failure, NewRun, Run, RunEvent, RunStatus, RunStep, StepStatus
from runengine_server.domain.transitions import Transition
from runengine_server.repositories.database import Connection, Scope
from runengine_server.repositories.held_run_repository import pruned
from runengine_server.repositories.transition_sql import counted, logged

_RUN = """id, workflow_name, status, attempt, trigger_payload, context, error,
    started_at, completed_at, created_at, updated_at, priority"""

_MOVED = f"RETURNING {_RUN}, tenant_id, campaign_id, trace_id"

# nothing -> queued. No row when no worker has registered the workflow. The notification goes out
# with the commit, and wakes the workers.
_INSERT = f"""
WITH run AS (
    INSERT INTO runs (tenant_id, id, workflow_name, trigger_payload, context, campaign_id, trace_id, priority)
    SELECT $1, $2, name, $4, $5, $6, $8, $9 FROM workflows WHERE name = $3
    {_MOVED}
), {logged("run", None, RunStatus.QUEUED, actor="$7", reason="'TRIGGERED'")},
{counted("run", None, RunStatus.QUEUED)}
SELECT {_RUN}, pg_notify('runengine_queued', '') FROM run
"""

# Two numbers, so that it is no other lock's one; tenants that share a hash only wait for each other.
_LOCK_QUOTA = "SELECT pg_advisory_xact_lock(7405, hashtext($1))"

_COUNT_QUEUED = """
SELECT count(*) AS queued FROM (
    SELECT FROM runs WHERE tenant_id = $1 AND status = 'queued' LIMIT $2
) AS waiting
"""

_GET = f"SELECT {_RUN} FROM runs WHERE tenant_id = $1 AND id = $2"

# Cancel and retry take this lock in a statement of its own, so that the next statement's snapshot
# has every step that a worker recorded while it held the row. In one statement the step that was
# just being started would stay running for ever.
_LOCK = f"{_GET} FOR UPDATE"

# queued | running -> cancelled. The steps that were due are skipped, those under way have failed, and
# of the checkpoints that is kept which a retry resumes from.
# Notified workers stop the graph; whatever they still write is fenced off by the status.
_CANCEL = {
    source: f"""
WITH run AS (
    UPDATE runs SET status = 'cancelled', completed_at = greatest(now_ms(), started_at),
        lease_expires_at = NULL,
        updated_at = touch(updated_at)
    WHERE tenant_id = $1 AND id = $2 AND attempt = $3 AND status = '{source}'
    {_MOVED}
), steps AS (
    UPDATE run_steps SET
        status = CASE status WHEN 'running' THEN 'failed' ELSE 'skipped' END,
        error = CASE status WHEN 'running' THEN jsonb_build_object('code', 'RUN_CANCELLED',
            'message', 'The run was cancelled.', 'step_id', step_id, 'attempt', attempt,
            'retryable', true) END,
        completed_at = CASE status WHEN 'running' THEN now_ms() END,
        updated_at = touch(updated_at)
    WHERE tenant_id = $1 AND run_id = (SELECT id FROM run) AND status IN ('pending', 'running')
), {logged("run", source, RunStatus.CANCELLED, "$4", "'CANCELLED'", "coalesce($5, trace_id)")},
{counted("run", source, RunStatus.CANCELLED)}, {pruned("run")}
SELECT {_RUN}, pg_notify('runengine_cancelled', id || ' ' || attempt) FROM run
"""
    for source in Transition.CANCEL.sources
}

# failed | cancelled -> queued, attempt + 1. Steps that failed or were skipped are due again.
_RETRY = {
    source: f"""
WITH run AS (
    UPDATE runs SET status = 'queued', attempt = attempt + 1, error = NULL, started_at = NULL,
        completed_at = NULL, losses = 0, queued_at = now_ms(), trace_id = coalesce($5, trace_id),
        updated_at = touch(updated_at)
    WHERE tenant_id = $1 AND id = $2 AND attempt = $3 AND status = '{source}'
    {_MOVED}
), latest AS (
    SELECT DISTINCT ON (id) id, attempt, step_id, skill_id, status, handled FROM run_steps
    WHERE tenant_id = $1 AND run_id = $2
    ORDER BY id, attempt DESC
), steps AS (
    INSERT INTO run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status)
    SELECT $1, run.id, latest.id, latest.attempt + 1, run.attempt, step_id, skill_id, 'pending'
    FROM latest, run WHERE latest.status IN ('failed', 'skipped') AND NOT handled
), {logged("run", source, RunStatus.QUEUED, "$4", "'RETRIED'")},
{counted("run", source, RunStatus.QUEUED)}
SELECT {_RUN}, pg_notify('runengine_queued', '') FROM run
"""
    for source in Transition.RETRY.sources
}


def _list_of_campaign(by_status: bool, after: bool) -> str:
    """A page with the counts of its campaign, in one statement and so in one snapshot.

    With statuses, each brings its own first rows from its own index, and the page is the first of
    all. LEFT JOIN: past the end there is still one row, with the counts and without a run.
    """
    before = "AND (created_at, id) < ($5, $6)" if after else ""
    statuses = "$7" if after else "$5"
    page = f"""SELECT {_RUN} FROM runs
        WHERE tenant_id = $1 AND campaign_id = $2 {before}
        ORDER BY created_at DESC, id DESC LIMIT $3 OFFSET $4"""
    if by_status:
        page = f"""SELECT run.* FROM unnest({statuses}::text[]) AS wanted, LATERAL (
            SELECT {_RUN} FROM runs
            WHERE tenant_id = $1 AND campaign_id = $2 AND status = wanted {before}
            ORDER BY created_at DESC, id DESC LIMIT $3::bigint + $4::bigint
        ) AS run ORDER BY created_at DESC, id DESC LIMIT $3 OFFSET $4"""
    return f"""
WITH page AS (
    {page}
), counts AS (
    SELECT coalesce(sum(queued), 0)::bigint AS queued, coalesce(sum(running), 0)::bigint AS running,
        coalesce(sum(completed), 0)::bigint AS completed, coalesce(sum(failed), 0)::bigint AS failed,
        coalesce(sum(cancelled), 0)::bigint AS cancelled
    FROM campaign_run_counts WHERE tenant_id = $1 AND campaign_id = $2
)
SELECT counts.*, page.* FROM counts LEFT JOIN page ON true ORDER BY created_at DESC, id DESC
"""


_LIST_OF_CAMPAIGN = {
    (by_status, after): _list_of_campaign(by_status, after)
    for by_status in (False, True)
    for after in (False, True)
}

# Every run has its first event, so no row means no run.
_LIST_EVENTS = """
SELECT at, from_status, to_status, attempt, actor, reason, trace_id, error FROM run_events
WHERE tenant_id = $1 AND run_id = $2 ORDER BY seq
"""

# The current attempt of each step, or the given one of those that have it. A step keeps its place
# from its first attempt. LEFT JOIN: a run without a step is one row, and an absent run is none.
_LIST_STEPS = """
SELECT step.id, step_id, skill_id, step.status, cache_hit, step.attempt, step.error, output_artifact_ids,
    step.started_at, step.completed_at, step.created_at, step.updated_at
FROM runs LEFT JOIN LATERAL (
    SELECT *, min(seq) OVER step AS place, max(attempt) OVER step AS current FROM run_steps
    WHERE tenant_id = $1 AND run_id = $2 WINDOW step AS (PARTITION BY id)
) AS step ON step.attempt = coalesce($3, step.current)
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
        priority=row["priority"],
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


def _event(row: asyncpg.Record) -> RunEvent:
    return RunEvent(
        at=row["at"],
        from_status=RunStatus(row["from_status"]) if row["from_status"] else None,
        to_status=RunStatus(row["to_status"]),
        attempt=row["attempt"],
        actor=row["actor"],
        reason=row["reason"],
        trace_id=row["trace_id"],
        error=_failure(row["error"]),
    )


class RunRepository:
    """The runs of `tenant_id`, each call on its own or all in the one transaction that `source` is."""

    def __init__(self, source: Scope | Connection, tenant_id: str) -> None:
        self._source = source
        self._tenant_id = tenant_id

    async def insert(self, new: NewRun, actor: Actor) -> Run | None:
        """The run, queued; None when no worker has registered the workflow."""
        row = await self._source.fetchrow(
            _INSERT,
            self._tenant_id,
            new.id,
            new.workflow_name,
            new.trigger_payload,
            new.context,
            new.campaign_id,
            actor.name,
            actor.trace_id,
            new.priority,
        )
        return _run(row) if row else None

    async def count_queued(self, limit: int, *, alone: bool = False) -> int:
        """How many runs of the tenant are queued, or `limit` if there are more. `alone`: no other
        transaction that counts alone is under way until this one ends.
        """
        if alone:
            await self._source.fetchrow(_LOCK_QUOTA, self._tenant_id)
        row = await self._source.fetchrow(_COUNT_QUEUED, self._tenant_id, limit)
        assert row is not None
        return int(row["queued"])

    async def get(self, run_id: UUID) -> Run | None:
        """The run as it is now; None when the tenant has none of that id."""
        row = await self._source.fetchrow(_GET, self._tenant_id, run_id)
        return _run(row) if row else None

    async def list_of_campaign(
        self,
        campaign_id: UUID,
        statuses: Sequence[RunStatus],
        limit: int,
        offset: int,
        after: tuple[datetime, UUID] | None,
    ) -> tuple[list[Run], dict[RunStatus, int]]:
        """Up to `limit` runs, most recent first, and how many the campaign has in each status.

        No statuses means all; `after` is (created_at, id) of the run before the first.
        """
        sql = _LIST_OF_CAMPAIGN[bool(statuses), after is not None]
        arguments = [*(after or ()), *([list(set(statuses))] if statuses else [])]
        rows = await self._source.fetch(sql, self._tenant_id, campaign_id, limit, offset, *arguments)
        counts = {status: rows[0][status.value] for status in RunStatus}
        return [_run(row) for row in rows if row["id"] is not None], counts

    async def lock(self, run_id: UUID) -> Run | None:
        """The run, which nobody else moves until the transaction ends; None when there is none."""
        row = await self._source.fetchrow(_LOCK, self._tenant_id, run_id)
        return _run(row) if row else None

    async def cancel(self, locked: Run, actor: Actor) -> Run:
        """The run, cancelled, and its steps ended."""
        return await self._move(_CANCEL[locked.status], locked, actor)

    async def retry(self, locked: Run, actor: Actor) -> Run:
        """The run, queued again, and its unfinished steps due again."""
        return await self._move(_RETRY[locked.status], locked, actor)

    async def _move(self, sql: str, locked: Run, actor: Actor) -> Run:
        row = await self._source.fetchrow(
            sql, self._tenant_id, locked.id, locked.attempt, actor.name, actor.trace_id
        )
        assert row is not None, "under lock nobody else can have moved it"
        return _run(row)

    async def list_steps(self, run_id: UUID, attempt: int | None) -> list[RunStep] | None:
        """The steps in execution order, each at its current attempt, or those that have `attempt` at
        that one; None when there is no such run.
        """
        rows = await self._source.fetch(_LIST_STEPS, self._tenant_id, run_id, attempt)
        return [_step(row) for row in rows if row["id"] is not None] if rows else None

    async def list_events(self, run_id: UUID) -> list[RunEvent] | None:
        """The transitions in order; None when there is no such run."""
        rows = await self._source.fetch(_LIST_EVENTS, self._tenant_id, run_id)
        return [_event(row) for row in rows] if rows else None
