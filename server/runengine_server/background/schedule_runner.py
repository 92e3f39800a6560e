"""Fires the schedules of all tenants, while the process serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from uuid import UUID

import structlog

from runengine_server.commands.schedules import fire
from runengine_server.database.database import Database
from runengine_server.domain.errors import Unavailable
from runengine_server.repositories.run_repository import RunRepository
from runengine_server.repositories.schedule_repository import ScheduleRepository, due_schedules

# How often a server looks for schedules that are due, and the pause when it cannot.
POLL_SECONDS = 1.0
_ERROR_SECONDS = 5.0

# How many are fired at a time, and how long one belongs to the server that fires it.
_AT_A_TIME = 4
_MOST = 100
_LEASE_SECONDS = 30.0

_log = structlog.get_logger()


def _now() -> datetime:
    return datetime.now(UTC)


class ScheduleRunner:
    """Fires what is due. Any number of servers may do so: a schedule belongs to the one that claims it, for
    half a minute, and a firing that comes twice all the same triggers one run.
    """

    def __init__(
        self,
        database: Database,
        queued_limit: int | None,
        known_workflows: Callable[[], Collection[str]],
        *,
        now: Callable[[], datetime] = _now,
    ) -> None:
        """`queued_limit`: how many runs a tenant may have queued."""
        self._database = database
        self._queued_limit = queued_limit
        self._known_workflows = known_workflows
        self._now = now

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        while True:
            try:
                found = await self.fire_due()
                pause = 0 if found == _MOST else POLL_SECONDS
            except Unavailable:
                pause = _ERROR_SECONDS  # what watches the database logs it
            except Exception as error:
                _log.error("cannot see which schedules are due", exc_info=error)
                pause = _ERROR_SECONDS
            await asyncio.sleep(pause)

    async def fire_due(self) -> int:
        """Fires those that are due. Returns how many there were."""
        due = await due_schedules(self._database, _MOST)
        room = asyncio.Semaphore(_AT_A_TIME)
        await asyncio.gather(*(self._fire(room, tenant_id, schedule_id) for tenant_id, schedule_id in due))
        return len(due)

    async def _fire(self, room: asyncio.Semaphore, tenant_id: str, schedule_id: UUID) -> None:
        scope = self._database.tenant(tenant_id)
        schedules, runs = ScheduleRepository(scope), RunRepository(scope)
        async with room:
            try:
                claimed = await schedules.claim(schedule_id, _LEASE_SECONDS)
                if claimed is not None:
                    known = self._known_workflows()
                    await fire(schedules, runs, claimed, self._queued_limit, known, self._now())
            except Unavailable:
                pass  # what watches the database logs it; the claim ends by itself
            except Exception as error:
                _log.error("a schedule does not fire", schedule=str(schedule_id), exc_info=error)
