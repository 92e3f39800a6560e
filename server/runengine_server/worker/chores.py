"""What one worker does for all, once an hour. Two at a time would do no harm."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module

from runengine_server.database.database import Database
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.queue_repository import QueueRepository
from runengine_server.worker.artifact_sweep import ArtifactSweep

# A little less than the hour after which each worker asks.
_EVERY_SECONDS = 3300.0


def hourly_chores(
    database: Database, store: ArtifactStore, queue: QueueRepository, retention_days: int | None
) -> list[Callable[[], Awaitable[None]]]:
    """Each does nothing where another worker has within the hour. `retention_days` as of RetentionChore."""

    async def sweep_artifacts() -> None:
        if await queue.begin_chore("sweep of artifacts", _EVERY_SECONDS):
            await ArtifactSweep(database, store).sweep()

    async def purge_retained() -> None:
        if not await queue.begin_chore("retention", _EVERY_SECONDS):
            return
        if retention_days is not None or await queue.has_retention():
            # Not before: with SQLAlchemy it takes 15 MiB, which most workers do without, and 0.2 s.
            retention = await asyncio.to_thread(import_module, "runengine_server.worker.retention")
            await retention.RetentionChore(database, store, retention_days).purge()

    return [sweep_artifacts, purge_retained]
