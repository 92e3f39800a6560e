"""Reads the transitions of all runs that are watched in this process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from uuid import UUID

from runengine_server.database.dispatch_connection import ListeningConnection
from runengine_server.database.pace import Pace
from runengine_server.domain.changes import Position
from runengine_server.repositories.change_repository import ChangeRepository, Reader
from runengine_server.rpc.run_watch import RunWatch

# How often the transitions of all are read where no hint has come: hints may be lost, and some changes have
# none.
POLL_SECONDS = 2.0

# How many statements a second there are where hints come without end, and how many may come at once before.
# With a statement for each hint, PostgreSQL took a fifth more for work of which a fifteenth was watched.
_STATEMENTS_PER_SECOND = 100.0
_BURST = 20.0

# How many readers a statement has at most: of a poll each takes PostgreSQL some 20 µs.
_MAX_READERS = 200


class ChangeReader:
    """One statement at a time reads on for all watches of the tenants that a hint was about, from the
    position of each. Watches that are at the same position share what is read, and those that have caught up
    are.

    Transitions are read from their tables, from snapshot to snapshot, so that none is missed and none comes
    twice, whatever becomes of notifications.
    """

    def __init__(self, repository: ChangeRepository) -> None:
        self._repository = repository
        self._watches: defaultdict[str, set[RunWatch]] = defaultdict(set)
        self._due: set[str] = set()
        self._woken = asyncio.Event()
        self._pace = Pace(_BURST, _STATEMENTS_PER_SECOND)

    def add(self, watch: RunWatch) -> None:
        """Reads for the watch, which has a position, from now on."""
        self._watches[watch.scope.tenant_id].add(watch)
        self.hint(watch.scope.tenant_id)

    def remove(self, watch: RunWatch) -> None:
        """Reads for it no more."""
        watches = self._watches[watch.scope.tenant_id]
        watches.discard(watch)
        if not watches:
            del self._watches[watch.scope.tenant_id]

    def wake(self) -> None:
        """Has read() return, though nothing may have changed."""
        self._woken.set()

    def hint(self, tenant_id: str) -> None:
        """Something may have changed for those who watch that tenant."""
        if tenant_id in self._watches:
            self._due.add(tenant_id)
            self._woken.set()

    def hint_all(self) -> None:
        """Something may have changed for all."""
        self._due.update(self._watches)
        self._woken.set()

    async def read(self, connection: ListeningConnection) -> None:
        """Waits for a hint, or for as long as there may be none, and reads. Raises as ChangeRepository.read
        does; then hint_all() is due.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self._woken.wait()
        await self._pace.wait()
        if not self._woken.is_set():
            self._due.update(self._watches)
        self._woken.clear()
        due, self._due = self._due, set()
        await self._read(connection, due)

    async def _read(self, connection: ListeningConnection, tenant_ids: Collection[str]) -> None:
        groups: defaultdict[tuple[str, Position], list[RunWatch]] = defaultdict(list)
        for tenant_id in tenant_ids:
            for watch in self._watches.get(tenant_id, ()):
                if watch.position is not None and not watch.is_behind:
                    groups[tenant_id, watch.position].append(watch)
        waiting = list(groups.items())
        for first in range(0, len(waiting), _MAX_READERS):
            part = waiting[first : first + _MAX_READERS]
            readers = [Reader(*place, _run_ids(watches)) for place, watches in part]
            found = await self._repository.read(connection, readers)
            for (place, watches), changes in zip(part, found, strict=True):
                for watch in watches:
                    watch.add_changes(changes)
                if not changes.is_latest:
                    self.hint(place[0])


def _run_ids(watches: Collection[RunWatch]) -> tuple[UUID, ...] | None:
    run_ids = {watch.scope.run_id for watch in watches}
    known = tuple(each for each in run_ids if each is not None)
    return known if len(known) == len(run_ids) else None
