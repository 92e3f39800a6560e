"""What the tasks of a superstep have written that is not summed up in a checkpoint yet, and may never be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from langgraph.pregel._task_status import CONTROL_WRITES
from langgraph.types import Send

from runengine_server.worker.graph.channels import Rejection
from runengine_server.worker.graph.failures import describe, is_retryable
from runengine_server.worker.graph.load import Workflow
from runengine_server.worker.graph.recorded_node import Execution
from runengine_server.worker.graph.task_paths import node_of

# Namespace and id of the checkpoint on top of which something is written.
On = tuple[str, str]


class Written(NamedTuple):
    """What one task wrote, as (channel, value)."""

    task_id: str
    writes: Sequence[tuple[str, Any]]


def by_path(writes: Sequence[tuple[str, str, str, Any]]) -> dict[str, Written]:
    """The tasks that are done, by their paths, of what is stored on top of a checkpoint: (task id, task path,
    channel, value).
    """
    found: dict[tuple[str, str], list[tuple[str, Any]]] = {}
    for task_id, path, channel, value in writes:
        if channel not in CONTROL_WRITES:
            found.setdefault((task_id, path), []).append((channel, value))
    return {path: Written(task_id, each) for (task_id, path), each in found.items()}


async def take_back(
    error: BaseException,
    rejection: Rejection,
    written: Mapping[On, Mapping[str, Written]],
    sends: Mapping[On, Sequence[Send]],
    workflow: Workflow | None,
    execution: Execution,
) -> None:
    """A channel did not take what nodes wrote, which made their graph fail with `error`: forgets that, so
    that they run again when the graph resumes, fails their steps, and notes in the error who wrote what.
    `written` and `sends` have of each checkpoint the tasks that are done and what was sent to them.
    """
    for (namespace, checkpoint_id), tasks in written.items():
        if paths := _writers_of(rejection, tasks):
            names = [node_of(path, sends.get((namespace, checkpoint_id), ())) for path in paths]
            by = " and ".join(map(repr, dict.fromkeys(names)))
            error.add_note(f"written under {rejection.key!r} by {by}")
            if namespace == "":
                execution.failures.append((error, names[0]))
            policies = workflow.retry_policies.get(names[0], ()) if workflow and namespace == "" else ()
            task_ids = [tasks[path].task_id for path in paths]
            words, retryable = describe(error, execution.begun), is_retryable(error, policies)
            held = execution.held
            await execution.engine(held.take_back(namespace, checkpoint_id, task_ids, words, retryable))
            return


def _writers_of(rejection: Rejection, tasks: Mapping[str, Written]) -> list[str]:
    """The paths of those that wrote what was rejected; none when it was not theirs. LangGraph applies what
    was written in the order of the paths.
    """
    written = [
        (path, value)
        for path in sorted(tasks)
        for channel, value in tasks[path].writes
        if channel == rejection.key
    ]
    values = rejection.values
    if len(written) != len(values) or any(value is not values[i] for i, (_, value) in enumerate(written)):
        return []
    return list(dict.fromkeys(written[place][0] for place in rejection.places))
