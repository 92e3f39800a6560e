"""LangGraph's paths of tasks, which are stored with their writes: "~__pregel_pull, send" for the node `send`,
"~__pregel_push, 0000000002, 0000000000" for the third of the pending Sends, and for the first `@task` that a
node calls "~__pregel_push, ~__pregel_pull, main, 0000000000, 0000000001", to which we add its namespace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langgraph._internal._constants import NS_END, NS_SEP, PULL, PUSH
from langgraph.constants import START
from langgraph.pregel._task_status import CONTROL_WRITES
from langgraph.types import Send

# What the path of an error handler's task adds to the path of the task whose error it takes.
_OF_HANDLER = ", node_error_handler, 0000000000"


# The path of the task that writes the input of a graph, and is no step.
INPUT_PATH = f"~{PULL}, {START}"

# What comes before the namespace of an `@task`.
_TASK = ", task "


def with_namespace(task_path: str, namespace: str | None) -> str:
    """The path as it is stored; `namespace` is that of the task itself, where it is known."""
    is_task = namespace is not None and task_path.startswith(f"~{PUSH}, ~")
    return f"{task_path}{_TASK}{namespace}" if is_task else task_path


def namespace_of(task_path: str, sends: Sequence[Send], task_id: str, within: str) -> str:
    """The namespace of a task of the graph whose namespace is `within`."""
    if _TASK in task_path:
        return task_path.rpartition(_TASK)[2]
    return f"{within}{NS_SEP if within else ''}{node_of(task_path, sends)}{NS_END}{task_id}"


def node_of(task_path: str, sends: Sequence[Send]) -> str:
    """The node of a task: its path has the node's name, or the place of a Send among the pending `sends`."""
    if _TASK in task_path:
        return task_path.rpartition(_TASK)[2].rpartition(NS_SEP)[2].partition(NS_END)[0]
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
