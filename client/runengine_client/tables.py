"""The messages of runengine.v1 as a person reads them in a terminal. All times are UTC."""

from __future__ import annotations

import json
from collections.abc import Sequence

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from runengine.rest_json import words_of
from runengine.v1.artifact_service_pb2 import Artifact
from runengine.v1.campaign_pb2 import Campaign
from runengine.v1.run_pb2 import Run, RunError, RunEvent, RunStep, StepError, WaitingFor
from runengine.v1.workflow_service_pb2 import Workflow

from runengine_client.structs import struct_to_dict

_SYMBOLS_AND_STYLES = {
    "queued": ("○", "blue"),
    "running": ("●", "cyan"),
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("⊘", "magenta"),
    "pending": ("○", "blue"),
    "skipped": ("-", "dim"),
    "draft": ("○", "blue"),
    "live": ("✓", "green"),
}

WAITING_STYLE = "yellow"

# Names and messages come from others: an escape sequence in them must not reach the terminal.
_CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")


def plain(text: str, style: str = "") -> Text:
    """Returns the text without markup and without control characters."""
    return Text(text.translate(_CONTROL), style, overflow="fold")


def as_it_is(text: Text) -> Text:
    """Returns the text, which is data and gets no ends of line of ours."""
    text.no_wrap = True
    return text


def status_text(message: Run | RunStep | RunEvent | Campaign) -> Text:
    """Returns the symbol and the word of the status, in its colour; its number if this client does not know
    it.

    Of an event it is the status that the run changed to.
    """
    field = message.DESCRIPTOR.fields_by_name["to_status" if isinstance(message, RunEvent) else "status"]
    assert field.enum_type is not None
    number = getattr(message, field.name)
    word = words_of(field.enum_type).get(number, str(number))
    symbol, style = _SYMBOLS_AND_STYLES.get(word, ("?", ""))
    return Text(f"{symbol} {word}", style)


def state_text(run: Run) -> Text:
    """Returns its status; of a run that waits for somebody, whose status is running, that it is waiting."""
    return Text("◆ waiting", WAITING_STYLE) if run.waiting_for else status_text(run)


def duration_text(message: Run | RunStep) -> str:
    """Returns how long it took; nothing without a duration."""
    return milliseconds_text(message.duration_ms) if message.HasField("duration_ms") else ""


def milliseconds_text(milliseconds: int) -> str:
    """Returns text such as `850 ms`, `1.2 s`, `3m 05s`, `27h 04m`."""
    if milliseconds < 1000:
        return f"{milliseconds} ms"
    if milliseconds < 59_950:
        return f"{milliseconds / 1000:.1f} s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes}m {seconds:02d}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"


def run_view(run: Run) -> RenderableType:
    """Shows everything about one run."""
    rows: list[tuple[str, RenderableType]] = [
        ("id", run.id),
        ("workflow", plain(run.workflow_name)),
        ("status", state_text(run)),
        ("attempt", str(run.attempt)),
        ("created", f"{time_text(run.created_at)} UTC"),
    ]
    if run.priority:
        rows.append(("priority", str(run.priority)))
    if run.HasField("started_at"):
        rows.append(("started", f"{time_text(run.started_at)} UTC"))
    if run.HasField("completed_at"):
        rows.append(("ended", f"{time_text(run.completed_at)} UTC"))
    if run.HasField("duration_ms"):
        rows.append(("duration", duration_text(run)))
    if run.HasField("error"):
        step = f"step {run.error.step_id}, " if run.error.HasField("step_id") else ""
        retryable = "retryable" if run.error.retryable else "not retryable"
        rows.append(("error", error_text(run.error)))
        rows.append(("", plain(f"{step}run attempt {run.error.attempt}, {retryable}", "dim")))
    rows += [("waits for", _waiting(each)) for each in run.waiting_for]
    if run.HasField("context"):
        rows.append(("context", _json(run.context)))
    if run.HasField("trigger_payload"):
        rows.append(("payload", _json(run.trigger_payload)))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for row in rows:
        grid.add_row(*row)
    return grid


def campaign_view(campaign: Campaign) -> Text:
    """Shows everything about one campaign, one field a line."""
    rows = [
        ("id", Text(campaign.id)),
        ("status", status_text(campaign)),
        ("bundle", plain(campaign.bundle_url or "none yet")),
        ("latest run", Text(campaign.latest_run_id or "none yet")),
        ("created", Text(f"{time_text(campaign.created_at)} UTC")),
        ("updated", Text(f"{time_text(campaign.updated_at)} UTC")),
    ]
    return Text("\n").join(Text.assemble((f"{label:<12}", "dim"), value) for label, value in rows)


def runs_view(runs: Sequence[Run], below: str, console: Console) -> RenderableType:
    """Shows one run a line, or two where the console is too narrow. `below` is the last line."""
    footer = Text(below, "dim")
    if not runs:
        return footer
    wide, narrow = _runs_table(runs, below_id=False), _runs_table(runs, below_id=True)
    return Group(first_that_fits(console, wide, narrow) or Group(*map(_run_entry, runs)), Text(), footer)


def _runs_table(runs: Sequence[Run], *, below_id: bool) -> Table:
    table = new_table()
    headers = ("id\nworkflow", "status", "created\n(UTC)")
    for header in headers if below_id else ("id", "workflow", "status", "created (UTC)"):
        table.add_column(header, no_wrap=True)
    add_numbers(table, "duration", "attempt")
    for run in runs:
        workflow, created = plain(run.workflow_name, "dim" if below_id else ""), time_text(run.created_at)
        name = [Text("\n").join([Text(run.id), workflow])] if below_id else [Text(run.id), workflow]
        created = created.replace(" ", "\n") if below_id else created
        table.add_row(*name, state_text(run), created, duration_text(run), str(run.attempt))
    return table


def _run_entry(run: Run) -> RenderableType:
    notes = [plain(run.workflow_name), Text(time_text(run.created_at)), Text(duration_text(run))]
    return entry([Text(run.id), state_text(run)], [*notes, Text(f"attempt {run.attempt}")])


def workflows_view(workflows: Sequence[Workflow], console: Console) -> RenderableType:
    """Shows one workflow a line, or two where the console is too narrow."""
    if not workflows:
        return Text("no workflows yet: a worker registers them", "dim")
    table = new_table()
    table.add_column("workflow", no_wrap=True)
    add_numbers(table, "workers", "nodes")
    table.add_column("registered (UTC)", no_wrap=True)
    for each in workflows:
        workers = Text(str(each.workers), "" if each.workers else "red")
        table.add_row(plain(each.name), workers, str(len(_steps_of(each))), time_text(each.registered_at))
    return first_that_fits(console, table) or Group(*map(_workflow_entry, workflows))


def _workflow_entry(workflow: Workflow) -> RenderableType:
    workers = Text(f"workers: {workflow.workers}", "" if workflow.workers else "red")
    registered = Text(f"registered {time_text(workflow.registered_at)}")
    return entry([plain(workflow.name)], [workers, Text(f"nodes: {len(_steps_of(workflow))}"), registered])


def workflow_view(workflow: Workflow) -> RenderableType:
    """Shows what comes after what in a workflow, and what it takes and returns."""
    parts: list[Text] = [Text.assemble(plain(workflow.name, "bold"), f", workers: {workflow.workers}")]
    for node in workflow.nodes:
        after = [
            f"{edge.target}{'?' if edge.conditional else ''}"
            for edge in workflow.edges
            if edge.source == node.id
        ]
        skill = f" ({node.skill_id})" if node.skill_id != node.id.rpartition(":")[2] else ""
        then = f" → {', '.join(after)}" if after else ""
        parts.append(Text.assemble("  ", plain(node.id), plain(skill, "dim"), plain(then, "dim")))
    for label, schema in (("takes", workflow.input_schema), ("returns", workflow.output_schema)):
        if schema:
            parts.append(Text(label, "dim"))
            parts.append(plain(_json_text(json.loads(schema))))
    if workflow.HasField("note"):
        parts.append(plain(workflow.note, "dim"))
    return Text("\n").join(parts)


def _steps_of(workflow: Workflow) -> list[str]:
    return [node.id for node in workflow.nodes if not node.id.rpartition(":")[2].startswith("__")]


def events_view(events: Sequence[RunEvent], console: Console) -> RenderableType:
    """Shows one transition a line, or two where the console is too narrow, and the errors below."""
    table = new_table()
    for header in ("at (UTC)", "", "to", "attempt", "why", "who"):
        table.add_column(header, no_wrap=True)
    for event in events:
        arrow = Text("→" if event.HasField("from_status") else "", "dim")
        attempt, who = str(event.attempt), _who(event)
        table.add_row(time_text(event.at), arrow, status_text(event), attempt, plain(event.reason), who)
    failures = [error_text(event.error) for event in events if event.HasField("error")]
    return Group(first_that_fits(console, table) or Group(*map(_event_entry, events)), *failures)


def _who(event: RunEvent) -> Text:
    who = f"{event.actor} by {event.impersonator}" if event.impersonator else event.actor
    return plain(f"{who}, bulk {event.bulk_operation_id}" if event.bulk_operation_id else who)


def _event_entry(event: RunEvent) -> RenderableType:
    head = [Text(time_text(event.at)), status_text(event), Text(f"attempt {event.attempt}")]
    return entry(head, [plain(event.reason), _who(event)])


def artifacts_view(artifacts: Sequence[Artifact], console: Console) -> RenderableType:
    """Shows one artifact a line, or two where the console is too narrow."""
    if not artifacts:
        return Text("no artifacts", "dim")
    table = new_table()
    for header in ("artifact", "name", "bytes", "type"):
        table.add_column(header, no_wrap=True, justify="right" if header == "bytes" else "left")
    for each in artifacts:
        table.add_row(Text(each.id), plain(each.name), f"{each.size:,}", plain(each.media_type, "dim"))
    return first_that_fits(console, table) or Group(*map(_artifact_entry, artifacts))


def _artifact_entry(artifact: Artifact) -> RenderableType:
    size = Text(f"{artifact.size:,} bytes")
    return entry([Text(artifact.id), size], [plain(artifact.name), plain(artifact.media_type)])


def new_table() -> Table:
    """Returns the table of all lists."""
    return Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold"
    )


def add_numbers(table: Table, *headers: str) -> None:
    """Adds columns of numbers."""
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)


def width_of(table: Table, console: Console) -> int:
    """Returns how many columns of the console it takes to show all cells whole."""
    return console.measure(table, options=console.options.update(width=10_000)).maximum


def first_that_fits(console: Console, *candidates: Table) -> Table | None:
    """Returns the first of the tables that the console shows whole."""
    return next((table for table in candidates if width_of(table, console) <= console.width), None)


def entry(head: Sequence[Text], notes: Sequence[Text]) -> RenderableType:
    """Shows what would be a row of a table below one another: what it is of, and indented the rest."""
    rest = Text("  ").join([note for note in notes if note])
    rest.stylize_before("dim")
    return Group(Text("  ").join(head), Padding(rest, (0, 0, 0, 2)))


def error_text(error: RunError | StepError) -> Text:
    """Returns the code and the message."""
    return Text(": ").join([plain(error.code, "red"), plain(error.message)])


def _waiting(waiting: WaitingFor) -> Text:
    """The id, whole, to resume with; the node; and what it asks."""
    asked = waiting.note or _json_text(json.loads(waiting.value or "null"))
    since = f"since {time_text(waiting.since)} UTC"
    return Text("\n").join([plain(waiting.id), plain(f"at {waiting.step_id}, {since}", "dim"), plain(asked)])


def _json(struct: Struct) -> Text:
    return plain(_json_text(struct_to_dict(struct)))


def _json_text(value: object) -> str:
    line = json.dumps(value, ensure_ascii=False)
    # Beside its label, so much fits on a line of 80.
    return line if len(line) <= 70 else json.dumps(value, indent=2, ensure_ascii=False)


def time_text(time: Timestamp) -> str:
    """Returns the time in UTC, to the second."""
    return f"{time.ToDatetime():%Y-%m-%d %H:%M:%S}"
