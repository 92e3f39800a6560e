"""Which checkpoints of a run can be deleted while it goes on, because nothing will need them any more."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from langgraph._internal._constants import NS_END, NS_SEP

# How many bytes may be superseded before they are deleted; as many as the state has, where that is larger. A
# short run with a small state deletes nothing before it ends.
MIN_BYTES = 128 << 10


class Superseded:
    """What one execution of a run has stored, as far as it tells what can be deleted.

    LangGraph resumes each namespace from its current checkpoint. A checkpoint is put once all tasks of its
    superstep have ended. So it supersedes the one before it, and all that graphs within those tasks have
    stored, in namespaces such as "inner:<task>". It does not supersede "inner", of a sub-graph that keeps its
    state from call to call (`checkpointer=True`), nor "inner:<task>|1", of the second graph that the same
    task calls, when the first goes on. A delta channel is replayed from the writes on its ancestors, back to
    its last snapshot, and needs these.
    """

    def __init__(self) -> None:
        self._bytes = 0
        # Of each namespace the checkpoints that are needed, oldest first.
        self._needed: dict[str, deque[str]] = {}
        # What can be deleted: in these namespaces all that is older than the checkpoint, and whole
        # namespaces.
        self._oldest: dict[str, str] = {}
        self._dropped: list[str] = []
        # The namespaces of graphs within the tasks of each namespace.
        self._within: dict[str, set[str]] = {}

    def wrote(self, size: int) -> None:
        """`size` bytes were stored besides checkpoints."""
        self._bytes += size

    def put(
        self, namespace: str, checkpoint: Mapping[str, Any], metadata: Mapping[str, Any], size: int
    ) -> bool:
        """A checkpoint of `size` bytes is stored next. Returns whether it replaces the one before it, so that
        neither that nor the writes on top of it are needed.
        """
        self._bytes += size
        if metadata.get("source") not in ("input", "loop"):
            # A fork, which goes on from an older one.
            self._needed.pop(namespace, None)
            self._oldest.pop(namespace, None)
            return False
        for task in self._within.pop(namespace, ()):
            self._drop(task)
        if (enclosing := enclosing_namespace(namespace)) is not None:
            self._within.setdefault(enclosing, set()).add(namespace)
        replayed = replayed_checkpoints(checkpoint, metadata)
        needed = self._needed.setdefault(namespace, deque())
        needed.append(checkpoint["id"])
        while len(needed) > replayed + 1:
            needed.popleft()
        if len(needed) == replayed + 1:
            self._oldest[namespace] = needed[0]
        return not replayed

    def take(self, size: int) -> tuple[dict[str, str], list[str]]:
        """What is to be deleted together with a checkpoint of `size` bytes: in the namespaces of the dict
        what is older than the checkpoint named there, and the namespaces of the list as a whole. Nothing,
        until there is enough of it.
        """
        if self._bytes < max(MIN_BYTES, size):
            return {}, []
        oldest, dropped = self._oldest, self._dropped
        self._bytes, self._oldest, self._dropped = 0, {}, []
        return oldest, dropped

    def _drop(self, namespace: str) -> None:
        self._dropped.append(namespace)
        self._needed.pop(namespace, None)
        self._oldest.pop(namespace, None)
        for each in self._within.pop(namespace, ()):
            self._drop(each)


def replayed_checkpoints(checkpoint: Mapping[str, Any], metadata: Mapping[str, Any]) -> int:
    """How many checkpoints before this one its delta channels are replayed from."""
    counters = metadata.get("counters_since_delta_snapshot")
    if not counters:
        return 0
    versions = checkpoint["channel_versions"]
    return max((steps for name, (_, steps) in counters.items() if name in versions), default=0)


def enclosing_namespace(namespace: str) -> str | None:
    """The namespace of the graph within whose task the graph of this one is executed; None for a graph that
    keeps its state from call to call, and for the graph at the top.
    """
    if NS_END not in namespace:
        return None
    parts = namespace.split(NS_SEP)
    while NS_END not in parts.pop():
        pass
    return NS_SEP.join(parts)
