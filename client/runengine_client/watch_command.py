"""The command that shows a run while it is executed."""

from __future__ import annotations

import json

import typer
from rich.text import Text
from runengine.v1.run_pb2 import ProgressEvent, ProgressKind, RunStatus
from runengine.v1.run_service_pb2 import WatchRunResponse

from runengine_client import tables
from runengine_client.command import NOT_COMPLETED, Session
from runengine_client.json_view import watch_json
from runengine_client.run_commands import RunId
from runengine_client.step_tables import step_line


async def watch(session: Session, run_id: RunId) -> None:
    """Shows how a run goes, until it has ended: its steps, what its nodes tell, and what its chat models say.
    Exits with 3 unless it completed.
    """
    lines = _Lines(session)
    status = RunStatus.RUN_STATUS_UNSPECIFIED
    async for response in session.client.watch_run(run_id):
        if response.HasField("run"):
            status = response.run.status
        elif response.HasField("transition"):
            status = response.transition.to_status
        if session.as_json:
            document = json.dumps(watch_json(response), ensure_ascii=session.out.encoding != "utf-8")
            session.out.out(document, highlight=False)
        else:
            lines.show(response)
    lines.end_message()
    if status != RunStatus.RUN_STATUS_COMPLETED:
        raise typer.Exit(NOT_COMPLETED)


class _Lines:
    """Prints a line an event; and a message of a chat model, which comes in parts, a line of its text at a
    time.
    """

    def __init__(self, session: Session) -> None:
        self._out = session.out
        self._message: tuple[str, str] | None = None  # the step and the message id of _text
        self._text = ""

    def show(self, response: WatchRunResponse) -> None:
        """Prints what a message of WatchRun tells."""
        kind = response.WhichOneof("event")
        if kind == "progress":
            self._show_progress(response.progress)
            return
        self.end_message()
        if kind == "run":
            self._print(tables.status_text(response.run), f"run {response.run.id}")
        elif kind == "step":
            self._out.print(step_line(response.step), soft_wrap=True)
        elif kind == "transition":
            event = response.transition
            error = f": {event.error.message}" if event.HasField("error") else ""
            self._print(tables.status_text(event), f"run, attempt {event.attempt}, {event.reason}{error}")

    def _show_progress(self, event: ProgressEvent) -> None:
        data = json.loads(event.data or "null")
        if event.kind == ProgressKind.PROGRESS_KIND_MESSAGE:
            self._add_to_message(event, _text_of(data))
            return
        self.end_message()
        if event.dropped:
            self._print(Text("dropped", "dim"), f"{event.dropped:,} events")
        if event.kind == ProgressKind.PROGRESS_KIND_STEP:
            self._print(Text(str(data["status"])), event.step_id)
        elif event.kind == ProgressKind.PROGRESS_KIND_CUSTOM:
            text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
            self._print(Text("says", "dim"), f"{event.step_id}  {text}")

    def _add_to_message(self, event: ProgressEvent, text: str) -> None:
        if self._message != (event.step_id, event.message_id):
            self.end_message()
            self._message = (event.step_id, event.message_id)
        *whole, self._text = (self._text + text).split("\n")
        for line in whole:
            self._print(Text("says", "dim"), f"{event.step_id}  {line}")

    def end_message(self) -> None:
        """Prints what has come of a message without an end of line."""
        if self._message is not None and self._text:
            self._print(Text("says", "dim"), f"{self._message[0]}  {self._text}")
        self._message, self._text = None, ""

    def _print(self, word: Text, text: str) -> None:
        word.pad_right(max(0, 11 - len(word)))
        self._out.print(Text("  ").join([word, tables.plain(text)]), soft_wrap=True)


def _text_of(message: object) -> str:
    """The text of a message of LangChain's, whose content is text, or a list of blocks."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(str(each.get("text", "")) for each in blocks if isinstance(each, dict))
