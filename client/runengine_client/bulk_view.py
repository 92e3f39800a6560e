"""Bulk operations as a person reads them in a terminal. All times are UTC."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.text import Text
from runengine.rest_json import words_of
from runengine.v1.bulk_operation_service_pb2 import (
    BulkAction,
    BulkOperation,
    BulkOperationItem,
    BulkOperationStatus,
    BulkOutcome,
)
from runengine.v1.run_pb2 import RunStatus

from runengine_client.tables import entry, first_that_fits, new_table, plain, time_text

_STYLES = {
    "running": ("●", "cyan"),
    "completed": ("✓", "green"),
    "aborted": ("⊘", "magenta"),
    "dry_run": ("?", "blue"),
    "pending": ("○", "blue"),
    "done": ("✓", "green"),
    "refused": ("✗", "red"),
}
_ACTIONS = words_of(BulkAction.DESCRIPTOR)
_STATUSES, _OUTCOMES = words_of(BulkOperationStatus.DESCRIPTOR), words_of(BulkOutcome.DESCRIPTOR)
_RUN_STATUSES = words_of(RunStatus.DESCRIPTOR)


def operation_view(operation: BulkOperation) -> Text:
    """Shows everything about one operation, one field a line."""
    rows = [("id", Text(operation.id))] if operation.HasField("id") else []
    rows += [
        ("action", Text(_ACTIONS.get(operation.action, str(operation.action)))),
        ("status", _word(_STATUSES, operation.status)),
        ("runs", plain(counts_text(operation))),
    ]
    rows += [("refused", plain(f"{each.reason}: {each.count:,}")) for each in operation.refused]
    if operation.HasField("filter"):
        rows.append(("of", plain(_filter_text(operation))))
    if operation.HasField("reason"):
        rows.append(("reason", plain(operation.reason)))
    by = f" by {operation.impersonator}" if operation.HasField("impersonator") else ""
    rows += [
        ("pace", Text(f"{operation.pace:,} runs/s")),
        ("who", plain(f"{operation.actor}{by}")),
        ("created", Text(f"{time_text(operation.created_at)} UTC")),
    ]
    if operation.HasField("ended_at"):
        rows.append(("ended", Text(f"{time_text(operation.ended_at)} UTC")))
    if operation.HasField("note"):
        rows.append(("note", plain(operation.note)))
    return Text("\n").join(Text.assemble((f"{label:<9}", "dim"), value) for label, value in rows)


def operations_view(operations: Sequence[BulkOperation], console: Console) -> RenderableType:
    """Shows one operation a line, or two where the console is too narrow."""
    if not operations:
        return Text("no bulk operations", "dim")
    table = new_table()
    for header in ("id", "action", "status", "created (UTC)", "runs"):
        table.add_column(header, no_wrap=True)
    for each in operations:
        table.add_row(
            each.id,
            _ACTIONS.get(each.action, str(each.action)),
            _word(_STATUSES, each.status),
            time_text(each.created_at),
            counts_text(each),
        )
    return first_that_fits(console, table) or Group(*map(_operation_entry, operations))


def _operation_entry(operation: BulkOperation) -> RenderableType:
    action = _ACTIONS.get(operation.action, str(operation.action))
    created = Text(f"created {time_text(operation.created_at)}")
    return entry(
        [Text(operation.id), _word(_STATUSES, operation.status)],
        [Text(action), Text(counts_text(operation)), created],
    )


def items_view(items: Sequence[BulkOperationItem], console: Console) -> RenderableType:
    """Shows one run a line, or two where the console is too narrow; and how many there are."""
    footer = Text(f"{len(items):,} run{'' if len(items) == 1 else 's'}", "dim")
    if not items:
        return footer
    table = new_table()
    for header in ("run", "outcome", "why", "at (UTC)"):
        table.add_column(header, no_wrap=True)
    for each in items:
        at = time_text(each.at) if each.HasField("at") else ""
        table.add_row(each.run_id, _word(_OUTCOMES, each.outcome), plain(each.reason), at)
    shown = first_that_fits(console, table) or Group(*map(_item_entry, items))
    return Group(shown, Text(), footer)


def _item_entry(item: BulkOperationItem) -> RenderableType:
    at = Text(time_text(item.at) if item.HasField("at") else "")
    return entry([Text(item.run_id), _word(_OUTCOMES, item.outcome)], [plain(item.reason), at])


def refused_in(operation: BulkOperation) -> int:
    """How many runs were refused."""
    return sum(each.count for each in operation.refused)


def counts_text(operation: BulkOperation) -> str:
    """Returns text such as `500 matched, 480 done, 20 refused`."""
    counts = {
        "matched": operation.matched,
        "done": operation.done,
        "refused": refused_in(operation),
        "pending": operation.pending,
        "aborted": operation.aborted,
    }
    return ", ".join(f"{count:,} {word}" for word, count in counts.items() if count or word == "matched")


def _filter_text(operation: BulkOperation) -> str:
    wanted = operation.filter
    words = [_RUN_STATUSES.get(status, str(status)) for status in wanted.status]
    if wanted.waiting:
        words.append("waiting")
    for label, value in (
        ("workflow", wanted.workflow_name),
        ("campaign", wanted.campaign_id),
        ("error", wanted.error_code),
    ):
        if value:
            words.append(f"{label} {value}")
    if wanted.HasField("created_after"):
        words.append(f"since {time_text(wanted.created_after)}")
    if wanted.HasField("created_before"):
        words.append(f"until {time_text(wanted.created_before)}")
    return ", ".join(words) or "all runs"


def _word(words: dict[int, str], number: int) -> Text:
    word = words.get(number, str(number))
    symbol, style = _STYLES.get(word, ("?", ""))
    return Text(f"{symbol} {word.replace('_', ' ')}", style)
