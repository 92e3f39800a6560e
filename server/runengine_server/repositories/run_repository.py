"""The runs of one tenant, as callers see and move them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import asyncpg

from runengine_server.database.channels import CANCELLED, HANDED_BACK, QUEUED
from runengine_server.database.functions import each_call, tenant_function
from runengine_server.database.scopes import TenantScope
from runengine_server.domain.caller import Actor
from runengine_server.domain.encoded_run import canonical_response, encode_input
from runengine_server.domain.errors import StepNotFound
from runengine_server.domain.run import (
    Failure,
    NewRun,
    Resumption,
    RunEvent,
    RunStatus,
    RunStep,
    StepStatus,
)

# With no turns of the loop two of 64 triggers in flight are a statement, with four seven: a tenth less CPU of
# `serve` for each. With eight those of four callers take a tenth longer.
_TRIGGER = each_call("trigger_run", "trigger_runs_of_tenants", turns=4)
_TRIGGER_IN_THREAD = tenant_function("trigger_run_of_thread")
_GET = tenant_function("get_run")
_GET_OUTPUT = tenant_function("get_run_output")
_GET_STEP_DATA = tenant_function("get_run_step_data")
_CANCEL = tenant_function("cancel_run")
_RETRY = tenant_function("retry_run")
_RESUME = tenant_function("resume_run")
_LIST_OF_CAMPAIGN = tenant_function("list_campaign_runs")
_LIST_OF_CAMPAIGN_BY_STATUS = tenant_function("list_campaign_runs_by_status")
_LIST_EVENTS = tenant_function("list_run_events")
_LIST_STEPS = tenant_function("list_run_steps")


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The key of a call, and the hash of its request: the key is refused for a request with another hash."""

    key: str
    fingerprint: bytes


class Outcome(StrEnum):
    """What happened to a call that changes a run. Only APPLIED has changed it."""

    APPLIED = "applied"
    REPLAYED = "replayed"
    KEY_REUSED = "key reused"
    RUN_NOT_FOUND = "run not found"
    WRONG_STATUS = "wrong status"
    UNKNOWN_WORKFLOW = "unknown workflow"
    OVER_QUOTA = "over quota"
    NOT_WAITING = "not waiting"
    UNKNOWN_ID = "unknown id"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True)
class MutationResult:
    """`response` is encoded, a run in field 1. `status` and `attempt` are those that the run had before the
    call; a trigger and a replay have none. `has_campaign` of a run that was triggered says
    whether the campaign that it names is there; None where nobody looked.
    """

    outcome: Outcome
    response: bytes
    status: RunStatus
    attempt: int
    has_campaign: bool | None = None


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """`encoded` is a GetRunOutputResponse; None until the run has completed, and of one that did so before
    outputs were kept.
    """

    status: RunStatus
    attempt: int
    encoded: bytes | None


@dataclass(frozen=True, slots=True)
class StoredStepData:
    """Of one execution of a step: fields of a GetRunStepDataResponse, None where they are not kept."""

    status: StepStatus
    attempt: int
    encoded_input: bytes | None
    encoded_update: bytes | None


@dataclass(frozen=True, slots=True)
class Page:
    """`runs` are encoded, each in field 1; `last` is (created_at, id) of the last of them, where the
    list `has_more`; `counts` are those of the campaign, in the order of RunStatus.
    """

    runs: bytes
    last: tuple[datetime, UUID]
    has_more: bool
    counts: Sequence[int]


def _mutation_result(row: asyncpg.Record) -> MutationResult:
    outcome, response, status, attempt, has_campaign, _ = row
    if outcome == Outcome.REPLAYED:
        # A server of an earlier version may have stored it, with longer varints.
        response = canonical_response(response)
    before = status and RunStatus(status), attempt
    return MutationResult(Outcome(outcome), response, *before, has_campaign)


def _key_arguments(key: IdempotencyKey | None) -> tuple[str | None, bytes | None]:
    return (None, None) if key is None else (key.key, key.fingerprint)


def run_step(row: asyncpg.Record) -> RunStep:
    """The step of a row of list_run_steps."""
    return RunStep(
        place=row["place"],
        id=row["id"],
        parent_id=row["parent_id"],
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


def run_event(row: asyncpg.Record, attempt: int) -> RunEvent:
    """The transition of a row with the columns of run_events."""
    return RunEvent(
        at=row["at"],
        from_status=RunStatus(row["from_status"]) if row["from_status"] else None,
        to_status=RunStatus(row["to_status"]),
        attempt=attempt,
        actor=row["actor"],
        reason=row["reason"],
        trace_id=row["trace_id"],
        error=row["error"],
        operation_id=row["operation_id"],
    )


class RunRepository:
    """The runs of one tenant. Every method is one statement, and one round trip; workers are notified after
    its commit.
    """

    def __init__(self, scope: TenantScope) -> None:
        self._scope = scope

    async def trigger(
        self,
        new: NewRun,
        actor: Actor,
        key: IdempotencyKey | None,
        queued_limit: int | None,
        *,
        check_campaign: bool = False,
    ) -> MutationResult:
        """Queues the run, unless no worker has registered its workflow, or the tenant has `queued_limit` runs
        queued already. With `check_campaign` the result says whether the campaign that it names is there.
        """
        arguments = (
            new.id,
            new.request.workflow_name,
            encode_input(new),
            new.campaign_id,
            new.request.priority,
            actor.name,
            actor.trace_id,
            *_key_arguments(key),
            queued_limit,
            check_campaign,
        )
        # What may have to wait for the commit of another call is alone, so that nothing waits for it.
        if new.thread_id is not None:
            (row,) = await self._scope.call(_TRIGGER_IN_THREAD, *arguments, new.thread_id)
        elif key is None and queued_limit is None:
            row = await self._scope.call_batched(_TRIGGER, *arguments)
        else:
            (row,) = await self._scope.call(_TRIGGER.one, *arguments)
        return self._notify_queued(_mutation_result(row))

    async def get(self, run_id: UUID) -> bytes | None:
        """An encoded GetRunResponse with the run as it is now; None when the tenant has no run of that id."""
        rows = await self._scope.call(_GET, run_id)
        return rows[0][0] if rows else None

    async def get_output(self, run_id: UUID) -> StoredOutput | None:
        """What the graph of the run has returned; None when there is no such run."""
        rows = await self._scope.call(_GET_OUTPUT, run_id)
        if not rows:
            return None
        status, attempt, encoded = rows[0]
        return StoredOutput(RunStatus(status), attempt, encoded)

    async def get_step_data(self, run_id: UUID, step: UUID, attempt: int | None) -> StoredStepData | None:
        """What the step was called with and wrote, at its current attempt or the given one. None when there
        is no such run; raises StepNotFound when it has no such step, or the step no such attempt.
        """
        rows = await self._scope.call(_GET_STEP_DATA, run_id, step, attempt)
        if not rows:
            return None
        status, executed, encoded_input, encoded_update = rows[0]
        if status is None:
            raise StepNotFound
        return StoredStepData(StepStatus(status), executed, encoded_input, encoded_update)

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
        arguments = (campaign_id, limit, offset, *(after or (None, None)))
        if statuses:
            (row,) = await self._scope.call(_LIST_OF_CAMPAIGN_BY_STATUS, *arguments, list(statuses))
        else:
            (row,) = await self._scope.call(_LIST_OF_CAMPAIGN, *arguments)
        runs, last_created_at, last_id, has_more, *counts = row
        return Page(runs or b"", (last_created_at, last_id), has_more, counts)

    async def cancel(self, run_id: UUID, actor: Actor, key: IdempotencyKey | None) -> MutationResult:
        """Cancels the run and ends its steps, where its status allows that."""
        (row,) = await self._scope.call(_CANCEL, run_id, actor.name, actor.trace_id, *_key_arguments(key))
        result = _mutation_result(row)
        if result.outcome is Outcome.APPLIED and result.status is RunStatus.RUNNING:
            self._scope.notifier.notify(CANCELLED, f"{run_id} {result.attempt}")
        if result.outcome is Outcome.APPLIED:
            self._scope.notify_changed()
        # The next run of its thread, where it has one, is due now.
        return self._notify_queued(result) if row["is_of_thread"] else result

    async def retry(
        self, run_id: UUID, actor: Actor, key: IdempotencyKey | None, queued_limit: int | None
    ) -> MutationResult:
        """Queues the run again and makes its unfinished steps pending, where its status allows that, and the
        tenant has fewer than `queued_limit` runs queued.
        """
        (row,) = await self._scope.call(
            _RETRY, run_id, actor.name, actor.trace_id, *_key_arguments(key), queued_limit
        )
        return self._notify_queued(_mutation_result(row))

    async def resume(
        self, run_id: UUID, given: Resumption, actor: Actor, key: IdempotencyKey | None
    ) -> MutationResult:
        """Lets the run go on with what is given, where it waits for that."""
        (row,) = await self._scope.call(
            _RESUME,
            run_id,
            actor.name,
            actor.trace_id,
            *_key_arguments(key),
            given.value,
            given.values,
            list(given.ids),
        )
        result = _mutation_result(row)
        if result.outcome is Outcome.APPLIED:
            # It is running and nobody holds it: as one that was handed back.
            self._scope.notifier.notify(QUEUED, HANDED_BACK)
            self._scope.notify_changed()
        return result

    def _notify_queued(self, result: MutationResult) -> MutationResult:
        if result.outcome is Outcome.APPLIED:
            self._scope.notifier.notify(QUEUED)
            self._scope.notify_changed()
        return result

    async def list_steps(
        self, run_id: UUID, attempt: int | None, after: int = 0, limit: int | None = None
    ) -> list[RunStep] | None:
        """The steps in execution order, each at its current attempt, or those that have `attempt` at
        that one: up to `limit` of those after the place `after`. None when there is no such run.
        """
        rows = await self._scope.call(_LIST_STEPS, run_id, attempt, after, limit)
        return [run_step(row) for row in rows if row["id"] is not None] if rows else None

    async def list_events(
        self, run_id: UUID, after: int = 0, limit: int | None = None
    ) -> list[tuple[int, RunEvent]] | None:
        """Up to `limit` transitions of the run, each with its number, after that of the number `after`. None
        when there is no such run.
        """
        rows = await self._scope.call(_LIST_EVENTS, run_id, after, limit)
        if not rows:
            return None
        return [(row["seq"], run_event(row, row["attempt"])) for row in rows if row["seq"] is not None]
