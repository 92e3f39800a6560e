"""Who watches runs in this process, and what workers tell of these runs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import UUID, uuid4

import structlog
from runengine.v1 import run_pb2

from runengine_server.database.channels import CANCELLED, WATCHED, channel_of_watcher
from runengine_server.database.database import Database
from runengine_server.database.dispatch_connection import ListeningConnection
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.progress import (
    WATCHED_SECONDS,
    Progress,
    ProgressEvent,
    ProgressKind,
    decode_payload,
)
from runengine_server.rpc.messages import progress_message

# How often workers are told what is watched, and the connection is checked.
_ANNOUNCE_SECONDS = WATCHED_SECONDS / 3
_CHECK_SECONDS = 2.0
# How long a call waits for the connection, without which it misses progress; the pause after a failure.
_CONNECT_SECONDS = 1.0
_RECONNECT_SECONDS = 0.5

# How much progress may wait for a caller who reads slowly.
MAX_WAITING = 1000
_MAX_WAITING_BYTES = 256 * 1024

# How many ids, of 37 bytes each, go into a notification of at most 7,999.
_MAX_IDS = 200

_log = structlog.get_logger()


class RunWatch:
    """What has come for one caller who watches a run."""

    def __init__(self, tenant_id: str) -> None:
        self._tenant_id = tenant_id
        self._waiting: deque[tuple[Progress, int, ProgressEvent]] = deque()
        self._waiting_bytes = 0
        self._epoch = 0  # the greatest that is known
        self._taken = (0, 0)  # epoch and number of the last event that was taken
        self._woken = asyncio.Event()
        self._may_have_changed = False

    def add(self, progress: Progress) -> None:
        """Keeps the events until they are taken, as far as there is room; none of another tenant, and none of
        a worker from which another has taken the run.
        """
        if progress.tenant_id != self._tenant_id or progress.epoch < self._epoch:
            return
        self._epoch = progress.epoch
        for number, event in progress.events:
            has_room = len(self._waiting) < MAX_WAITING and self._waiting_bytes < _MAX_WAITING_BYTES
            if not has_room:
                event = _DROPPED
                if self._waiting[-1][2] is _DROPPED:
                    self._waiting.pop()
            self._waiting.append((progress, number, event))
            self._waiting_bytes += len(event.data)
        self._woken.set()

    def raise_epoch(self, epoch: int) -> None:
        """The run is known to have been claimed under that epoch."""
        self._epoch = max(self._epoch, epoch)

    def take(self) -> Iterator[run_pb2.ProgressEvent]:
        """All that waits; each event has how many before it were dropped, wherever that was."""
        while self._waiting:
            progress, number, event = self._waiting.popleft()
            self._waiting_bytes -= len(event.data)
            epoch, last = self._taken
            self._taken = progress.epoch, number
            is_event = event.kind is not ProgressKind.DROPPED
            # What came before the first event is not known.
            dropped = max(0, number - last - is_event) if epoch == progress.epoch else 0
            if is_event or dropped:
                yield progress_message(progress, number, event, dropped)

    def hint(self) -> None:
        """The run may have changed."""
        self._may_have_changed = True
        self._woken.set()

    async def wait(self, seconds: float) -> bool:
        """Returns when something has come, or after so long. Whether the run may have changed since the last
        time, as far as is known.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            self._may_have_changed = True
        self._woken.clear()
        may_have_changed, self._may_have_changed = self._may_have_changed, False
        return may_have_changed


_DROPPED = ProgressEvent(ProgressKind.DROPPED)


class RunWatches:
    """All watches of this process, on one connection that listens, and is there while anybody watches.

    Workers hear every five seconds which runs are watched here. What they tell is live: it is lost while the
    connection is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._process_id = uuid4()
        self._watches: dict[UUID, set[RunWatch]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._connection: ListeningConnection | None = None
        self._connected = asyncio.Event()
        self._checking = asyncio.Lock()
        self.is_stopping = False

    @contextmanager
    def watch(self, tenant_id: str, run_id: UUID) -> Iterator[RunWatch]:
        """Watches a run of that tenant within the block."""
        watch = RunWatch(tenant_id)
        self._watches.setdefault(run_id, set()).add(watch)
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="run watches")
        elif self._connection is not None:
            self._announce([run_id])
        try:
            yield watch
        finally:
            self._watches[run_id].remove(watch)
            if not self._watches[run_id]:
                del self._watches[run_id]
            if not self._watches and self._listening is not None:
                self._listening.cancel()
                self._listening = None

    async def wait_connected(self) -> None:
        """Returns once what workers tell can be received, and after a second all the same."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._connected.wait()

    async def settle(self) -> None:
        """Returns when all that workers have sent until now has come, unless the connection is lost."""
        if (connection := self._connection) is not None:
            with suppress(Exception):
                await self._check(connection)

    def stop(self) -> None:
        """Wakes all who watch, for the process is about to end."""
        self.is_stopping = True
        self._hint_all()

    async def _listen(self) -> None:
        channels = channel_of_watcher(self._process_id), CANCELLED
        while True:
            try:
                async with self._database.listening_connection(
                    self._on_notification, *channels
                ) as connection:
                    self._connection = connection
                    self._connected.set()
                    self._hint_all()
                    while True:
                        self._announce(list(self._watches))
                        await asyncio.sleep(_ANNOUNCE_SECONDS)
                        await self._check(connection)
            except Unavailable:
                pass
            except Exception as error:
                _log.error("cannot hear of runs that are watched; trying again", exc_info=error)
            finally:
                self._connection = None
                self._connected.clear()
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _check(self, connection: ListeningConnection) -> None:
        async with self._checking:
            await connection.ensure_listening(_CHECK_SECONDS)

    def _announce(self, run_ids: Sequence[UUID]) -> None:
        for first in range(0, len(run_ids), _MAX_IDS):
            ids = [self._process_id, *run_ids[first : first + _MAX_IDS]]
            self._database.notifier.notify(WATCHED, " ".join(map(str, ids)))

    def _on_notification(self, channel: str, payload: str) -> None:
        if channel != CANCELLED and payload.startswith("["):
            progress = decode_payload(payload)
            for watch in self._watches.get(progress.run_id, ()):
                watch.add(progress)
        else:
            run_id = UUID(payload.partition(" ")[0])
            for watch in self._watches.get(run_id, ()):
                watch.hint()

    def _hint_all(self) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.hint()
