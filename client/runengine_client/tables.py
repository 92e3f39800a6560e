"""The messages of runengine.v1 as a person reads them in a terminal. All times are UTC."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from runengine.rest_json import words_of
from runengine.v1.artifact_service_pb2 import Artifact
from runengine.v1.campaign_pb2 import Campaign
from runengine.v1.run_pb2 import Run, RunError, RunEvent, RunStep, StepError, WaitingFor
from runengine.v1.workflow_service_pb2 import Workflow

from runengine_client.client import StepData
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

# Below this the message of an error is easier to read under the table than in a column of it.
_ERROR_WIDTH = 32

# Names and messages come from others: an escape sequence in them must not reach the terminal.
_CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")


def plain(text: str, style: str = "") -> Text:
    """Returns the text without markup and without control characters."""
    return Text(text.translate(_CONTROL), style, overflow="fold")


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


def duration_text(message: Run | RunStep) -> str:
    """Returns text such as `850 ms`, `1.2 s`, `3m 05s`, `27h 04m`; nothing without a duration."""
    if not message.HasField("duration_ms"):
        return ""
    milliseconds = message.duration_ms
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
        ("status", status_text(run)),
        ("attempt", str(run.attempt)),
        ("created", f"{_time(run.created_at)} UTC"),
    ]
    if run.priority:
        rows.append(("priority", str(run.priority)))
    if run.HasField("started_at"):
        rows.append(("started", f"{_time(run.started_at)} UTC"))
    if run.HasField("completed_at"):
        rows.append(("ended", f"{_time(run.completed_at)} UTC"))
    if run.HasField("duration_ms"):
        rows.append(("duration", duration_text(run)))
    if run.HasField("error"):
        step = f"step {run.error.step_id}, " if run.error.HasField("step_id") else ""
        retryable = "retryable" if run.error.retryable else "not retryable"
        rows.append(("error", _error(run.error)))
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
        ("created", Text(f"{_time(campaign.created_at)} UTC")),
        ("updated", Text(f"{_time(campaign.updated_at)} UTC")),
    ]
    return Text("\n").join(Text.assemble((f"{label:<12}", "dim"), value) for label, value in rows)


def runs_view(runs: Sequence[Run], below: str, console: Console) -> RenderableType:
    """Shows one run a line, or two where the console is too narrow; ids whole in either case. `below` is
    the last line.
    """
    footer = Text(below, "dim")
    if not runs:
        return footer
    table = _table()
    for header in ("id", "workflow", "status", "created (UTC)"):
        table.add_column(header, no_wrap=True)
    _add_numbers(table, "duration", "attempt")
    for run in runs:
        created = _time(run.created_at)
        table.add_row(
            run.id, plain(run.workflow_name), status_text(run), created, duration_text(run), str(run.attempt)
        )
    if not _fits(table, console):
        table = _table()
        table.add_column("id\nworkflow", width=36)
        table.add_column("status", no_wrap=True)
        table.add_column("created\n(UTC)", width=10)
        _add_numbers(table, "duration", "attempt")
        for run in runs:
            name = Text("\n").join([Text(run.id), plain(run.workflow_name, "dim")])
            created = _time(run.created_at).replace(" ", "\n")
            table.add_row(name, status_text(run), created, duration_text(run), str(run.attempt))
    return Group(table, Text(), footer)


def workflows_view(workflows: Sequence[Workflow]) -> RenderableType:
    """Shows one workflow a line."""
    if not workflows:
        return Text("no workflows yet: a worker registers them", "dim")
    table = _table()
    table.add_column("workflow", overflow="fold")
    _add_numbers(table, "workers", "nodes")
    table.add_column("registered (UTC)", no_wrap=True)
    for each in workflows:
        workers = Text(str(each.workers), "" if each.workers else "red")
        table.add_row(plain(each.name), workers, str(len(_steps_of(each))), _time(each.registered_at))
    return table


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


def steps_view(steps: Sequence[RunStep], console: Console) -> RenderableType:
    """Shows one step a line, and below the ids of what they saved.

    Where the console is too narrow, skills stand under their steps and errors below the table.
    """
    if not steps:
        return Text("no steps yet", "dim")
    failed = [step for step in steps if step.HasField("error")]
    skills = _fits(_steps_table(steps, skills=True, errors=False), console)
    table = _steps_table(steps, skills=skills, errors=False)
    errors = bool(failed) and _width(table, console) + _ERROR_WIDTH <= console.width
    parts: list[RenderableType] = [_steps_table(steps, skills=skills, errors=True) if errors else table]
    if failed and not errors:
        parts.append(Text("\nerrors", "bold"))
        parts += [_beside(plain(step.step_id), _error(step.error)) for step in failed]
    saved = [(artifact, step) for step in steps for artifact in step.output_artifact_ids]
    if saved:
        parts.append(Text("\nartifacts", "bold"))
        parts += [_beside(Text(artifact), plain(step.step_id, "dim")) for artifact, step in saved]
    return Group(*parts)


def step_data_view(found: Sequence[tuple[RunStep, StepData]], *, ensure_ascii: bool) -> Text:
    """Shows the input and the update of each step below its name and id."""
    parts: list[Text] = []
    for step, data in found:
        parts.append(Text.assemble(plain(step.step_id, "bold"), f" {step.id} attempt {data.attempt}"))
        values = (("input", data.input, data.input_note), ("update", data.update, data.update_note))
        for label, value, note in values:
            parts.append(Text(label, "dim"))
            parts.append(plain(note or json.dumps(value, indent=2, ensure_ascii=ensure_ascii)))
    return Text("\n").join(parts)


def events_view(events: Sequence[RunEvent]) -> RenderableType:
    """Shows one transition a line, with the error below it where it has one."""
    table = _table()
    for header in ("at (UTC)", "", "to", "attempt", "why", "who"):
        table.add_column(header, no_wrap=header != "who")
    for event in events:
        arrow = Text("→" if event.HasField("from_status") else "", "dim")
        why = plain(event.reason)
        who = plain(f"{event.actor} by {event.impersonator}" if event.impersonator else event.actor)
        table.add_row(_time(event.at), arrow, status_text(event), str(event.attempt), why, who)
    failures = [_error(event.error) for event in events if event.HasField("error")]
    return Group(table, *failures)


def artifacts_view(artifacts: Sequence[Artifact], console: Console) -> RenderableType:
    """Shows one artifact a line; where the console is too narrow, its name below its id."""
    if not artifacts:
        return Text("no artifacts", "dim")
    wide = _artifacts_table(artifacts, below=False)
    return wide if _fits(wide, console) else _artifacts_table(artifacts, below=True)


def _artifacts_table(artifacts: Sequence[Artifact], *, below: bool) -> Table:
    table = _table()
    for header in ("artifact", *([] if below else ["name"]), "bytes", "type"):
        table.add_column(header, no_wrap=header != "type", justify="right" if header == "bytes" else "left")
    for each in artifacts:
        name = plain(each.name)
        cells = [Text("\n").join([Text(each.id), name])] if below else [Text(each.id), name]
        table.add_row(*cells, f"{each.size:,}", plain(each.media_type, "dim"))
    return table


def step_line(step: RunStep) -> RenderableType:
    """Shows one step as a line of progress."""
    notes = [duration_text(step)] if step.HasField("duration_ms") else []
    if step.attempt > 1:
        notes.append(f"attempt {step.attempt}")
    if step.cache_hit:
        notes.append("cached")
    status = status_text(step)
    status.pad_right(11 - len(status))
    return Text("  ").join([status, plain(step.step_id), Text(", ".join(notes), "dim")])


def _steps_table(steps: Sequence[RunStep], *, skills: bool, errors: bool) -> Table:
    table = _table()
    below = not skills and any(step.skill_id != _own_name(step) for step in steps)
    table.add_column("step\nskill" if below else "step", no_wrap=skills, min_width=12)
    if skills:
        table.add_column("skill", no_wrap=True)
    table.add_column("status", no_wrap=True)
    _add_numbers(table, "attempt")
    table.add_column("cached", no_wrap=True)
    _add_numbers(table, "duration", "artifacts")
    if errors:
        table.add_column("error", min_width=_ERROR_WIDTH - 2)
    for depth, step in _nested(steps):
        own, indent = _own_name(step), Text("  " * depth)
        name, skill = indent + plain(own if depth else step.step_id), plain(step.skill_id, "dim")
        if skills:
            cells: list[RenderableType] = [name, skill]
        else:
            cells = [name if step.skill_id == own else Text("\n").join([name, indent + skill])]
        cells += [
            status_text(step),
            str(step.attempt),
            "yes" if step.cache_hit else "no",
            duration_text(step),
            str(len(step.output_artifact_ids)),
        ]
        if errors:
            cells.append(_error(step.error) if step.HasField("error") else "")
        table.add_row(*cells)
    return table


def _nested(steps: Sequence[RunStep]) -> Iterator[tuple[int, RunStep]]:
    """Each step with how many others it is within, after the one that it is within."""
    within: dict[str, list[RunStep]] = {}
    ids = {step.id for step in steps}
    for step in steps:
        within.setdefault(step.parent_step_id if step.parent_step_id in ids else "", []).append(step)

    def below(parent: str, depth: int) -> Iterator[tuple[int, RunStep]]:
        for step in within.get(parent, ()):
            yield depth, step
            yield from below(step.id, depth + 1)

    return below("", 0)


def _own_name(step: RunStep) -> str:
    """The name of the node in its graph."""
    return step.step_id.rpartition(":")[2] if step.HasField("parent_step_id") else step.step_id


def _table() -> Table:
    return Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold"
    )


def _add_numbers(table: Table, *headers: str) -> None:
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)


def _width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(width=10_000)).maximum


def _fits(table: Table, console: Console) -> bool:
    return _width(table, console) <= console.width


def _beside(left: Text, right: Text) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row("", left, right)
    return grid


def _error(error: RunError | StepError) -> Text:
    return Text(": ").join([plain(error.code, "red"), plain(error.message)])


def _waiting(waiting: WaitingFor) -> Text:
    """The id, whole, to resume with; the node; and what it asks."""
    asked = waiting.note or _json_text(json.loads(waiting.value or "null"))
    since = f"since {_time(waiting.since)} UTC"
    return Text("\n").join([plain(waiting.id), plain(f"at {waiting.step_id}, {since}", "dim"), plain(asked)])


def _json(struct: Struct) -> Text:
    return plain(_json_text(struct_to_dict(struct)))


def _json_text(value: object) -> str:
    line = json.dumps(value, ensure_ascii=False)
    # Beside its label, so much fits on a line of 80.
    return line if len(line) <= 70 else json.dumps(value, indent=2, ensure_ascii=False)


def _time(time: Timestamp) -> str:
    return f"{time.ToDatetime():%Y-%m-%d %H:%M:%S}"
