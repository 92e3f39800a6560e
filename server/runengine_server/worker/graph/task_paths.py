"""What the path of a task tells, under which LangGraph has its writes stored: "~__pregel_pull, send" of a
node, "~__pregel_push, 0000000002, 0000000000" of the third of the pending Sends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langgraph._internal._constants import PUSH
from langgraph.pregel._task_status import CONTROL_WRITES
from langgraph.types import Send

# How the path of an error handler's task goes on from that of the task whose error it takes.
_OF_HANDLER = ", node_error_handler, 0000000000"


def node_of(task_path: str, sends: Sequence[Send]) -> str:
    """The node of a task, of which its path has the name, or the place among the pending Sends."""
    kind, _, rest = task_path.removeprefix("~").removesuffix(_OF_HANDLER).partition(", ")
    place = rest.partition(", ")[0]
    return sends[int(place)].node if kind == PUSH and place.isdigit() else rest


def with_handlers(writes: Sequence[tuple[str, str, str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """(task id, task path, channel, value) without the path, and what error handlers wrote in the name
    of the task whose error they took, in place of that error. LangGraph 1.2.22 does not look for the writes
    of a handler when a graph resumes, and runs it again (its issue 9002); of a task it does.
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
