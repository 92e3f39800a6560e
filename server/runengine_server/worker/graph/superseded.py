"""Which checkpoints of a run nothing will need any more, while it goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from langgraph._internal._constants import NS_END, NS_SEP

# How much may lie there before it is thrown away, unless the state is larger: of a short run with a small
# state nothing is, before it ends.
_BYTES = 128 << 10


class Superseded:
    """What was stored in one execution of a run, as far as it matters for what may go.

    LangGraph resumes each namespace from its current checkpoint. A checkpoint is put once all tasks of its
    superstep have ended, so with the one before goes what graphs within those tasks have stored, in
    namespaces such as "inner:<task>"; not so "inner", of a sub-graph that keeps its state from call to call
    (`checkpointer=True`), nor "inner:<task>|1", of the second graph that the same task calls, when the first
    goes on. A delta channel is replayed from the writes on its ancestors, back to its last snapshot.
    """

    def __init__(self) -> None:
        self._bytes = 0
        self._needed: dict[str, deque[str]] = {}
        self._oldest: dict[str, str] = {}
        self._within: dict[str, set[str]] = {}
        self._gone: list[str] = []

    def wrote(self, size: int) -> None:
        """So many bytes were stored besides checkpoints."""
        self._bytes += size

    def put(
        self, namespace: str, checkpoint: Mapping[str, Any], metadata: Mapping[str, Any], size: int
    ) -> bool:
        """A checkpoint of so many bytes is stored next. Whether it sums up the one before it, so that neither
        that nor what was written on top of it is needed.
        """
        self._bytes += size
        if metadata.get("source") not in ("input", "loop"):
            # A fork goes on from an older one.
            self._needed.pop(namespace, None)
            self._oldest.pop(namespace, None)
            return False
        for task in self._within.pop(namespace, ()):
            self._forget(task)
        if NS_END in namespace:
            self._within.setdefault(_parent(namespace), set()).add(namespace)
        counters = metadata.get("counters_since_delta_snapshot") or {}
        versions = checkpoint["channel_versions"]
        replayed = max((steps for name, (_, steps) in counters.items() if name in versions), default=0)
        needed = self._needed.setdefault(namespace, deque())
        needed.append(checkpoint["id"])
        while len(needed) > replayed + 1:
            needed.popleft()
        if len(needed) == replayed + 1:
            self._oldest[namespace] = needed[0]
        return not replayed

    def due(self, size: int) -> tuple[dict[str, str], list[str]]:
        """What is to go with a checkpoint of that size: in these namespaces what is older than the given
        checkpoint, and all of those namespaces. Nothing, until it is worth it.
        """
        if self._bytes < max(_BYTES, size):
            return {}, []
        oldest, gone = self._oldest, self._gone
        self._bytes, self._oldest, self._gone = 0, {}, []
        return oldest, gone

    def _forget(self, namespace: str) -> None:
        self._gone.append(namespace)
        self._needed.pop(namespace, None)
        self._oldest.pop(namespace, None)
        for each in self._within.pop(namespace, ()):
            self._forget(each)


def _parent(namespace: str) -> str:
    """The namespace of the graph whose task the graph of this one is in."""
    parts = namespace.split(NS_SEP)
    while NS_END not in parts.pop():
        pass
    return NS_SEP.join(parts)
