"""What stops a run until somebody resumes it: `interrupt()` in a node, and the gates before and after
nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import structlog
from google.protobuf.struct_pb2 import Struct
from langgraph._internal._constants import NS_SEP
from langgraph.types import Interrupt, _interrupt_id

from runengine_server.domain.run import WaitingFor
from runengine_server.domain.struct import to_dict
from runengine_server.worker.graph.namespaces import step_path
from runengine_server.worker.graph.output import to_json

# What the values shown of one run may take together, in bytes of JSON. They are in its row, and so in every
# list.
MAX_VALUE_BYTES = 64 * 1024

# What the id begins with of something that was asked in a graph without checkpoints.
_UNSAVED = "unsaved-"

_log = structlog.get_logger()


class Gates:
    """The gates of one execution of a run. Checkpointer and nodes say what is reached; `resume_values`, by
    id, is what the run was resumed with, and LangGraph's resume map.

    A gate of the graph belongs to one checkpoint of one namespace, and is passed when there is a value for
    it: however often the graph is resumed from there.
    """

    def __init__(self, resume_values: Struct) -> None:
        self._given = resume_values
        values = to_dict(resume_values)
        self.resume_values = {key: each for key, each in values.items() if not key.startswith(_UNSAVED)}
        self._unsaved_values = [each for key, each in values.items() if key.startswith(_UNSAVED)]
        # By namespace, the gates at its current checkpoint.
        self._at: dict[str, list[WaitingFor]] = {}
        # The same of graphs that are unknown, and may have none.
        self._unknown: dict[str, list[WaitingFor]] = {}
        # The tasks of the top graph that were interrupted, as the namespaces of what is below them.
        self._stopped: list[str] = []
        # What `interrupt()` was called with, and which node did, by id.
        self._interrupts: dict[str, Interrupt[Any]] = {}
        self._asking: dict[str, str] = {}
        self._unsaved: set[str] = set()

    def reach(self, namespace: str, checkpoint_id: str, nodes: Sequence[str] | None) -> bool:
        """A checkpoint is the current one of its namespace, with gates before or after these nodes; None
        where the graph is unknown. Whether the run was resumed there, for all of them.
        """
        gates = [
            WaitingFor(_gate_id(namespace, checkpoint_id, node), step_path(namespace, node))
            for node in ([""] if nodes is None else nodes)
        ]
        (self._unknown if nodes is None else self._at)[namespace] = gates
        return bool(gates) and all(gate.id in self.resume_values for gate in gates)

    @property
    def resume(self) -> Any:
        """What LangGraph is called with to go on: values by the ids of what asked; or the one value for what
        asked in a graph without checkpoints, whose tasks have other ids each time; None where nothing is.
        """
        if self.resume_values or len(self._unsaved_values) != 1:
            return self.resume_values or None
        return self._unsaved_values[0]

    def ask(self, namespace: str, node: str, interrupts: Sequence[Any], own: str) -> None:
        """A task was interrupted by these calls of `interrupt()`: its own, whose id is `own`, or those of
        tasks below it, which come first unless they are of a graph without checkpoints.
        """
        for each in interrupts:
            if not isinstance(each, Interrupt):
                continue  # the channel is not LangGraph's alone
            if each.id not in self._asking and each.id != own:
                self._unsaved.add(each.id)
            self._asking.setdefault(each.id, step_path(namespace, node))
            if namespace == "":
                self._interrupts[each.id] = each

    def stop(self, namespace: str) -> None:
        """A task of the top graph was interrupted; what is below it has that namespace."""
        self._stopped.append(namespace)

    def use(self, namespace: str) -> None:
        """The task with that namespace has used the value of its first call of `interrupt()`. LangGraph takes
        a value of that id for any of its calls.
        """
        self.resume_values.pop(_interrupt_id(namespace, 0), None)

    def waiting_for(self) -> list[WaitingFor]:
        """What the graph, which has returned, waits for; nothing when it has ended."""
        asked = [self._asked(each) for each in self._interrupts.values()]
        gates = self._reached(self._at)
        return _bounded([*asked, *gates] or self._reached(self._unknown)[-1:])

    def _reached(self, at: dict[str, list[WaitingFor]]) -> list[WaitingFor]:
        stopped = (gates for namespace, gates in at.items() if self._is_stopped(namespace))
        return [gate for gates in stopped for gate in gates if gate.id not in self.resume_values]

    def kept(self) -> Struct:
        """What the run was resumed with and has not used: values for some of the gates of one checkpoint."""
        here = {gate.id for gates in self._at.values() for gate in gates}
        return Struct(fields={key: value for key, value in self._given.fields.items() if key in here})

    def _is_stopped(self, namespace: str) -> bool:
        # No task of a graph has been begun at one of its own gates.
        return any(f"{namespace}{NS_SEP}".startswith(f"{each}{NS_SEP}") for each in self._stopped)

    def _asked(self, interrupt: Interrupt[Any]) -> WaitingFor:
        step_id = self._asking[interrupt.id]
        key = f"{_UNSAVED if interrupt.id in self._unsaved else ''}{interrupt.id}"
        try:
            return WaitingFor(key, step_id, to_json(interrupt.value).decode())
        except Exception as error:
            _log.warning("what a run waits for cannot be shown as JSON", step=step_id, exc_info=error)
            return WaitingFor(key, step_id, note="The value cannot be shown as JSON.")


def _gate_id(namespace: str, checkpoint_id: str, node: str) -> str:
    """As long as LangGraph's ids of interrupts, which its resume map requires of all keys."""
    return hashlib.sha256(f"{namespace}\n{checkpoint_id}\n{node}".encode()).hexdigest()[:32]


def _bounded(waiting_for: Sequence[WaitingFor]) -> list[WaitingFor]:
    left = MAX_VALUE_BYTES
    found = []
    for each in waiting_for:
        size = len(each.value.encode())
        if size > left:
            note = f"The value takes {size:,} bytes of JSON, and is not shown."
            each = WaitingFor(each.id, each.step_id, note=note)
        else:
            left -= size
        found.append(each)
    return found
