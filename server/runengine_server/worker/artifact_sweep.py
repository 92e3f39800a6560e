"""Deletes the bytes of artifacts without a row: their worker was lost between storing the two."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

import structlog

from runengine_server.database.database import Database
from runengine_server.repositories.artifact_repository import ArtifactRepository
from runengine_server.repositories.artifact_store import ArtifactStore

# The row follows the bytes at once, or, where the worker is suspended or cut off in between, before its lease
# ends, which takes an hour at most: later it is fenced off.
OLD_SECONDS = 24 * 3600.0

_log = structlog.get_logger()


class ArtifactSweep:
    """Of all tenants and runs."""

    def __init__(self, database: Database, store: ArtifactStore) -> None:
        self._database = database
        self._store = store

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
