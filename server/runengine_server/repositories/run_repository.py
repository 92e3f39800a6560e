"""The runs of one tenant, as callers see and move them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import asyncpg

from runengine_server.domain.caller import Actor
from runengine_server.domain.encoded_run import canonical_response, encode_input
from runengine_server.domain.run import Failure, NewRun, RunEvent, RunStatus, RunStep, StepStatus
from runengine_server.domain.transitions import Transition
from runengine_server.repositories import idempotency_sql
from runengine_server.repositories.database import Scope
from runengine_server.repositories.functions import Function
from runengine_server.repositories.held_run_repository import pruned
from runengine_server.repositories.transition_sql import CANCELLED, ENDED, QUEUED, counted, logged

# A run as field 1 of a message: the whole of a GetRunResponse and its like, and one of the list's.
_RESPONSE = "public.encoded_response(encoded_input, encoded_state, priority)"

_MOVED = """RETURNING tenant_id, id, campaign_id, attempt, updated_at, error, trace_id, encoded_input,
        encoded_state, priority"""

# Only this near to its limit must a tenant's triggers wait for one another's commit, for the count
# to be exact: 1,000 are more than are triggered for one tenant at the same instant. The lock has two
# numbers, so that it is no other lock's one; tenants that share a hash only wait for each other.
_WITHIN_QUOTA = """
    IF {limit} IS NOT NULL THEN
        SELECT count(*) INTO queued FROM (
            SELECT FROM public.runs WHERE tenant_id = $1 AND status = 'queued' LIMIT {limit}) AS waiting;
        IF queued + 1000 > {limit} THEN
            PERFORM pg_advisory_xact_lock(7405, hashtext($1));
            SELECT count(*) INTO queued FROM (
                SELECT FROM public.runs WHERE tenant_id = $1 AND status = 'queued' LIMIT {limit}) AS waiting;
        END IF;
        IF queued >= {limit} THEN {refuse} END IF;
    END IF;"""

# nothing -> queued. $2 id, $3 workflow, $4 encoded input, $5 campaign, $6 priority, $7 actor, $8 trace, $9
# key, $10 fingerprint, $11 how many may be queued.
_TRIGGER = Function(
    "trigger_run",
    "text, uuid, text, bytea, uuid, int, text, text, text, bytea, int",
    idempotency_sql.COLUMNS,
    idempotency_sql.once("$9", "$10", f"""
    IF NOT EXISTS (SELECT FROM public.workflows WHERE name = $3) THEN
        {idempotency_sql.refuse("$9", "unknown workflow")}
    END IF;
    {_WITHIN_QUOTA.format(limit="$11", refuse=idempotency_sql.refuse("$9", "over quota"))}
    WITH run AS (
        INSERT INTO public.runs (tenant_id, id, workflow_name, encoded_input, campaign_id, priority, trace_id)
        VALUES ($1, $2, $3, $4, $5, $6, $8)
        {_MOVED}
    ), {logged("run", None, RunStatus.QUEUED, actor="$7", reason="'TRIGGERED'")},
    {counted("run", None, RunStatus.QUEUED)}
    SELECT {_RESPONSE} INTO answer FROM run;"""),
    steps=True,
    variables="queued bigint;",
)  # fmt: skip

_GET = Function(
    "get_run",
    "text, uuid",
    "response bytea",
    f"SELECT {_RESPONSE} FROM public.runs WHERE tenant_id = $1 AND id = $2",
)

# Cancel and retry take this lock in a statement of its own, so that the next statement's snapshot
# has every step that a worker recorded while it held the row. In one statement the step that was
# just being started would stay running for ever.
_LOCK = f"""
    SELECT status, attempt, {_RESPONSE} INTO current_status, current_attempt, answer FROM public.runs
    WHERE tenant_id = $1 AND id = $2 FOR UPDATE;
    IF NOT FOUND THEN {idempotency_sql.refuse("$5", "absent")} END IF;"""

# queued | running -> cancelled. The steps that were due are skipped, those under way have failed.
# Notified workers stop the graph; whatever they still write is fenced off by the status.
_CANCEL_FROM = {
    source: f"""
        WITH run AS (
            UPDATE public.runs SET status = 'cancelled', completed_at = {ENDED},
                lease_expires_at = NULL, updated_at = public.touch(updated_at)
            WHERE tenant_id = $1 AND id = $2 AND attempt = current_attempt AND status = '{source}'
            {_MOVED}
        ), steps AS (
            UPDATE public.run_steps SET
                status = CASE status WHEN 'running' THEN 'failed' ELSE 'skipped' END,
                error = CASE status WHEN 'running' THEN jsonb_build_object('code', 'RUN_CANCELLED',
                    'message', 'The run was cancelled.', 'step_id', step_id, 'attempt', attempt,
                    'retryable', true) END,
                completed_at = CASE status WHEN 'running' THEN {ENDED} END,
                updated_at = public.touch(updated_at)
            WHERE tenant_id = $1 AND run_id = (SELECT id FROM run) AND status IN ('pending', 'running')
        ), {logged("run", source, RunStatus.CANCELLED, "$3", "'CANCELLED'", "coalesce($4, trace_id)")},
        {counted("run", source, RunStatus.CANCELLED)}, {pruned("run")}
        SELECT {_RESPONSE} INTO answer FROM run;"""
    for source in Transition.CANCEL.sources
}

# failed | cancelled -> queued, attempt + 1. Steps that failed or were skipped are due again.
_RETRY_FROM = {
    source: f"""
        WITH run AS (
            UPDATE public.runs SET status = 'queued', attempt = attempt + 1, error = NULL, started_at = NULL,
                completed_at = NULL, losses = 0, hand_backs = 0, queued_at = public.now_ms(),
                trace_id = coalesce($4, trace_id), updated_at = public.touch(updated_at)
            WHERE tenant_id = $1 AND id = $2 AND attempt = current_attempt AND status = '{source}'
            {_MOVED}
        ), latest AS (
            SELECT DISTINCT ON (id) id, attempt, step_id, skill_id, status, handled FROM public.run_steps
            WHERE tenant_id = $1 AND run_id = $2
            ORDER BY id, attempt DESC
        ), steps AS (
            INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id,
                status)
            SELECT $1, run.id, latest.id, latest.attempt + 1, run.attempt, step_id, skill_id, 'pending'
            FROM latest, run WHERE latest.status IN ('failed', 'skipped') AND NOT handled
        ), {logged("run", source, RunStatus.QUEUED, "$3", "'RETRIED'")},
        {counted("run", source, RunStatus.QUEUED)}
        SELECT {_RESPONSE} INTO answer FROM run;"""
    for source in Transition.RETRY.sources
}


def _from_each(statements: dict[RunStatus, str], otherwise: str) -> str:
    cases = "".join(f"\n    WHEN '{source}' THEN {statement}" for source, statement in statements.items())
    return f"CASE current_status {cases}\n    ELSE {otherwise}\n    END CASE;"


# $2 id, $3 actor, $4 trace, $5 key, $6 fingerprint. A cancelled run is answered as it is.
_CANCEL = Function(
    "cancel_run",
    "text, uuid, text, text, text, bytea",
    idempotency_sql.COLUMNS,
    idempotency_sql.once("$5", "$6", f"""
    {_LOCK}
    IF current_status <> 'cancelled' THEN
    {_from_each(_CANCEL_FROM, idempotency_sql.refuse("$5", "refused"))}
    END IF;"""),
    steps=True,
)  # fmt: skip

# As for a cancel, and $7 how many may be queued.
_RETRY = Function(
    "retry_run",
    "text, uuid, text, text, text, bytea, int",
    idempotency_sql.COLUMNS,
    idempotency_sql.once("$5", "$6", f"""
    {_LOCK}
    IF current_status IN ({", ".join(f"'{source}'" for source in Transition.RETRY.sources)}) THEN
    {_WITHIN_QUOTA.format(limit="$7", refuse=idempotency_sql.refuse("$5", "over quota"))}
    END IF;
    {_from_each(_RETRY_FROM, idempotency_sql.refuse("$5", "refused"))}"""),
    steps=True,
    variables="queued bigint;",
)  # fmt: skip


def _list_of_campaign(by_status: bool, after: bool) -> Function:
    """A page with the counts of its campaign, in one statement and so in one snapshot. One run more
    than the page is looked at, to know whether there is another page.

    With statuses, the rows of each come in order from its own part of an index, and are merged: no more of
    them is read than the page, and one for each status. Past the end the answer still has the counts.
    """
    before = "AND (created_at, id) < ($5, $6)" if after else ""
    statuses = "$7" if after else "$5"
    page = f"""SELECT created_at, id, {_RESPONSE} AS response FROM public.runs
        WHERE tenant_id = $1 AND campaign_id = $2 {before}
        ORDER BY created_at DESC, id DESC LIMIT $3 + 1 OFFSET $4"""
    if by_status:
        # Ordered and limited each, else PostgreSQL reads all of them to sort.
        of_each = " UNION ALL ".join(
            f"""(SELECT created_at, id, {_RESPONSE} AS response FROM public.runs
            WHERE tenant_id = $1 AND campaign_id = $2 AND status = '{status}'
                AND '{status}' = ANY({statuses}) {before}
            ORDER BY created_at DESC, id DESC LIMIT $3 + 1 + $4)"""
            for status in RunStatus
        )
        page = f"{of_each} ORDER BY created_at DESC, id DESC LIMIT $3 + 1 OFFSET $4"
    return Function(
        "list_campaign_runs",
        "text, uuid, bigint, bigint"
        + (", timestamptz, uuid" if after else "")
        + (", text[]" if by_status else ""),
        """runs bytea, last_created_at timestamptz, last_id uuid, more boolean, queued bigint,
        running bigint, completed bigint, failed bigint, cancelled bigint""",
        f"""
WITH page AS MATERIALIZED (
    {page}
), shown AS MATERIALIZED (
    SELECT * FROM page ORDER BY created_at DESC, id DESC LIMIT $3
), counts AS (
    SELECT coalesce(sum(queued), 0)::bigint, coalesce(sum(running), 0)::bigint,
        coalesce(sum(completed), 0)::bigint, coalesce(sum(failed), 0)::bigint,
        coalesce(sum(cancelled), 0)::bigint
    FROM public.campaign_run_counts WHERE tenant_id = $1 AND campaign_id = $2
)
SELECT (SELECT string_agg(response, '' ORDER BY created_at DESC, id DESC) FROM shown), last.*,
    (SELECT count(*) FROM page) > $3, counts.*
FROM counts LEFT JOIN (SELECT created_at, id FROM shown ORDER BY created_at, id LIMIT 1) AS last ON true
""",
    )


_LIST_OF_CAMPAIGN = {
    (by_status, after): _list_of_campaign(by_status, after)
    for by_status in (False, True)
    for after in (False, True)
}

# Every run has its first event, so no row means no run.
_LIST_EVENTS = Function(
    "list_run_events",
    "text, uuid",
    """at timestamptz, from_status text, to_status text, attempt int, actor text, reason text,
    trace_id text, error bytea""",
    """
SELECT at, from_status, to_status, attempt, actor, reason, trace_id, error FROM public.run_events
WHERE tenant_id = $1 AND run_id = $2 ORDER BY seq
""",
)

# The current attempt of each step, or the given one of those that have it. A step keeps its place
# from its first attempt. LEFT JOIN: a run without a step is one row, and an absent run is none. See
# save_artifact for where its artifacts are.
_LIST_STEPS = Function(
    "list_run_steps",
    "text, uuid, int",
    """id uuid, step_id text, skill_id text, status text, cache_hit boolean, attempt int, error jsonb,
    output_artifact_ids uuid[], started_at timestamptz, completed_at timestamptz, created_at timestamptz,
    updated_at timestamptz""",
    """
SELECT step.id, step_id, skill_id, step.status, cache_hit, step.attempt, step.error,
    output_artifact_ids || ARRAY(
        SELECT artifacts.id FROM public.artifacts WHERE artifacts.tenant_id = $1 AND artifacts.run_id = $2
            AND task_id = step.id AND step_attempt = step.attempt
        ORDER BY artifacts.id),
    step.started_at, step.completed_at, step.created_at, step.updated_at
FROM public.runs LEFT JOIN LATERAL (
    SELECT *, min(seq) OVER step AS place, max(attempt) OVER step AS current FROM public.run_steps
    WHERE tenant_id = $1 AND run_id = $2 WINDOW step AS (PARTITION BY id)
) AS step ON step.attempt = coalesce($3, step.current)
WHERE runs.tenant_id = $1 AND runs.id = $2 ORDER BY place
""",
)

FUNCTIONS = (_TRIGGER, _GET, _CANCEL, _RETRY, *_LIST_OF_CAMPAIGN.values(), _LIST_EVENTS, _LIST_STEPS)


@dataclass(frozen=True, slots=True)
class Once:
    """The idempotency key of a call, None without one, and what tells its request from another's."""

    key: str | None
    fingerprint: bytes


class Outcome(StrEnum):
    """What became of a call that changes a run."""

    DONE = "done"
    REPLAYED = "replayed"
    ABSENT = "absent"
    REFUSED = "refused"
    UNKNOWN_WORKFLOW = "unknown workflow"
    OVER_QUOTA = "over quota"


@dataclass(frozen=True, slots=True)
class Acted:
    """`response` is encoded, a run in field 1; `fingerprint` is that of the request which was answered
    with it, where it is a replay; `status` and `attempt` are those that the run had before.
    """

    outcome: Outcome
    response: bytes
    fingerprint: bytes
    status: RunStatus
    attempt: int


@dataclass(frozen=True, slots=True)
class Page:
    """`runs` are encoded, each in field 1; `last` is (created_at, id) of the last of them where there
    are `more` after it; `counts` are those of the campaign, in the order of RunStatus.
    """

    runs: bytes
    last: tuple[datetime, UUID]
    more: bool
    counts: Sequence[int]


def _acted(row: asyncpg.Record) -> Acted:
    outcome, response, fingerprint, status, attempt = row
    if outcome == Outcome.REPLAYED:
        # A server of an earlier version may have stored it, with longer varints.
        response = canonical_response(response)
    return Acted(Outcome(outcome), response, fingerprint, status and RunStatus(status), attempt)


def _step(row: asyncpg.Record) -> RunStep:
    return RunStep(
        id=row["id"],
        step_id=row["step_id"],
        skill_id=row["skill_id"],
        status=StepStatus(row["status"]),
        cache_hit=row["cache_hit"],
        attempt=row["attempt"],
        error=Failure(**row["error"]) if row["error"] else None,
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
        error=row["error"],
    )


class RunRepository:
    """The runs of one tenant. Every method is one statement, and one round trip; workers are notified once
    it is committed.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def trigger(self, new: NewRun, actor: Actor, once: Once, queued_limit: int | None) -> Acted:
        """Queues the run, unless no worker has registered its workflow, or the tenant has as many queued
        as it may.
        """
        (row,) = await self._scope.call(
            _TRIGGER,
            new.id,
            new.workflow_name,
            encode_input(new),
            new.campaign_id,
            new.priority,
            actor.name,
            actor.trace_id,
            once.key,
            once.fingerprint,
            queued_limit,
        )
        return self._notified(_acted(row))

    async def get(self, run_id: UUID) -> bytes | None:
        """A response with the run as it is now; None when the tenant has none of that id."""
        rows = await self._scope.call(_GET, run_id)
        return rows[0][0] if rows else None

    async def list_of_campaign(
        self,
        campaign_id: UUID,
        statuses: Sequence[RunStatus],
        limit: int,
        offset: int,
        after: tuple[datetime, UUID] | None,
    ) -> Page:
        """Up to `limit` runs, most recent first, and how many the campaign has in each status.

        No statuses means all; `after` is (created_at, id) of the run before the first.
        """
        function = _LIST_OF_CAMPAIGN[bool(statuses), after is not None]
        arguments = [*(after or ()), *([list(set(statuses))] if statuses else [])]
        (row,) = await self._scope.call(function, campaign_id, limit, offset, *arguments)
        runs, last_created_at, last_id, more, *counts = row
        return Page(runs or b"", (last_created_at, last_id), more, counts)

    async def cancel(self, run_id: UUID, actor: Actor, once: Once) -> Acted:
        """Cancels the run and ends its steps, where its status allows that."""
        (row,) = await self._scope.call(
            _CANCEL, run_id, actor.name, actor.trace_id, once.key, once.fingerprint
        )
        acted = _acted(row)
        # No other has a worker that holds it.
        if acted.outcome is Outcome.DONE and acted.status is RunStatus.RUNNING:
            self._scope.notifier.notify(CANCELLED, f"{run_id} {acted.attempt}")
        return acted

    async def retry(self, run_id: UUID, actor: Actor, once: Once, queued_limit: int | None) -> Acted:
        """Queues the run again and makes its unfinished steps due, where its status allows that."""
        (row,) = await self._scope.call(
            _RETRY, run_id, actor.name, actor.trace_id, once.key, once.fingerprint, queued_limit
        )
        return self._notified(_acted(row))

    def _notified(self, acted: Acted) -> Acted:
        if acted.outcome is Outcome.DONE:
            self._scope.notifier.notify(QUEUED)
        return acted

    async def list_steps(self, run_id: UUID, attempt: int | None) -> list[RunStep] | None:
        """The steps in execution order, each at its current attempt, or those that have `attempt` at
        that one; None when there is no such run.
        """
        rows = await self._scope.call(_LIST_STEPS, run_id, attempt)
        return [_step(row) for row in rows if row["id"] is not None] if rows else None

    async def list_events(self, run_id: UUID) -> list[RunEvent] | None:
        """The transitions in order; None when there is no such run."""
        rows = await self._scope.call(_LIST_EVENTS, run_id)
        return [_event(row) for row in rows] if rows else None
