"""Bulk operations as messages of runengine.v1."""

from __future__ import annotations

from runengine.v1 import bulk_operation_service_pb2 as pb

from runengine_server.domain.bulk_operation import (
    BulkAction,
    BulkOperation,
    BulkOperationItem,
    BulkOperationStatus,
    BulkOutcome,
)
from runengine_server.domain.caller import split_actor
from runengine_server.rpc.messages import timestamp

ACTIONS = {pb.BulkAction.Value(f"BULK_ACTION_{action.name}"): action for action in BulkAction}
OUTCOMES = {pb.BulkOutcome.Value(f"BULK_OUTCOME_{outcome.name}"): outcome for outcome in BulkOutcome}

_NOTE = "The organisation has as many runs queued as it may; the operation goes on when it has fewer."


def operation_message(operation: BulkOperation) -> pb.BulkOperation:
    """The operation as callers see it."""
    actor, impersonator = split_actor(operation.actor)
    is_aborted = operation.status is BulkOperationStatus.ABORTED
    return pb.BulkOperation(
        id=None if operation.id is None else str(operation.id),
        action=pb.BulkAction.Value(f"BULK_ACTION_{operation.action.name}"),
        status=pb.BulkOperationStatus.Value(f"BULK_OPERATION_STATUS_{operation.status.name}"),
        filter=None if operation.filter is None else pb.RunFilter.FromString(operation.filter),
        reason=operation.reason,
        pace=operation.pace,
        matched=operation.matched,
        done=operation.done,
        refused=[
            pb.BulkRefusals(reason=reason, count=number)
            for reason, number in sorted(operation.refused.items())
        ],
        pending=0 if is_aborted else operation.undecided,
        aborted=operation.undecided if is_aborted else 0,
        actor=actor,
        impersonator=impersonator,
        created_at=timestamp(operation.created_at),
        ended_at=timestamp(operation.ended_at),
        note=_NOTE if operation.is_over_quota else None,
    )


def item_message(item: BulkOperationItem) -> pb.BulkOperationItem:
    """The run of an operation as callers see it."""
    return pb.BulkOperationItem(
        run_id=str(item.run_id),
        outcome=pb.BulkOutcome.Value(f"BULK_OUTCOME_{item.outcome.name}"),
        reason=item.reason,
        at=timestamp(item.at),
    )
