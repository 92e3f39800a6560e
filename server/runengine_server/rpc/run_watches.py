"""Who watches runs in this process, and how it hears of these runs."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from uuid import UUID, uuid4

import structlog

from runengine_server.database.channels import (
    CANCELLED,
    CHANGED,
    TENANTS_WATCHED,
    WATCHED,
    channel_of_watcher,
)
from runengine_server.database.database import Database
from runengine_server.database.dispatch_connection import ListeningConnection
from runengine_server.domain.changes import Scope
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.progress import OF_TENANT, WATCHED_SECONDS, WatchedTenants, decode_payload
from runengine_server.repositories.change_repository import ChangeRepository
from runengine_server.rpc.change_reader import ChangeReader
from runengine_server.rpc.run_watch import RunWatch

# How often workers are told what is watched, and the connection is checked.
_ANNOUNCE_SECONDS = WATCHED_SECONDS / 3
_CHECK_SECONDS = 2.0
# How long a call waits for the connection, without which it misses progress; the pause after a failure.
_CONNECT_SECONDS = 1.0
_RECONNECT_SECONDS = 0.5

# How many ids, of 37 bytes each, go into a notification of at most 7,999.
_MAX_IDS = 200

_log = structlog.get_logger()


class RunWatches:
    """All watches of this process, with one connection that listens and reads for all of them while anybody
    watches.

    Workers hear every five seconds which runs are watched here, and of which tenants all. What they tell is
    live: it is lost while the connection is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._process_id = uuid4()
        self._of_runs: defaultdict[UUID, set[RunWatch]] = defaultdict(set)
        self._of_tenants: defaultdict[str, set[RunWatch]] = defaultdict(set)
        self._watches: set[RunWatch] = set()
        self._unannounced: set[RunWatch] = set()
        self.changes = ChangeRepository(database)
        self.reader = ChangeReader(self.changes)
        # For what a stream reads at its beginning: a thousand that come at once take one connection.
        self.beginning = asyncio.Lock()
        self._listening: asyncio.Task[None] | None = None
        self._connection: ListeningConnection | None = None
        self._connected = asyncio.Event()

    @contextmanager
    def watch(self, scope: Scope, *, with_progress: bool = True, until: float) -> Iterator[RunWatch]:
        """Watches these runs within the block, and ends the watch at `until`, in seconds since the epoch."""
        watch = RunWatch(scope, with_progress=with_progress)
        watches: set[RunWatch] = (
            self._of_tenants[scope.tenant_id] if scope.run_id is None else self._of_runs[scope.run_id]
        )
        watches.add(watch)
        self._watches.add(watch)
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="run watches")
        self._unannounced.add(watch)
        self.reader.wake()
        # call_later takes a finite time.
        expiry = asyncio.get_running_loop().call_later(min(until - time.time(), 10**8), watch.end)
        try:
            yield watch
        finally:
            expiry.cancel()
            self.reader.remove(watch)
            self._watches.remove(watch)
            self._unannounced.discard(watch)
            watches.remove(watch)
            self._forget(scope)

    def _forget(self, scope: Scope) -> None:
        if scope.run_id is not None and not self._of_runs[scope.run_id]:
            del self._of_runs[scope.run_id]
        if scope.run_id is None and not self._of_tenants[scope.tenant_id]:
            del self._of_tenants[scope.tenant_id]
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
                await connection.ensure_listening(_CHECK_SECONDS)

    def stop(self) -> None:
        """Ends all watches, for the process is about to end."""
        for watch in self._watches:
            watch.end()

    async def _listen(self) -> None:
        channels = channel_of_watcher(self._process_id), CANCELLED, CHANGED
        while True:
            try:
                async with self._database.listening_connection(
                    self._on_notification, *channels
                ) as connection:
                    self._connection = connection
                    self._connected.set()
                    self.reader.hint_all()
                    await self._go_on(connection)
            except Unavailable:
                pass
            except Exception as error:
                _log.error("cannot hear of runs that are watched; trying again", exc_info=error)
            finally:
                self._connection = None
                self._connected.clear()
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _go_on(self, connection: ListeningConnection) -> None:
        announce_at = time.monotonic()
        while True:
            if time.monotonic() >= announce_at:
                self._unannounced.update(self._watches)
                await connection.ensure_listening(_CHECK_SECONDS)
                announce_at = time.monotonic() + _ANNOUNCE_SECONDS
            watches, self._unannounced = self._unannounced, set()
            for channel, payload in self._announcements(watches):
                await connection.notify(channel, payload, _CHECK_SECONDS)
            await self.reader.read(connection)

    def _announcements(self, watches: Collection[RunWatch]) -> Iterator[tuple[str, str]]:
        run_ids = list({each.scope.run_id for each in watches if each.scope.run_id is not None})
        for first in range(0, len(run_ids), _MAX_IDS):
            ids = [self._process_id, *run_ids[first : first + _MAX_IDS]]
            yield WATCHED, " ".join(map(str, ids))
        tenants = {
            (each.scope.tenant_id, each.with_progress) for each in watches if each.scope.run_id is None
        }
        for payload in WatchedTenants(self._process_id, list(tenants)).encode():
            yield TENANTS_WATCHED, payload

    def _on_notification(self, channel: str, payload: str) -> None:
        if channel == CHANGED:
            self.reader.hint(payload)
        elif channel == CANCELLED:
            self._hint_run(payload.partition(" ")[0])
        elif payload.startswith("["):
            progress = decode_payload(payload)
            for watches in (self._of_runs.get(progress.run_id), self._of_tenants.get(progress.tenant_id)):
                for watch in watches or ():
                    watch.add_progress(progress)
        elif payload.startswith(OF_TENANT):
            self.reader.hint(payload.removeprefix(OF_TENANT))
        else:
            self._hint_run(payload)

    def _hint_run(self, run_id: str) -> None:
        for watch in self._of_runs.get(UUID(run_id), ()):
            self.reader.hint(watch.scope.tenant_id)
