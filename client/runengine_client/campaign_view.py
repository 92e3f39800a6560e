"""How the runs of a campaign look in a terminal while they are watched: a bar for each that goes on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from rich.text import Text
from runengine.v1.run_pb2 import Run, RunStatus
from runengine.v1.run_service_pb2 import StatusCounts

from runengine_client.live_view import asked, elapsed, packed, pulse, shares
from runengine_client.run_state import COMPLETED, FAILED, RUNNING, Clock, RunState
from runengine_client.tables import WAITING_STYLE, duration_text, error_text, plain, status_text

_ID = 36
_BAR, _LONG_BAR = 20, 60
# From here on a run has one line.
_WIDE = 140
_COUNTS = (
    ("completed", "✓", "green"),
    ("failed", "✗", "red"),
    ("cancelled", "⊘", "magenta"),
    ("running", "●", "cyan"),
    ("queued", "○", "blue"),
)


def campaign_lines(
    campaign_id: str, counts: StatusCounts, runs: Iterable[RunState], clock: Clock, width: int, height: int
) -> list[Text]:
    """Returns at most `height` lines about the campaign and those of its runs that have not ended."""
    going = sorted(runs, key=_place)
    # Above stand the runs that have ended meanwhile.
    lines = [Text(), *_head(campaign_id, counts, going, width), Text()]
    is_wide = width >= _WIDE
    room = height - len(lines)
    number = room if is_wide else room // 2
    # The runs of the snapshot are known, and those that have changed since; all are counted.
    total = max(len(going), counts.queued + counts.running)
    if total > number:
        number = (room - 1) if is_wide else (room - 1) // 2
    names = [_name(state, clock) for state in going[:number]]
    longest = max((name.cell_len for name in names), default=0)
    for state, name in zip(going, names, strict=False):
        if is_wide and longest < width // 2:
            name.pad_right(longest - name.cell_len)
            lines.append(_with_bar(name + "  ", state, width))
        else:
            # The name of a long workflow is the first to go: the id says which run it is.
            name = name if name.cell_len <= width else _name(state, clock, with_workflow=False)
            lines.append(name)
            if state.run.status != RunStatus.RUN_STATUS_QUEUED:
                lines.append(_with_bar(Text("  "), state, width))
    if total > len(names):
        lines.append(Text(f"… and {total - len(names):,} more", "dim"))
    return lines[:height]


def _place(state: RunState) -> tuple[int, int]:
    """Runs that wait for somebody go first, then those that run, the oldest first."""
    is_queued = state.run.status == RunStatus.RUN_STATUS_QUEUED
    return 0 if state.run.waiting_for else 2 if is_queued else 1, state.run.created_at.ToNanoseconds()


def _head(campaign_id: str, counts: StatusCounts, going: Sequence[RunState], width: int) -> list[Text]:
    numbers = [(getattr(counts, word), style) for word, _, style in _COUNTS]
    bar = shares(numbers[:-1], sum(number for number, _ in numbers) or 1, min(width, _LONG_BAR))
    waiting = sum(bool(state.run.waiting_for) for state in going)
    told = counted(counts) + ([Text(f"◆ {waiting:,} waiting", WAITING_STYLE)] if waiting else [])
    return [Text.assemble(("campaign", "bold"), "  ", (campaign_id, "dim")), bar, *packed(told, width)]


def counted(counts: StatusCounts) -> list[Text]:
    """Returns how many runs there are in each status in which there are any."""
    numbers = [(getattr(counts, word), word, symbol, style) for word, symbol, style in _COUNTS]
    told = [Text(f"{symbol} {number:,} {word}", style) for number, word, symbol, style in numbers if number]
    return told or [Text("no runs yet", "dim")]


def _with_bar(line: Text, state: RunState, width: int) -> Text:
    line.append_text(_bar(state))
    return line.append_text(_now(state, width - line.cell_len - 2))


def _name(state: RunState, clock: Clock, *, with_workflow: bool = True) -> Text:
    run = state.run
    sign = Text("◆", WAITING_STYLE) if run.waiting_for else status_text(run)[:1]
    parts = [Text.assemble(sign, " ", run.id)]
    parts += [plain(run.workflow_name, "bold")] if with_workflow else []
    parts += [Text(elapsed(run, clock))]
    parts += [Text(f"attempt {run.attempt}", "dim")] if run.attempt > 1 else []
    return Text("  ").join(parts)


def _bar(state: RunState) -> Text:
    nodes = state.nodes()
    if not nodes and state.run.status == RunStatus.RUN_STATUS_RUNNING:
        return pulse(_BAR)
    done, failed, running = (sum(node.counts[of] for node in nodes) for of in (COMPLETED, FAILED, RUNNING))
    total = sum(max(1, node.total) for node in nodes)
    return shares([(done, "green"), (failed, "red"), (running, "cyan")], total or 1, _BAR)


def _now(state: RunState, width: int) -> Text:
    """What the run does or waits for, in so many columns, and whole words."""
    if state.run.waiting_for:
        first = state.run.waiting_for[0]
        told = f"{first.step_id} asks: {asked(first)}"
        return Text("  ") + plain(textwrap.shorten(told, width, placeholder=" …"), WAITING_STYLE)
    names = [
        f"{node.name} {node.counts[COMPLETED]:,}/{node.total:,}" if node.total > 1 else node.name
        for node in state.nodes()
        if node.counts[RUNNING]
    ]
    told = textwrap.shorten(", ".join(names), max(1, width), placeholder=" …")
    return Text("  ") + plain(told, "dim") if names else Text()


def ended_lines(run: Run) -> list[Text]:
    """Returns what is to be said of a run that has ended."""
    status = status_text(run)
    status.pad_right(11 - len(status))
    line = Text("  ").join([status, Text(run.id), plain(run.workflow_name), Text(duration_text(run), "dim")])
    return [line, Text("  ") + error_text(run.error)] if run.HasField("error") else [line]
