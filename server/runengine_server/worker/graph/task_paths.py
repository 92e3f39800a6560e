"""LangGraph's paths of tasks, which are stored with their writes: "~__pregel_pull, send" for the node `send`,
"~__pregel_push, 0000000002, 0000000000" for the third of the pending Sends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langgraph._internal._constants import PUSH
from langgraph.pregel._task_status import CONTROL_WRITES
from langgraph.types import Send

# What the path of an error handler's task adds to the path of the task whose error it takes.
_OF_HANDLER = ", node_error_handler, 0000000000"


def node_of(task_path: str, sends: Sequence[Send]) -> str:
    """The node of a task: its path has the node's name, or the place of a Send among the pending `sends`."""
    kind, _, rest = task_path.removeprefix("~").removesuffix(_OF_HANDLER).partition(", ")
    place = rest.partition(", ")[0]
    return sends[int(place)].node if kind == PUSH and place.isdigit() else rest


def with_handlers(writes: Sequence[tuple[str, str, str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Turns (task id, task path, channel, value) into (task id, channel, value). What an error handler wrote
    replaces the error of the task that it handled, under the id of that task: LangGraph 1.2.22 looks for the
    writes of a task when a graph resumes, but not for those of a handler, which it would run again (its issue
    9002).
    """
    handlers = {
        path.removesuffix(_OF_HANDLER)
        for _, path, channel, _ in writes
        if path.endswith(_OF_HANDLER) and channel not in CONTROL_WRITES
    }
    tasks = {path: task_id for task_id, path, *_ in writes if path in handlers}
    for task_id, path, channel, value in writes:
        of_handler = tasks.get(path.removesuffix(_OF_HANDLER))
        if of_handler is None:
            yield task_id, channel, value
        elif path.endswith(_OF_HANDLER):
            yield of_handler, channel, value
