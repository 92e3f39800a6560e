"""What happens to a run that is watched, a line an event."""

from __future__ import annotations

import json

from rich.console import Console
from rich.text import Text
from runengine.v1.run_pb2 import ProgressEvent, ProgressKind, Run, RunEvent, RunStep
from runengine.v1.run_service_pb2 import WatchRunResponse

from runengine_client import tables
from runengine_client.step_tables import step_line


class Lines:
    """Prints a line an event; and a message of a chat model, which comes in parts, a line of its text at a
    time.
    """

    def __init__(self, out: Console) -> None:
        self._out = out
        self._message: tuple[str, str] | None = None  # the step and the message id of _text
        self._text = ""
        self._shown: dict[str, tuple[int, int]] = {}  # the status and the attempt of each step

    def show(self, response: WatchRunResponse) -> None:
        """Prints what a message of WatchRun tells."""
        kind = response.WhichOneof("event")
        if kind == "progress":
            self._show_progress(response.progress)
            return
        self.end_message()
        if kind == "run":
            self._print(tables.state_text(response.run), f"run {response.run.id}{_about_error(response.run)}")
        elif kind == "step":
            self.show_step(response.step)
        elif kind == "step_transition":
            self.show_step(response.step_transition)
        elif kind == "transition":
            self._print(tables.status_text(response.transition), f"run, {about_event(response.transition)}")

    def show_step(self, step: RunStep) -> None:
        """Prints the step, unless that is known already."""
        if self._shown.get(step.id) != (step.status, step.attempt):
            self._shown[step.id] = step.status, step.attempt
            self._out.print(step_line(step), soft_wrap=True)

    def _show_progress(self, event: ProgressEvent) -> None:
        if event.kind == ProgressKind.PROGRESS_KIND_MESSAGE:
            self._add_to_message(event, text_of_message(json.loads(event.data)))
            return
        self.end_message()
        if event.dropped:
            self._print(Text("dropped", "dim"), f"{event.dropped:,} events")
        if event.kind == ProgressKind.PROGRESS_KIND_CUSTOM:
            self._print(Text("says", "dim"), f"{event.step_id}  {text_of_custom(event)}")

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


def _about_error(run: Run) -> str:
    if not run.HasField("error"):
        return ""
    return f", attempt {run.attempt}, {run.error.code}: {run.error.message}"


def about_event(event: RunEvent) -> str:
    """Returns the attempt, why the run has changed, and the message of its error."""
    error = f": {event.error.message}" if event.HasField("error") else ""
    return f"attempt {event.attempt}, {event.reason}{error}"


def text_of_custom(event: ProgressEvent) -> str:
    """Returns what a node wrote to its stream writer, as text or JSON."""
    data = json.loads(event.data or "null")
    return data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)


def text_of_message(message: object) -> str:
    """Returns the text of a message of LangChain's, whose content is text, or a list of blocks."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(str(each.get("text", "")) for each in blocks if isinstance(each, dict))
