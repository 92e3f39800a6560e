"""The schedules of one tenant; and those of all tenants that are due."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from runengine_server.database.database import Database
from runengine_server.database.functions import dispatch_function, tenant_function
from runengine_server.database.scopes import TenantScope
from runengine_server.domain.schedule import MAX_SCHEDULES, Overlap, Schedule, Timetable

_CREATE = tenant_function("create_schedule")
_LIST = tenant_function("list_schedules")
_UPDATE = tenant_function("update_schedule")
_DELETE = tenant_function("delete_schedule")
_CLAIM = tenant_function("claim_schedule")
_RECORD = tenant_function("record_firing")
_POSTPONE = tenant_function("postpone_firing")
_DUE = dispatch_function("due_schedules")


class ScheduleRepository:
    """The schedules of one tenant."""

    def __init__(self, scope: TenantScope) -> None:
        self._scope = scope

    async def create(
        self,
        schedule_id: UUID,
        timetable: Timetable,
        request: bytes,
        overlap: Overlap,
        next_at: datetime | None,
    ) -> Schedule | None:
        """The new schedule, paused without `next_at`; None when the tenant has as many as it may."""
        rows = await self._scope.call(
            _CREATE,
            schedule_id,
            timetable.cron,
            timetable.time_zone,
            request,
            overlap,
            next_at is None,
            next_at,
            MAX_SCHEDULES,
        )
        return _schedule(rows[0]) if rows else None

    async def list(self) -> Sequence[Schedule]:
        """All of the tenant, the oldest first."""
        return [_schedule(row) for row in await self._scope.call(_LIST, None)]

    async def get(self, schedule_id: UUID) -> Schedule | None:
        """The schedule; None when the tenant has none of that id."""
        rows = await self._scope.call(_LIST, schedule_id)
        return _schedule(rows[0]) if rows else None

    async def update(self, known: Schedule, new: Schedule) -> Schedule | None:
        """The schedule as it is now; None when a call has changed it since it was as `known`."""
        rows = await self._scope.call(
            _UPDATE,
            known.id,
            known.updated_at,
            new.timetable.cron,
            new.timetable.time_zone,
            new.request,
            new.overlap,
            new.next_at is None,
            new.next_at,
        )
        return _schedule(rows[0]) if rows else None

    async def delete(self, schedule_id: UUID) -> Schedule | None:
        """The schedule as it was; None when the tenant has none of that id."""
        rows = await self._scope.call(_DELETE, schedule_id)
        return _schedule(rows[0]) if rows else None

    async def claim(self, schedule_id: UUID, lease_seconds: float) -> Schedule | None:
        """The schedule, where it is due and no other server is at it."""
        rows = await self._scope.call(_CLAIM, schedule_id, lease_seconds)
        return _schedule(rows[0]) if rows else None

    async def record_firing(
        self, claimed: Schedule, fired_at: datetime, run_id: UUID | None, note: str | None, next_at: datetime
    ) -> None:
        """Stores that it has fired, unless it was changed meanwhile."""
        await self._scope.call(_RECORD, claimed.id, claimed.next_at, fired_at, run_id, note, next_at)

    async def postpone_firing(self, claimed: Schedule, seconds: float, note: str) -> None:
        """Has the firing wait."""
        await self._scope.call(_POSTPONE, claimed.id, claimed.next_at, seconds, note)


async def due_schedules(database: Database, limit: int) -> Sequence[tuple[str, UUID]]:
    """Tenant and id of the schedules of all tenants that are due, the first of them first."""
    return [(row["tenant_id"], row["id"]) for row in await database.dispatch().call(_DUE, limit)]


def _schedule(row: asyncpg.Record) -> Schedule:
    return Schedule(
        id=row["id"],
        timetable=Timetable(row["cron"], row["time_zone"]),
        request=row["request"],
        overlap=Overlap(row["overlap"]),
        next_at=row["next_at"],
        last_at=row["last_at"],
        last_run_id=row["last_run_id"],
        note=row["note"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
