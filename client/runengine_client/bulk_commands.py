"""The commands that retry and cancel many runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from runengine.v1.bulk_operation_service_pb2 import (
    BulkOperation,
    BulkOperationStatus,
    ListBulkOperationItemsResponse,
    ListBulkOperationsResponse,
)

from runengine_client import bulk_view
from runengine_client.command import NOT_COMPLETED, NOT_DONE, Session
from runengine_client.json_view import operation_items_json, operation_json, operations_json
from runengine_client.list_commands import (
    OfCampaign,
    OfError,
    OfWorkflow,
    Since,
    Statuses,
    Until,
    Waiting,
)


class OutcomeWord(StrEnum):
    """The values of `--outcome`."""

    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"
    ABORTED = "aborted"


RunIds = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN", help="Ids of the runs, in place of the options.", show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count what would be done, and do nothing.")]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Why, for whoever looks at it later.")]
Pace = Annotated[
    int | None, typer.Option(metavar="N", help="At most how many runs a second, 1 to 1000. Default: 100.")
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Makes the call safe to repeat: the same key and request are the same operation.",
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once: the server goes on by itself.")]
OperationId = Annotated[
    str, typer.Argument(metavar="OPERATION", help="Id of the bulk operation.", show_default=False)
]


def _command(action: Literal["retry", "cancel"], described: str) -> Callable[..., Awaitable[None]]:
    async def create(
        session: Session,
        run_ids: RunIds = None,
        status: Statuses = None,
        workflow: OfWorkflow = None,
        campaign: OfCampaign = None,
        error: OfError = None,
        waiting: Waiting = False,
        since: Since = None,
        until: Until = None,
        dry_run: DryRun = False,
        reason: Reason = None,
        pace: Pace = None,
        idempotency_key: Key = None,
        no_wait: NoWait = False,
    ) -> None:
        operation = await session.client.create_bulk_operation(
            action,
            ids=run_ids or None,
            status=status or [],
            workflow_name=workflow,
            campaign_id=campaign,
            error_code=error,
            waiting=waiting,
            created_after=since,
            created_before=until,
            dry_run=dry_run,
            reason=reason,
            pace=pace,
            idempotency_key=idempotency_key,
        )
        if not (dry_run or no_wait):
            operation = await _follow(session, operation)
        _show(session, operation)
        if operation.status == BulkOperationStatus.BULK_OPERATION_STATUS_ABORTED:
            raise typer.Exit(NOT_COMPLETED)
        if operation.refused and not (dry_run or no_wait):
            raise typer.Exit(NOT_DONE)

    create.__doc__ = described
    return create


_ENDS = "Exits with 1 when a run was refused, with 3 when the operation was aborted."
retry = _command(
    "retry",
    "Queues many failed or cancelled runs again: those that are named, or those that `runengine runs` finds "
    f"with the same options, at most 100,000. {_ENDS}",
)
cancel = _command(
    "cancel",
    "Cancels many queued or running runs: those that are named, or those that `runengine runs` finds with "
    f"the same options, at most 100,000. {_ENDS}",
)


async def list_(
    session: Session,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of operations to show at most, 1 to 100. Default: 20."),
    ] = None,
) -> None:
    """Shows the bulk operations of the tenant, most recent first."""
    page: ListBulkOperationsResponse = await session.client.list_bulk_operations(limit=limit)
    session.show(bulk_view.operations_view(page.operations, session.out), operations_json(page))


async def show(session: Session, operation_id: OperationId) -> None:
    """Shows a bulk operation, with its counts as they are now."""
    _show(session, await session.client.get_bulk_operation(operation_id))


async def items(
    session: Session,
    operation_id: OperationId,
    outcome: Annotated[
        list[OutcomeWord] | None,
        typer.Option(
            metavar="OUTCOME",
            help="Only runs that are pending, done, refused or aborted. Repeatable.",
        ),
    ] = None,
) -> None:
    """Shows the runs of a bulk operation, and what became of each."""
    words = [each.value for each in outcome or ()]
    found = session.client.iterate_bulk_operation_items(operation_id, outcome=words)
    page = ListBulkOperationItemsResponse(items=[item async for item in found])
    page.limit = len(page.items)
    session.show(bulk_view.items_view(page.items, session.out), operation_items_json(page))


async def abort(session: Session, operation_id: OperationId) -> None:
    """Ends a bulk operation before it has come to all of its runs; what it has done stays."""
    _show(session, await session.client.abort_bulk_operation(operation_id))


def _show(session: Session, operation: BulkOperation) -> None:
    session.show(bulk_view.operation_view(operation), operation_json(operation))


async def _follow(session: Session, created: BulkOperation) -> BulkOperation:
    """The operation as it has ended. Shows how it goes on stderr: a bar in a terminal, else lines."""
    is_terminal = session.err.is_terminal
    more = TextColumn("{task.fields[more]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), more)
    line, note = "", ""
    last = created
    try:
        with Progress(*columns, console=session.err, disable=not is_terminal) as progress:
            bar = progress.add_task(created.id, total=created.matched, more="")
            async for last in session.client.follow_bulk_operation(created.id):
                refused = bulk_view.refused_in(last)
                words = f"{refused:,} refused" if refused else ""
                progress.update(bar, completed=last.done + refused, more=words)
                if not is_terminal and line != (line := bulk_view.counts_text(last)):
                    session.note(f"{last.id}: {line}")
                if last.note and last.note != note:
                    session.note(last.note)
                note = last.note
    except asyncio.CancelledError:
        session.note(f"the operation goes on: `runengine bulk abort {created.id}` ends it")
        raise
    return last
