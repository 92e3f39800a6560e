"""The operations on many runs of one tenant; and those of all tenants that go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

import asyncpg

from runengine_server.database.channels import CANCELLED, QUEUED
from runengine_server.database.database import Database
from runengine_server.database.functions import dispatch_function, tenant_function
from runengine_server.database.scopes import TenantScope
from runengine_server.domain.bulk_operation import (
    MAX_RUNS,
    BulkAction,
    BulkOperation,
    BulkOperationItem,
    BulkOperationStatus,
    BulkOutcome,
    NewBulkOperation,
    refusals_of,
)
from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import BulkOperationTooLarge, RunEngineError
from runengine_server.repositories.run_repository import IdempotencyKey, Outcome

_CREATE = tenant_function("create_bulk_operation")
_STORE_ITEMS = tenant_function("store_bulk_operation_items")
_START = tenant_function("start_bulk_operation")
_COUNT = tenant_function("count_runs_by_status")
_GET = tenant_function("get_bulk_operation")
_LIST = tenant_function("list_bulk_operations")
_LIST_ITEMS = tenant_function("list_bulk_operation_items")
_ABORT = tenant_function("abort_bulk_operation")
_RUN_BATCH = tenant_function("run_bulk_batch")
_RUN_ITEM = tenant_function("run_bulk_item")
_RUNNING = dispatch_function("running_bulk_operations")

# How many operations a server looks at.
_MOST_RUNNING = 100

_REFUSALS: Mapping[str, Mapping[str, str]] = {action.value: refusals_of(action) for action in BulkAction}

# SQL and its arguments.
Statement: TypeAlias = tuple[str, Sequence[object]]


@dataclass(frozen=True, slots=True)
class CreatedOperation:
    """The operation, as it is when it has just been created; None where the outcome is KEY_REUSED."""

    outcome: Outcome
    operation: BulkOperation | None


@dataclass(frozen=True, slots=True)
class RunningOperation:
    """An operation that goes on, of any tenant, and in how many seconds its next batch is due."""

    tenant_id: str
    id: UUID
    due_in: float


@dataclass(frozen=True, slots=True)
class DecidedItem:
    """What has become of the next run of an operation: `decided` is 1, or 0 where it waits for the quota.
    `left_out` is the run where PostgreSQL refuses to move it, and `code` its SQLSTATE.
    """

    decided: int
    left_out: UUID | None
    code: str | None


class BulkOperationRepository:
    """The operations of one tenant."""

    def __init__(self, scope: TenantScope, tenant_id: str) -> None:
        self._scope = scope
        self._tenant_id = tenant_id

    async def create(
        self, new: NewBulkOperation, store_items: Statement | None, actor: Actor, key: IdempotencyKey | None
    ) -> CreatedOperation:
        """Stores the operation with the runs that the statement stores, none without one, in one transaction.

        Raises BulkOperationTooLarge for more than MAX_RUNS: nothing is stored then.
        """
        key_arguments = (None, None) if key is None else (key.key, key.fingerprint)
        columns = new.id, new.action, new.filter, new.reason, new.pace, actor.name, actor.trace_id
        async with self._scope.transaction() as transaction:
            ((refused, known),) = await transaction.fetch(
                _CREATE.call, self._tenant_id, *columns, *key_arguments
            )
            if refused == Outcome.REPLAYED:
                (row,) = await transaction.fetch(_GET.call, self._tenant_id, known)
                return CreatedOperation(Outcome.REPLAYED, _operation(row).as_created())
            if refused is not None:
                return CreatedOperation(Outcome(refused), None)
            if store_items is not None:
                sql, arguments = store_items
                await transaction.execute(sql, *arguments)
            (row,) = await transaction.fetch(_START.call, self._tenant_id, new.id)
            if row["matched"] > MAX_RUNS:
                raise BulkOperationTooLarge(MAX_RUNS)
        return CreatedOperation(Outcome.APPLIED, _operation(row))

    def items_of(self, operation_id: UUID, runs: Sequence[UUID]) -> Statement:
        """The statement that stores these runs."""
        return _STORE_ITEMS.call, (self._tenant_id, operation_id, runs)

    async def count_by_status(self, runs: Sequence[UUID]) -> dict[str | None, int]:
        """How many of the runs are in each status; under None those that are not there."""
        return {row[0]: row[1] for row in await self._scope.call(_COUNT, runs)}

    async def get(self, operation_id: UUID) -> BulkOperation | None:
        """The operation as it is now; None when the tenant has none of that id."""
        rows = await self._scope.call(_GET, operation_id)
        return _operation(rows[0]) if rows else None

    async def list(self, before: UUID | None, limit: int) -> Sequence[BulkOperation]:
        """Up to `limit` operations, most recent first, after that one."""
        return [_operation(row) for row in await self._scope.call(_LIST, before, limit)]

    async def list_items(
        self, operation_id: UUID, outcomes: Sequence[BulkOutcome], after: int, limit: int
    ) -> Sequence[BulkOperationItem]:
        """Up to `limit` runs of the operation after the place `after`, of these outcomes."""
        rows = await self._scope.call(_LIST_ITEMS, operation_id, list(outcomes), after, limit)
        return [
            BulkOperationItem(place, run_id, BulkOutcome(outcome), reason, at)
            for place, run_id, outcome, reason, at in rows
        ]

    async def abort(self, operation_id: UUID) -> BulkOperation | None:
        """Ends the operation, unless it has ended; returns it as it is then. None when there is none."""
        rows = await self._scope.call(_ABORT, operation_id)
        return _operation(rows[0]) if rows else None

    async def run_batch(self, operation_id: UUID, runs: int, queued_limit: int | None) -> int | None:
        """Retries or cancels up to `runs` of its next runs, where that is due and no other server does it.
        Returns of how many it has decided; None where it does nothing. Raises StatementRefused where one of
        the runs cannot be moved.
        """
        rows = await self._scope.call(_RUN_BATCH, operation_id, runs, queued_limit, _REFUSALS)
        if not rows:
            return None
        ((decided, queued, cancelled),) = rows
        self._notify(decided, queued, cancelled)
        return int(decided)

    async def run_item(self, operation_id: UUID, queued_limit: int | None) -> DecidedItem | None:
        """As run_batch with one run, and refuses it for INTERNAL where it cannot be moved."""
        arguments = operation_id, queued_limit, _REFUSALS, RunEngineError.reason
        rows = await self._scope.call(_RUN_ITEM, *arguments)
        if not rows:
            return None
        ((decided, queued, cancelled, left_out, code),) = rows
        self._notify(decided, queued, cancelled)
        return DecidedItem(decided, left_out, code)

    def _notify(self, decided: int, queued: bool, cancelled: Sequence[str]) -> None:
        for run_and_attempt in cancelled:
            self._scope.notifier.notify(CANCELLED, run_and_attempt)
        if queued:
            self._scope.notifier.notify(QUEUED)
        if decided:
            self._scope.notify_changed()


async def running_operations(database: Database) -> Sequence[RunningOperation]:
    """The operations of all tenants that go on, the first that is due first."""
    rows = await database.dispatch().call(_RUNNING, _MOST_RUNNING)
    return [RunningOperation(**row) for row in rows]


def _operation(row: asyncpg.Record) -> BulkOperation:
    return BulkOperation(
        id=row["id"],
        action=BulkAction(row["action"]),
        status=BulkOperationStatus(row["status"]),
        filter=row["filter"],
        reason=row["reason"],
        pace=row["pace"],
        matched=row["matched"],
        done=row["done"],
        refused=row["refused"],
        actor=row["actor"],
        created_at=row["created_at"],
        ended_at=row["ended_at"],
        is_over_quota=row["is_over_quota"],
    )
