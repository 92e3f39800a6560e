"""How a run that is watched looks in a terminal: a bar for each node of its graph."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text
from runengine.v1.run_pb2 import Run, StepStatus, WaitingFor

from runengine_client.run_state import (
    COMPLETED,
    FAILED,
    PENDING,
    RUNNING,
    SKIPPED,
    Clock,
    NodeState,
    RunState,
)
from runengine_client.tables import WAITING_STYLE, error_text, milliseconds_text, plain, status_text

_TRACK = "bright_black"
_SYMBOLS: tuple[tuple[StepStatus.ValueType, str, str], ...] = (
    # The first of which a node has a step says how the node stands.
    (RUNNING, "●", "cyan"),
    (FAILED, "✗", "red"),
    (PENDING, "○", "blue"),
    (COMPLETED, "✓", "green"),
    (SKIPPED, "-", "dim"),
)
_BAR, _LEAST_BAR = 30, 8
_CONSOLE = Console()  # Text.wrap asks for one
# A figure such as `10,000/10,000` or `59m 59s`.
_FIGURE = 8


def run_lines(state: RunState, clock: Clock, width: int, height: int) -> list[Text]:
    """Returns at most `height` lines of at most `width` columns, whatever the run is."""
    head = [*_head(state, clock, width), Text()]
    waiting = waiting_lines(state.run, clock, width)
    told = [] if state.has_ended or waiting else _told(state, width)
    errors = [] if state.has_ended else _errors(state, width)
    # What somebody has to do goes before all else, and the bars before what is told.
    left = height - len(head)
    waiting = waiting[: max(0, left - 1)]
    left -= len(waiting)
    bars = _bars(state, clock, width, left - min(len(told) + len(errors), left // 3))
    left -= len(bars)
    errors = errors[:left]
    return [*head, *bars, *waiting, *errors, *told[: left - len(errors)]][:height]


def _head(state: RunState, clock: Clock, width: int) -> list[Text]:
    run = state.run
    title = [Text.assemble(plain(run.workflow_name, "bold"), "  ", (run.id, "dim"))]
    if title[0].cell_len > width:
        title = [*wrapped(plain(run.workflow_name, "bold"), width), Text(run.id, "dim")]
    counts = dict.fromkeys((COMPLETED, RUNNING, FAILED, PENDING), 0)
    cached = 0
    for node in state.nodes():
        cached += node.cached
        for status in counts:
            counts[status] += node.counts[status]
    words = zip(("done", "running", "failed", "pending"), counts.values(), strict=True)
    notes = [f"attempt {run.attempt}"] if run.attempt > 1 else []
    notes += [f"{number:,} {word}" for word, number in words if number]
    notes += [f"{cached:,} cached"] if cached else []
    told = [_note(note) for note in notes]
    return [*title, *packed([run_status_text(run), Text(elapsed(run, clock)), *told], width)]


def run_status_text(run: Run) -> Text:
    """Returns its status; of a run that waits for somebody, that it does."""
    return Text("◆ waits for somebody", WAITING_STYLE) if run.waiting_for else status_text(run)


def elapsed(run: Run, clock: Clock) -> str:
    """Returns how long the attempt has taken until now or its end, or since when it is queued."""
    if run.HasField("duration_ms"):
        return milliseconds_text(run.duration_ms)
    if run.HasField("completed_at"):
        return ""
    since = run.started_at if run.HasField("started_at") else run.updated_at
    return milliseconds_text(clock.milliseconds_since(since))


def _bars(state: RunState, clock: Clock, width: int, height: int) -> list[Text]:
    nodes = state.nodes()
    shown = _most_telling(nodes, height)
    names = [Text.assemble("  " * node.depth, symbol_of(node), " ", plain(node.name)) for node in shown]
    figures = [_figure(node, clock) for node in shown]
    notes = [_notes(node) for node in shown]
    longest = max((name.cell_len for name in names), default=0)
    figures_width = max([_FIGURE, *map(len, figures)])
    notes_width = max((Text("  ").join(note).cell_len for note in notes), default=0)
    bar = min(_BAR, width - longest - figures_width - notes_width - 6)
    if bar < _LEAST_BAR:
        # Notes are rare: most rows are better off with a bar.
        bar = min(_BAR, width - longest - figures_width - 4)
    lines = []
    for name, node, figure, note in zip(names, shown, figures, notes, strict=True):
        parts = [name]
        if bar >= _LEAST_BAR:
            name.pad_right(longest - name.cell_len)
            parts += [bar_of(node, bar), Text(figure.rjust(figures_width))]
        elif figure:
            parts.append(Text(figure))
        first, *more = packed([*parts, *note], width, 2 * node.depth + 2)
        first.rstrip()
        lines += [first, *more]
    lines = lines[:height]
    if len(shown) < len(nodes):
        lines[height - 1 :] = [Text(f"… and {len(nodes) - len(shown):,} more", "dim")]
    return lines


def _most_telling(nodes: Sequence[NodeState], number: int) -> list[NodeState]:
    """As many of them, in their order, and of no other is more to be told; one fewer, where not all are."""
    if len(nodes) <= number:
        return list(nodes)

    def rank(at: int) -> tuple[int, int]:
        node = nodes[at]
        if node.is_waiting or node.counts[RUNNING] or node.counts[FAILED]:
            return 0, -at
        return (1 if node.total else 2), -at if node.total else at

    kept = sorted(range(len(nodes)), key=rank)[: max(0, number - 1)]
    return [nodes[at] for at in sorted(kept)]


def symbol_of(node: NodeState) -> Text:
    """Returns how it stands as one sign in its colour."""
    if node.is_waiting:
        return Text("◆", WAITING_STYLE)
    found = (Text(symbol, style) for status, symbol, style in _SYMBOLS if node.counts[status])
    return next(found, Text("○", "dim"))


def bar_of(node: NodeState, width: int) -> Text:
    """Returns a bar with the shares of what is done, has failed and is running."""
    if node.total <= 1:
        if node.is_waiting:
            return Text("━" * width, WAITING_STYLE)
        if node.counts[RUNNING]:
            return pulse(width)
    done, failed, running = (node.counts[status] for status in (COMPLETED, FAILED, RUNNING))
    return shares([(done, "green"), (failed, "red"), (running, "cyan")], node.total, width)


def shares(parts: Iterable[tuple[int, str]], total: int, width: int) -> Text:
    """Returns a bar that is divided in the proportion of the numbers; each that is not 0 is seen."""
    bar, until = Text(), 0
    counted = 0
    for number, style in parts:
        if number:
            counted += number
            end = min(width, max(until + 1, width * counted // total))
            bar.append("━" * (end - until), style)
            until = max(until, end)
    return bar.append("─" * (width - until), _TRACK)


def pulse(width: int) -> Text:
    """Returns a bar in which something moves, for what is running and does not say how far it is."""
    lit = max(2, width // 3)
    start = int(time.monotonic() * width / 2) % (width + lit) - lit
    before, until = max(0, start), min(width, max(0, start + lit))
    rest = width - max(before, until)
    return Text.assemble(("─" * before, _TRACK), ("━" * (until - before), "cyan"), ("─" * rest, _TRACK))


def _figure(node: NodeState, clock: Clock) -> str:
    if node.total > 1:
        return f"{node.counts[COMPLETED]:,}/{node.total:,}"
    if node.is_waiting:
        return "waits"
    if node.since is not None:
        return milliseconds_text(clock.milliseconds_since(node.since))
    return "" if node.duration_ms is None else milliseconds_text(node.duration_ms)


def _notes(node: NodeState) -> list[Text]:
    notes = []
    if node.total > 1:
        words = ((RUNNING, "running"), (FAILED, "failed"), (PENDING, "pending"), (SKIPPED, "skipped"))
        notes += [f"{node.counts[status]:,} {word}" for status, word in words if node.counts[status]]
        notes += [f"{node.cached:,} cached"] if node.cached else []
        notes += [f"up to attempt {node.attempts}"] if node.attempts > 1 else []
    else:
        notes += [f"attempt {node.attempts}"] if node.attempts > 1 else []
        notes += ["cached"] if node.cached else []
        notes += ["skipped"] if node.counts[SKIPPED] else []
    return [_note(note) for note in notes]


def _note(note: str) -> Text:
    return Text(note, "red" if note.endswith("failed") else "dim")


def waiting_lines(run: Run, clock: Clock, width: int) -> list[Text]:
    """Returns what the run asks, and the commands that let it go on."""
    lines: list[Text] = []
    for each in run.waiting_for:
        ago = milliseconds_text(clock.milliseconds_since(each.since))
        line = Text.assemble(("◆ ", WAITING_STYLE), plain(each.step_id), (f" asked {ago} ago", "dim"))
        lines += [Text(), *wrapped(line, width), *_indented(plain(asked(each)), width, 4)]
        value = (
            ["--value", "JSON"] if len(run.waiting_for) == 1 else ["--values", f"'{{\"{each.id}\": JSON}}'"]
        )
        lines += _command_lines(["runengine resume", run.id, " ".join(value)], width)
    return lines


def asked(waiting: WaitingFor) -> str:
    """Returns the question: a text, or JSON."""
    value = json.loads(waiting.value or "null")
    if value is None:
        return waiting.note or "whether to go on"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _command_lines(words: Sequence[str], width: int) -> list[Text]:
    """A command that is copied whole although it is longer than a line."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 5 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return [
        Text(("    " if at else "  ") + line + ("" if line is lines[-1] else " \\"), "bold")
        for at, line in enumerate(lines)
    ]


def _errors(state: RunState, width: int) -> list[Text]:
    lines: list[Text] = []
    for step in state.failures():
        line = Text.assemble(("✗ ", "red"), plain(step.step_id), ": ", error_text(step.error))
        lines += [Text(), *wrapped(line, width)]
    return lines


def _told(state: RunState, width: int) -> list[Text]:
    lines: list[Text] = []
    for node, text in state.said:
        # Of a long text the end is news.
        ends = textwrap.wrap(f"{node}: {text}", max(10, width - 2), break_on_hyphens=False)[-2:]
        lines += [plain(f"  {line}", "dim italic") for line in ends]
    return [Text(), *lines[-4:]] if lines else []


def packed(parts: Sequence[Text], width: int, indent: int = 2) -> list[Text]:
    """Returns the parts in lines that end between them; what does not go on the first line is indented."""
    lines = [Text().append_text(parts[0])]
    for part in parts[1:]:
        if lines[-1].cell_len + 2 + part.cell_len <= width:
            lines[-1] = lines[-1] + "  " + part
        else:
            lines.append(Text(" " * indent) + part)
    return [line for each in lines for line in wrapped(each, width)]


def wrapped(text: Text, width: int) -> list[Text]:
    """Returns the text in lines that end between words."""
    return list(text.wrap(_CONSOLE, max(1, width), overflow="fold")) or [Text()]


def _indented(text: Text, width: int, columns: int) -> list[Text]:
    return [Text(" " * columns) + line for line in wrapped(text, width - columns)]
