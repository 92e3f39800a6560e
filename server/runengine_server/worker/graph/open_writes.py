"""What tasks have written on top of a checkpoint while no later checkpoint sums it up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from langgraph.pregel._task_status import CONTROL_WRITES
from langgraph.types import Send

from runengine_server.worker.graph.channels import Rejection
from runengine_server.worker.graph.task_paths import node_of

# Namespace and id of the checkpoint on top of which something is written.
CheckpointKey = tuple[str, str]


class TaskWrites(NamedTuple):
    """What one task wrote, as (channel, value)."""

    task_id: str
    writes: Sequence[tuple[str, Any]]


class RejectedWrites(NamedTuple):
    """The tasks that wrote what a channel did not take, and their nodes; at least one."""

    namespace: str
    checkpoint_id: str
    task_ids: list[str]
    nodes: list[str]


@dataclass(slots=True)
class Superstep:
    """What was written on top of one checkpoint: by the tasks that are done, by their paths, which with
    `sends`, the pending Sends of that checkpoint, tell their nodes. `error` is the first that a write could
    not be stored for.
    """

    tasks: dict[str, TaskWrites] = field(default_factory=dict)
    sends: Sequence[Send] = ()
    error: BaseException | None = None

    def nodes(self) -> Iterator[str]:
        """The nodes of the tasks that are done."""
        return (node_of(path, self.sends) for path in self.tasks)


class OpenWrites:
    """The supersteps of one execution that no checkpoint ends yet, and which writes are being stored."""

    def __init__(self) -> None:
        self._supersteps: dict[CheckpointKey, Superstep] = {}
        self._saves: dict[asyncio.Task[Any], CheckpointKey | None] = {}

    def on(self, key: CheckpointKey) -> Superstep:
        """The superstep that follows the checkpoint."""
        return self._supersteps.setdefault(key, Superstep())

    def begin(self, key: CheckpointKey, sends: Sequence[Send]) -> None:
        """A checkpoint is the current one of its namespace; `sends` are its pending Sends."""
        if sends:
            self.on(key).sends = sends

    def restore(self, key: CheckpointKey, writes: Sequence[tuple[str, str, str, Any]]) -> None:
        """Takes over what is stored on top of a checkpoint: (task id, task path, channel, value)."""
        found: dict[tuple[str, str], list[tuple[str, Any]]] = {}
        for task_id, path, channel, value in writes:
            if channel not in CONTROL_WRITES:
                found.setdefault((task_id, path), []).append((channel, value))
        self.on(key).tasks = {path: TaskWrites(task_id, each) for (task_id, path), each in found.items()}

    @contextmanager
    def saving(self, key: CheckpointKey) -> Iterator[None]:
        """While the block is executed, a write on top of that checkpoint is being stored."""
        task = asyncio.current_task()
        assert task is not None
        self._saves[task] = key
        try:
            yield
        except BaseException as error:
            superstep = self.on(key)
            if superstep.error is None:
                superstep.error = error
            raise
        finally:
            del self._saves[task]

    def add_flush(self, task: asyncio.Task[Any]) -> None:
        """`settle` waits for that task too."""
        self._saves[task] = None
        task.add_done_callback(self._saves.pop)

    async def settle(self) -> None:
        """Returns once nothing is being stored any more: LangGraph leaves writes behind when it stops."""
        while saves := self._saves.keys() - {asyncio.current_task()}:
            await asyncio.wait(saves)

    async def close(self, key: CheckpointKey) -> Superstep:
        """Ends the superstep that follows the checkpoint, once all that its tasks wrote is stored. Raises
        what a write could not be stored for.
        """
        # Not those of the next superstep, which may have begun: LangGraph does not wait for the checkpoint of
        # the input. And not those of graphs beside this one, which may take as long as they like.
        if saves := [save for save, each in self._saves.items() if each == key]:
            await asyncio.wait(saves)
        superstep = self.on(key)
        if (error := superstep.error) is not None:
            superstep.error = None
            raise error
        return self._supersteps.pop(key)

    def find(self, rejection: Rejection) -> RejectedWrites | None:
        """The tasks that wrote what was rejected; None when it was none of them."""
        for (namespace, checkpoint_id), superstep in self._supersteps.items():
            if paths := _writers_of(rejection, superstep.tasks):
                nodes = [node_of(path, superstep.sends) for path in paths]
                task_ids = [superstep.tasks[path].task_id for path in paths]
                return RejectedWrites(namespace, checkpoint_id, task_ids, nodes)
        return None


def _writers_of(rejection: Rejection, tasks: Mapping[str, TaskWrites]) -> list[str]:
    """The paths of the tasks that wrote what was rejected; none when it was not theirs. LangGraph applies
    writes in the order of the paths.
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
