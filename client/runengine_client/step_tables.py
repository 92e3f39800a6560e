"""The steps of a run as a person reads them in a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from runengine.v1.run_pb2 import RunStep

from runengine_client.client import StepData
from runengine_client.tables import (
    add_numbers,
    as_it_is,
    duration_text,
    entry,
    error_text,
    first_that_fits,
    new_table,
    plain,
    status_text,
    width_of,
)

# Below this the message of an error is easier to read under the table than in a column of it.
_ERROR_WIDTH = 32


def steps_view(steps: Sequence[RunStep], console: Console) -> RenderableType:
    """Shows one step a line, and below the ids of what they saved.

    Where the console is too narrow, skills stand under their steps and errors below the table; where it is
    narrower still, a step has two lines.
    """
    if not steps:
        return Text("no steps yet", "dim")
    failed = [step for step in steps if step.HasField("error")]
    tables = [_steps_table(steps, skills=skills, errors=False) for skills in (True, False)]
    table = first_that_fits(console, *tables)
    errors = failed and table and width_of(table, console) + _ERROR_WIDTH <= console.width
    if errors:
        table = _steps_table(steps, skills=table is tables[0], errors=True)
    parts: list[RenderableType] = [table] if table else [_step_entry(*each) for each in _nested(steps)]
    if failed and not errors:
        parts.append(Text("\nerrors", "bold"))
        parts += [_beside(plain(step.step_id), error_text(step.error)) for step in failed]
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
    return as_it_is(Text("\n").join(parts))


def step_line(step: RunStep) -> Text:
    """Shows one step as a line of progress."""
    notes = [duration_text(step)] if step.HasField("duration_ms") else []
    if step.attempt > 1:
        notes.append(f"attempt {step.attempt}")
    if step.cache_hit:
        notes.append("cached")
    status = status_text(step)
    status.pad_right(11 - len(status))
    told = [Text(", ".join(notes), "dim")] if notes else []
    return Text("  ").join([status, plain(step.step_id), *told])


def _steps_table(steps: Sequence[RunStep], *, skills: bool, errors: bool) -> Table:
    table = new_table()
    below = not skills and any(step.skill_id != _own_name(step) for step in steps)
    table.add_column("step\nskill" if below else "step", no_wrap=True)
    if skills:
        table.add_column("skill", no_wrap=True)
    table.add_column("status", no_wrap=True)
    add_numbers(table, "attempt")
    table.add_column("cached", no_wrap=True)
    add_numbers(table, "duration", "artifacts")
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
            cells.append(error_text(step.error) if step.HasField("error") else "")
        table.add_row(*cells)
    return table


def _step_entry(depth: int, step: RunStep) -> RenderableType:
    saved = len(step.output_artifact_ids)
    notes = [
        plain(step.skill_id if step.skill_id != _own_name(step) else ""),
        Text(f"attempt {step.attempt}"),
        Text("cached" if step.cache_hit else ""),
        Text(duration_text(step)),
        Text(f"artifacts: {saved}" if saved else ""),
    ]
    name = _own_name(step) if depth else step.step_id
    return Padding(entry([plain(name), status_text(step)], notes), (0, 0, 0, 2 * depth))


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


def _beside(left: Text, right: Text) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row("", left, right)
    return grid
