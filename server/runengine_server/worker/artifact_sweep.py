"""Deletes the bytes of artifacts without a row: their worker was lost between storing the two."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

import structlog

from runengine_server.database.database import Database
from runengine_server.repositories.artifact_repository import ArtifactRepository
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.queue_repository import QueueRepository

# The row follows the bytes at once, or, where the worker is suspended or cut off in between, before its lease
# ends, which takes an hour at most: later it is fenced off.
OLD_SECONDS = 24 * 3600.0

# A little less than the hour after which each worker asks.
_EVERY_SECONDS = 3300.0

_log = structlog.get_logger()


class ArtifactSweep:
    """A chore that one worker does for all once an hour. Two at a time would do no harm."""

    def __init__(self, database: Database, store: ArtifactStore, queue: QueueRepository) -> None:
        self._database = database
        self._store = store
        self._queue = queue

    async def sweep_when_due(self) -> None:
        """Sweeps, unless another worker has within the hour."""
        if await self._queue.begin_chore("sweep of artifacts", _EVERY_SECONDS):
            await self.sweep()

    async def sweep(self) -> None:
        """Deletes the bytes that are older than a day, belong to a run of this database, and have no row. Has
        one page of keys in memory at a time, however many there are.
        """
        deleted = await self._store.delete_unfinished(OLD_SECONDS)
        async for page in self._store.older_than(OLD_SECONDS):
            stored: defaultdict[str, list[tuple[UUID, UUID]]] = defaultdict(list)
            for each in page:
                stored[each.tenant_id].append((each.run_id, each.artifact_id))
            for tenant_id, ids in stored.items():
                artifacts = ArtifactRepository(self._database.tenant(tenant_id))
                for run_id, artifact_id in await artifacts.without_row(ids):
                    await self._store.delete(self._store.key(tenant_id, run_id, artifact_id))
                    deleted += 1
        if deleted:
            _log.info("artifacts without a row deleted", deleted=deleted)
