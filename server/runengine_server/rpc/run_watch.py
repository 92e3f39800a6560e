"""What has come for one caller who watches runs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from runengine.v1 import run_pb2

from runengine_server.domain.changes import Change, Changes, Position, Scope
from runengine_server.domain.progress import Progress, ProgressEvent, ProgressKind
from runengine_server.domain.run import ENDED
from runengine_server.rpc.messages import progress_message

# How much progress may wait for a caller who reads slowly, and how many transitions: beyond that these are
# read again when the caller has caught up.
MAX_WAITING = 1000
_MAX_WAITING_BYTES = 256 * 1024

_DROPPED = ProgressEvent(ProgressKind.DROPPED)


@dataclass(slots=True)
class _Known:
    """Of a run: the greatest epoch that is known, and epoch and number of the last event that was taken."""

    epoch: int = 0
    taken: tuple[int, int] = (0, 0)


class RunWatch:
    """Transitions of the runs of `scope` wait here until they are taken, and progress as far as there is
    room.

    `position` is how far transitions have been read for it; None until that is known. `is_behind` says that
    no more are read before those that wait are taken, `is_current` that all were read that there were a
    moment ago, `is_over` that the stream must end.
    """

    def __init__(self, scope: Scope, *, with_progress: bool = True) -> None:
        self.scope = scope
        self.with_progress = with_progress
        self.position: Position | None = None
        self.is_behind = False
        self.is_current = False
        self.is_over = False
        self._changes: deque[tuple[Changes, Change]] = deque()
        self._progress: deque[tuple[Progress, int, ProgressEvent]] = deque()
        self._progress_bytes = 0
        self._known: dict[UUID, _Known] = {}
        self._woken = asyncio.Event()

    # What the reader of transitions, and the listener for progress, put here.

    def add_changes(self, changes: Changes) -> None:
        """Takes what has been read from its position on; unless too much waits already."""
        if len(self._changes) >= MAX_WAITING:
            self.is_behind = True
            return
        self._changes.extend((changes, each) for each in changes.changes if self.scope.has(each))
        self.position, is_first = changes.end, not self.is_current
        self.is_current = changes.is_latest
        if self._changes or is_first:
            self._woken.set()

    def add_progress(self, progress: Progress) -> None:
        """Keeps the events until they are taken, as far as there is room; none of another tenant, of a run
        that is not watched, or of a worker from which another has taken the run.
        """
        if not self.with_progress or progress.tenant_id != self.scope.tenant_id:
            return
        known = self._known.get(progress.run_id)
        if known is None:
            # Of a campaign, a run is known by its transitions.
            if self.scope.campaign_id is not None or self.scope.run_id not in (None, progress.run_id):
                return
            known = self._known[progress.run_id] = _Known()
        if progress.epoch < known.epoch:
            return
        known.epoch = progress.epoch
        for number, event in progress.events:
            has_room = len(self._progress) < MAX_WAITING and self._progress_bytes < _MAX_WAITING_BYTES
            if not has_room:
                event = _DROPPED
                if self._progress[-1][2] is _DROPPED and self._progress[-1][0].run_id == progress.run_id:
                    self._progress.pop()
                elif len(self._progress) >= 2 * MAX_WAITING:
                    return
            self._progress.append((progress, number, event))
            self._progress_bytes += len(event.data)
        self._woken.set()

    def end(self) -> None:
        """The stream has to end: its token has expired, or the process stops."""
        self.is_over = True
        self._woken.set()

    # What the stream takes.

    def know(self, run_id: UUID, epoch: int) -> None:
        """The run is one of the scope, and known to have been claimed under that epoch."""
        known = self._known.setdefault(run_id, _Known())
        known.epoch = max(known.epoch, epoch)

    async def wait(self) -> None:
        """Returns when something has come."""
        await self._woken.wait()
        self._woken.clear()

    def take_changes(self) -> Iterator[tuple[Changes, Change]]:
        """All transitions that wait, each with those that it was read with."""
        while self._changes:
            changes, change = self._changes.popleft()
            self.know(change.run_id, change.epoch)
            yield changes, change
            if change.event is not None and change.event.to_status in ENDED:
                self._known.pop(change.run_id, None)

    def take_progress(self) -> Iterator[run_pb2.ProgressEvent]:
        """All progress that waits; each event has how many before it were dropped, wherever that was."""
        while self._progress:
            progress, number, event = self._progress.popleft()
            self._progress_bytes -= len(event.data)
            known = self._known.setdefault(progress.run_id, _Known())
            epoch, last = known.taken
            known.taken = progress.epoch, number
            is_event = event.kind is not ProgressKind.DROPPED
            # What came before the first event is not known.
            dropped = max(0, number - last - is_event) if epoch == progress.epoch else 0
            if is_event or dropped:
                yield progress_message(progress, number, event, dropped)
