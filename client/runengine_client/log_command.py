"""The command that shows what has happened to a run, line by line."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Any, TypeAlias

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.padding import Padding
from rich.text import Text
from runengine.v1.run_pb2 import ProgressEvent, ProgressKind, RunEvent, RunStatus, RunStep, StepStatus

from runengine_client.command import Session
from runengine_client.json_view import event_json, progress_json, step_json
from runengine_client.run_commands import RunId
from runengine_client.step_tables import step_line
from runengine_client.tables import error_text, plain, status_text
from runengine_client.watch_lines import text_of_custom
from runengine_client.watching import print_json_line


async def logs(
    session: Session,
    run_id: RunId,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", "-f", help="Go on until the run has ended, also with what its nodes tell meanwhile."
        ),
    ] = False,
) -> None:
    """Shows what has happened to a run and to its steps, a line each with the time in UTC, in that order."""
    log = _Log(session)
    if not follow:
        await log.add_past(run_id)
        return
    try:
        async for message in session.client.watch_run(run_id):
            if message.HasField("snapshot_end"):
                # What happens while it is read comes again as a transition, and is shown once.
                await log.add_past(run_id)
            elif message.HasField("transition"):
                log.add_event(message.transition)
            elif message.HasField("step_transition"):
                log.add_step(message.step_transition, started=False)
            elif message.progress.kind == ProgressKind.PROGRESS_KIND_CUSTOM:
                log.add_told(message.progress)
    except asyncio.CancelledError:
        session.note(f"The run goes on. `runengine logs {run_id} --follow` shows it again.")
        raise


# When it was, what it was, and whether the step was started then.
_Entry: TypeAlias = tuple[Timestamp, RunEvent | RunStep, bool]


def _order(entry: _Entry) -> tuple[int, int]:
    """In one transaction, and so at one time, a run may be claimed before its first step starts, and ends
    after its last one has.
    """
    at, what, started = entry
    if isinstance(what, RunEvent):
        active = (RunStatus.RUN_STATUS_QUEUED, RunStatus.RUN_STATUS_RUNNING)
        return at.ToNanoseconds(), 0 if what.to_status in active else 3
    return at.ToNanoseconds(), 1 if started else 2


class _Log:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._shown: set[tuple[object, ...]] = set()

    async def add_past(self, run_id: str) -> None:
        """Prints what has happened until now."""
        client = self._session.client
        entries: list[_Entry] = [(event.at, event, False) for event in await client.list_run_events(run_id)]
        attempt = 1
        # The steps as they were at each attempt: none have more than the greatest of them.
        while steps := await client.list_run_steps(run_id, attempt=attempt):
            for step in steps:
                if step.status != StepStatus.STEP_STATUS_PENDING:
                    entries.append((step.created_at, step, True))
                if step.status != StepStatus.STEP_STATUS_RUNNING:
                    entries.append((step.updated_at, step, False))
            attempt += 1
        for _, entry, started in sorted(entries, key=_order):
            if isinstance(entry, RunEvent):
                self.add_event(entry)
            else:
                self.add_step(entry, started=started)

    def add_event(self, event: RunEvent) -> None:
        """Prints that the run has changed."""
        if self._is_new(event.at.ToNanoseconds(), event.to_status, event.reason):
            why = error_text(event.error) if event.HasField("error") else plain(event.reason)
            told = Text.assemble(f"run, attempt {event.attempt}, ", why)
            self._print(event.at, _line(status_text(event), told), {"transition": event_json(event)})

    def add_step(self, step: RunStep, *, started: bool) -> None:
        """Prints how a step stands, or that it was `started`."""
        if started:
            step = RunStep(
                id=step.id, step_id=step.step_id, skill_id=step.skill_id, attempt=step.attempt,
                status=StepStatus.STEP_STATUS_RUNNING, created_at=step.created_at, updated_at=step.created_at,
            )  # fmt: skip
        if self._is_new(step.id, step.status, step.attempt):
            line = step_line(step)
            if step.HasField("error"):
                line.append_text(Text("  ") + error_text(step.error))
            self._print(step.updated_at, line, {"step": step_json(step)})

    def add_told(self, event: ProgressEvent) -> None:
        """Prints what a node tells."""
        now = Timestamp()
        now.GetCurrentTime()
        told = plain(f"{event.step_id}  {text_of_custom(event)}")
        self._print(now, _line(Text("says", "dim"), told), {"progress": progress_json(event)})

    def _is_new(self, *key: object) -> bool:
        is_new = key not in self._shown
        self._shown.add(key)
        return is_new

    def _print(self, at: Timestamp, line: Text, document: dict[str, Any]) -> None:
        if self._session.as_json:
            print_json_line(self._session, {"at": at.ToJsonString(), **document})
            return
        time = f"{at.ToDatetime():%Y-%m-%d %H:%M:%S}.{at.nanos // 1_000_000:03}"
        out = self._session.out
        if out.is_terminal or "COLUMNS" in os.environ:
            whole = Text(time, "dim") + "  " + line
            if whole.cell_len > out.width:
                out.print(Text(time, "dim"))
                out.print(Padding(line, (0, 0, 0, 2)))
                return
        out.print(Text.assemble((time, "dim"), "  ", line), soft_wrap=True)


def _line(status: Text, told: Text) -> Text:
    status.pad_right(max(0, 11 - len(status)))
    return Text("  ").join([status, told])
