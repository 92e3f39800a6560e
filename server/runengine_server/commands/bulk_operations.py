"""Retries or cancels many runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat

from runengine_server.domain.bulk_operation import (
    DEFAULT_PACE,
    MAX_RUNS,
    BulkAction,
    BulkOperation,
    BulkOperationStatus,
    NewBulkOperation,
    refusals_of,
)
from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import (
    BulkOperationCompleted,
    BulkOperationNotFound,
    BulkOperationTooLarge,
    IdempotencyKeyReused,
)
from runengine_server.repositories.bulk_operation_repository import (
    BulkOperationRepository,
    CreatedOperation,
    Statement,
)
from runengine_server.repositories.run_repository import IdempotencyKey


def new_operation(
    action: BulkAction, encoded_filter: bytes | None, reason: str | None, pace: int | None
) -> NewBulkOperation:
    """The operation, with a new id."""
    return NewBulkOperation(
        uuid_utils.compat.uuid7(), action, encoded_filter, reason, DEFAULT_PACE if pace is None else pace
    )


async def create_bulk_operation(
    operations: BulkOperationRepository,
    new: NewBulkOperation,
    store_items: Statement | None,
    actor: Actor,
    key: IdempotencyKey | None,
) -> tuple[CreatedOperation, BulkOperation]:
    """Stores the operation and the runs that the statement stores.

    Raises IdempotencyKeyReused, and BulkOperationTooLarge for more than 100,000 runs.
    """
    created = await operations.create(new, store_items, actor, key)
    if created.operation is None:
        raise IdempotencyKeyReused
    return created, created.operation


def dry_run(new: NewBulkOperation, counts: Mapping[str | None, int], actor: Actor) -> BulkOperation:
    """What the operation would be for so many runs in each status, under None those that are not there.

    Raises BulkOperationTooLarge.
    """
    matched = sum(counts.values())
    if matched > MAX_RUNS:
        raise BulkOperationTooLarge(MAX_RUNS)
    reasons, refused = refusals_of(new.action), dict[str, int]()
    for status, number in counts.items():
        if reason := reasons.get(status or ""):
            refused[reason] = refused.get(reason, 0) + number
    return BulkOperation(
        id=None,
        action=new.action,
        status=BulkOperationStatus.DRY_RUN,
        filter=new.filter,
        reason=new.reason,
        pace=new.pace,
        matched=matched,
        done=0,
        refused=refused,
        actor=actor.name,
        created_at=datetime.now(UTC),
    )


async def abort_bulk_operation(operations: BulkOperationRepository, operation_id: UUID) -> BulkOperation:
    """Ends the operation; an aborted one is returned unchanged.

    Raises BulkOperationNotFound, and BulkOperationCompleted when it has come to all of its runs.
    """
    operation = await operations.abort(operation_id)
    if operation is None:
        raise BulkOperationNotFound
    if operation.status is BulkOperationStatus.COMPLETED:
        raise BulkOperationCompleted
    return operation


def each_once(ids: Sequence[str]) -> list[UUID]:
    """The ids in their order, each once."""
    return list(dict.fromkeys(UUID(each) for each in ids))
