"""Shows a run until it has ended: alive in a terminal, and a line an event elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import typer
from rich.live import Live
from rich.text import Text
from runengine.v1.run_pb2 import ProgressEvent, ProgressKind, Run, RunStatus
from runengine.v1.run_service_pb2 import WatchRunResponse

from runengine_client.command import NOT_COMPLETED, Session, print_words
from runengine_client.errors import RunEngineError
from runengine_client.json_view import watch_json
from runengine_client.live_view import run_lines
from runengine_client.run_state import Clock, RunState, in_order
from runengine_client.tables import error_text, plain
from runengine_client.watch_lines import Lines, text_of_custom, text_of_message

_FRAMES_PER_SECOND = 8


async def watch_run(session: Session, run_id: str) -> None:
    """Shows the run until it has ended, and exits with NOT_COMPLETED unless it completed."""
    try:
        if session.as_json:
            status = await _print_json(session, run_id)
        elif is_live(session):
            status = await _show_live(session, run_id)
        else:
            status = await _print_lines(session, run_id)
    except asyncio.CancelledError:
        session.note(f"The run goes on. `runengine watch {run_id}` shows it again.")
        raise
    if status != RunStatus.RUN_STATUS_COMPLETED:
        raise typer.Exit(NOT_COMPLETED)


def is_live(session: Session) -> bool:
    """Whether what is shown may be replaced: in a terminal that has colours and draws bars."""
    out = session.out
    is_plain = out.is_dumb_terminal or bool(os.environ.get("NO_COLOR")) or not out.encoding.startswith("utf")
    return out.is_terminal and not is_plain and not session.as_json


async def _print_json(session: Session, run_id: str) -> int:
    status = 0
    async for response in session.client.watch_run(run_id):
        status = _status(response, status)
        print_json_line(session, watch_json(response))
    return status


def print_json_line(session: Session, document: dict[str, Any]) -> None:
    """Prints it on one line."""
    session.out.out(json.dumps(document, ensure_ascii=session.out.encoding != "utf-8"), highlight=False)


async def _print_lines(session: Session, run_id: str) -> int:
    lines, status = Lines(session.out), 0
    async for response in session.client.watch_run(run_id):
        status = _status(response, status)
        lines.show(response)
    lines.end_message()
    return status


def _status(response: WatchRunResponse, before: int) -> int:
    if response.HasField("run"):
        return response.run.status
    return response.transition.to_status if response.HasField("transition") else before


async def _show_live(session: Session, run_id: str) -> int:
    watched = WatchedRun(session)
    async with live(session, watched.lines):
        async for response in session.client.watch_run(run_id):
            await watched.add(response)
        if watched.state is not None:
            watched.state.set_run(await session.client.get_run(run_id))
    if watched.state is None:
        return 0
    for text in outcome(watched.state.run):
        print_words(session.out, text)
    return watched.state.run.status


@asynccontextmanager
async def live(session: Session, lines: Callable[[int, int], list[Text]]) -> AsyncIterator[Live]:
    """Shows what `lines(width, height)` returns, again and again; what it was last stays."""

    def frame() -> Text:
        # A terminal scrolls when its last line ends.
        shown = lines(session.out.width, session.out.height - 1)
        return Text("\n", no_wrap=True, overflow="crop").join(shown)

    async def refresh() -> None:
        while True:
            display.refresh()
            await asyncio.sleep(1 / _FRAMES_PER_SECOND)

    with Live(get_renderable=frame, console=session.out, auto_refresh=False) as display:
        refreshing = asyncio.create_task(refresh(), name="frames")
        try:
            yield display
        finally:
            refreshing.cancel()


class WatchedRun:
    """A run as far as the messages of WatchRun have told of it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._clock = Clock()
        self._message: tuple[str, str] | None = None
        self.state: RunState | None = None

    def lines(self, width: int, height: int) -> list[Text]:
        """Returns what is to be drawn of it now."""
        return run_lines(self.state, self._clock, width, height) if self.state else []

    async def add(self, response: WatchRunResponse) -> None:
        """Learns from the next message."""
        kind = response.WhichOneof("event")
        if kind == "run":
            self.state = RunState(response.run)
            self.state.to_come = await nodes_of(self._session, response.run.workflow_name)
        assert self.state is not None
        if kind == "step":
            self.state.set_step(response.step)
        elif kind == "step_transition":
            self._clock.hear(response.step_transition.updated_at)
            self.state.set_step(response.step_transition)
        elif kind == "transition":
            self._clock.hear(response.transition.at)
            self.state.add_event(response.transition)
            if response.transition.reason == "WAITING":
                self.state.set_run(await self._session.client.get_run(self.state.run.id))
        elif kind == "progress":
            self._hear(self.state, response.progress)

    def _hear(self, state: RunState, event: ProgressEvent) -> None:
        if event.kind == ProgressKind.PROGRESS_KIND_CUSTOM:
            self._message = None
            state.said.append((event.step_id, text_of_custom(event)))
        elif event.kind == ProgressKind.PROGRESS_KIND_MESSAGE:
            text = text_of_message(json.loads(event.data))
            if self._message == (event.step_id, event.message_id) and state.said:
                text = state.said.pop()[1] + text
            self._message = (event.step_id, event.message_id)
            state.said.append((event.step_id, text[-2000:]))


async def nodes_of(session: Session, workflow: str) -> list[str]:
    """Returns the nodes of the workflow, where they can be had."""
    with suppress(RunEngineError):
        async for each in session.client.iterate_workflows():
            if each.name == workflow:
                return in_order(each)
    return []


def outcome(run: Run) -> list[Text]:
    """Returns what is to be said of a run that has ended, and what can be done next."""
    if run.status == RunStatus.RUN_STATUS_COMPLETED:
        return [Text(f"\n`runengine output {run.id}` shows what it returned.", "dim")]
    lines = [Text()]
    if run.HasField("error"):
        step = f"step {run.error.step_id}, " if run.error.HasField("step_id") else ""
        lines += [error_text(run.error), plain(f"{step}attempt {run.error.attempt} of the run", "dim")]
    if not run.HasField("error") or run.error.retryable:
        lines.append(Text(f"`runengine retry {run.id}` goes on where it ended.", "dim"))
    return lines
