"""Deletes what tenants have kept long enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from runengine_server.database.database import Database
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import ENDED, RunStatus
from runengine_server.repositories import retention
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.retention import Place, Retention

# When it is the database that is away, and not what one tenant has.
_MOST_UNAVAILABLE = 3

# It pauses for as long as a batch took, and so takes half of one connection's time at most.
_PAUSES = 1.0

_log = structlog.get_logger()


class RetentionChore:
    """`days`: for how many days tenants keep runs that have no number of their own; None is for ever."""

    def __init__(self, database: Database, store: ArtifactStore, days: int | None) -> None:
        self._database = database
        self._store = store
        self._days = days

    async def purge(self) -> None:
        """Deletes runs and bulk operations of all tenants, a batch at a time. What fails for one tenant is
        logged, and keeps no other from it. Raises Unavailable where the database is away.
        """
        dispatch = self._database.dispatch()
        failures = _Failures()
        for tenant_id in await retention.tenants_with_bytes_to_delete(dispatch):
            with failures.logged(tenant_id):
                await self._delete_bytes(tenant_id)
        for tenant_id, days in (await retention.retained_tenants(dispatch, self._days)).items():
            with failures.logged(tenant_id):
                await self._purge_tenant(tenant_id, days)

    async def _purge_tenant(self, tenant_id: str, days: int) -> None:
        kept = Retention(self._database.tenant(tenant_id), tenant_id, days)
        deleted = 0
        for status in sorted(ENDED):
            deleted += await self._purge_runs(tenant_id, kept, status)
        if deleted:
            _log.info("runs deleted that ended long ago", tenant=tenant_id, days=days, deleted=deleted)
        begun = time.monotonic()
        while await kept.purge_bulk_operations():
            await _pause_after(begun)
            begun = time.monotonic()

    async def _purge_runs(self, tenant_id: str, kept: Retention, status: RunStatus) -> int:
        deleted = 0
        place: Place | None = None
        while True:
            begun = time.monotonic()
            count, place = await kept.purge_runs(status, place)
            if count:
                await self._delete_bytes(tenant_id)
            deleted += count
            if place is None:
                return deleted
            await _pause_after(begun)

    async def _delete_bytes(self, tenant_id: str) -> None:
        tenant = self._database.tenant(tenant_id)
        while keys := await retention.bytes_to_delete(tenant, tenant_id):
            await self._store.delete_all(keys)
            await retention.bytes_are_deleted(tenant, tenant_id, keys)


class _Failures:
    """Those of a purge, by tenant: one may have what takes too long, or a lock that is held."""

    def __init__(self) -> None:
        self._unavailable = 0

    @contextmanager
    def logged(self, tenant_id: str) -> Iterator[None]:
        """Logs what the block raises. Raises Unavailable the third time in a row."""
        try:
            yield
            self._unavailable = 0
        except Exception as error:
            _log.warning("what ended long ago is not all deleted", tenant=tenant_id, exc_info=error)
            self._unavailable += isinstance(error, Unavailable)
            if self._unavailable == _MOST_UNAVAILABLE:
                raise


async def _pause_after(begun: float) -> None:
    await asyncio.sleep((time.monotonic() - begun) * _PAUSES)
