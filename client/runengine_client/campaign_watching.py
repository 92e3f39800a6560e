"""Shows the runs of a campaign while they are executed."""

from __future__ import annotations

import asyncio

import typer
from rich.text import Text
from runengine.v1.run_pb2 import Run, RunStep
from runengine.v1.run_service_pb2 import StatusCounts
from runengine.v1.watch_runs_pb2 import RunTransition

from runengine_client.campaign_view import campaign_lines, counted, ended_lines
from runengine_client.command import NOT_COMPLETED, Session, print_words
from runengine_client.json_view import watch_runs_json
from runengine_client.live_view import packed
from runengine_client.run_state import Clock, RunState
from runengine_client.step_tables import step_line
from runengine_client.tables import plain, status_text
from runengine_client.watching import is_live, live, nodes_of, print_json_line

# The pause before it is counted again how many runs there are in each status.
_COUNT_SECONDS = 1.0


async def watch_campaign(session: Session, campaign_id: str) -> None:
    """Shows its runs until none is queued or running, and waits for the first where it has none yet. Exits
    with NOT_COMPLETED if one has failed or was cancelled.
    """
    watched = _Watched(session, campaign_id)
    try:
        if is_live(session):
            async with live(session, watched.lines):
                await watched.until_all_have_ended()
        else:
            await watched.until_all_have_ended()
            watched.show(packed(counted(watched.counts), session.out.width))
    except asyncio.CancelledError:
        session.note(f"The runs go on. `runengine watch --campaign {campaign_id}` shows them again.")
        raise
    if watched.counts.failed or watched.counts.cancelled:
        raise typer.Exit(NOT_COMPLETED)


class _Watched:
    def __init__(self, session: Session, campaign_id: str) -> None:
        self._session = session
        self._campaign_id = campaign_id
        self._is_live = is_live(session)
        self._clock = Clock()
        self._runs: dict[str, RunState] = {}  # those that have not ended
        self._nodes: dict[str, list[str]] = {}
        self._changed = asyncio.Event()
        self.counts = StatusCounts()

    def lines(self, width: int, height: int) -> list[Text]:
        return campaign_lines(self._campaign_id, self.counts, self._runs.values(), self._clock, width, height)

    async def until_all_have_ended(self) -> None:
        reading = asyncio.create_task(self._read(), name="runs of the campaign")
        reading.add_done_callback(lambda _: self._changed.set())
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if reading.done():
                    reading.result()
                page = await self._session.client.list_campaign_runs(self._campaign_id, limit=1)
                self.counts = page.status_counts
                is_going = self.counts.queued or self.counts.running or self._runs
                if page.total and not is_going:
                    return
                await asyncio.sleep(_COUNT_SECONDS)
        finally:
            reading.cancel()

    async def _read(self) -> None:
        async for message in self._session.client.watch_campaign(self._campaign_id):
            kind = message.WhichOneof("event")
            if self._session.as_json:
                print_json_line(self._session, watch_runs_json(message))
            if kind == "run":
                await self._set_run(message.run)
                if message.run.id in self._runs and not self._is_live:
                    self.show([_line(status_text(message.run), message.run.id, message.run.workflow_name)])
            elif kind == "snapshot_end":
                self._changed.set()
            elif kind == "transition":
                await self._add_transition(message.transition)
                self._changed.set()
            elif kind == "step":
                self._set_step(message.step.run_id, message.step.step)
            elif kind == "step_transition":
                self._clock.hear(message.step_transition.step.updated_at)
                self._set_step(message.step_transition.run_id, message.step_transition.step)
                self._show_step(message.step_transition.run_id, message.step_transition.step)

    async def _set_run(self, run: Run) -> None:
        state = RunState(run)
        if state.has_ended:
            self._runs.pop(run.id, None)
            return
        if run.workflow_name not in self._nodes:
            self._nodes[run.workflow_name] = await nodes_of(self._session, run.workflow_name)
        state.to_come = self._nodes[run.workflow_name]
        self._runs[run.id] = state

    async def _add_transition(self, transition: RunTransition) -> None:
        run_id, event = transition.run_id, transition.event
        self._clock.hear(event.at)
        if run_id not in self._runs:
            await self._set_run(Run(id=run_id, workflow_name=transition.workflow_name, created_at=event.at))
        state = self._runs[run_id]
        state.add_event(event)
        if event.reason == "WAITING":
            state.set_run(await self._session.client.get_run(run_id))
        if state.has_ended:
            del self._runs[run_id]
            self.show(ended_lines(state.run))
        elif not self._is_live:
            self.show([_line(status_text(event), run_id, event.reason)])

    def _set_step(self, run_id: str, step: RunStep) -> None:
        if run_id in self._runs:
            self._runs[run_id].set_step(step)

    def _show_step(self, run_id: str, step: RunStep) -> None:
        if not self._is_live:
            self.show([Text("  ").join([step_line(step), Text(run_id, "dim")])])

    def show(self, lines: list[Text]) -> None:
        """Prints the lines, above what is drawn."""
        if not self._session.as_json:
            for line in lines:
                print_words(self._session.out, line)


def _line(status: Text, run_id: str, told: str) -> Text:
    status.pad_right(11 - len(status))
    return Text("  ").join([status, Text(run_id), plain(told)])
