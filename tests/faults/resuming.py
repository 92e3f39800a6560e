"""A client that resumes what waits: once, twice at once, against a cancel, and where there is no gate."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import uuid
from collections.abc import Awaitable, Callable

import asyncpg
from runengine.v1.run_pb2 import Run

from tests.faults.clients import Tenant

# What asyncpg raises when its server has gone away.
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

TWICE, UNKNOWN, CANCELLED = "resume twice at once", "resume of an unknown id", "resume against cancel"
RESUMES = (TWICE, UNKNOWN, CANCELLED)


class Approver:
    """Resumes the runs of all tenants. `superuser` connects past what is broken; `hit` counts what has met
    something.
    """

    def __init__(
        self,
        tenants: list[Tenant],
        superuser: Callable[[], Awaitable[asyncpg.Connection]],
        hit: Callable[..., None],
        dice: random.Random,
    ) -> None:
        self._tenants = tenants
        self._superuser = superuser
        self._hit = hit
        self._random = dice

    async def resume_all(self) -> None:
        """Resumes what waits, each time in another manner, until it is cancelled."""
        manners = itertools.cycle(
            (self._twice, self._unknown, self._until_told, self._against_cancel, self._once)
        )
        while True:
            await asyncio.sleep(self._random.uniform(0.05, 0.2))
            with contextlib.suppress(*AWAY):
                for tenant, run_id in await self._waiting():
                    run = await tenant.get(run_id)
                    if run is not None and run.waiting_for:
                        await next(manners)(tenant, run)

    async def _waiting(self) -> list[tuple[Tenant, str]]:
        """One of each tenant, past the proxy."""
        connection = await self._superuser()
        try:
            rows = await connection.fetch(
                """SELECT DISTINCT ON (tenant_id) tenant_id, id::text FROM runs
                WHERE status = 'running' AND encoded_waiting IS NOT NULL ORDER BY tenant_id, random()"""
            )
        finally:
            connection.terminate()
        owners = {tenant.name: tenant for tenant in self._tenants}
        return [(owners[row["tenant_id"]], row["id"]) for row in rows if row["tenant_id"] in owners]

    async def _once(self, tenant: Tenant, run: Run) -> None:
        await tenant.resume(run)

    async def _until_told(self, tenant: Tenant, run: Run) -> None:
        """The same again, with its key, while nobody knows what came of it."""
        key = uuid.UUID(int=self._random.getrandbits(128), version=4).hex
        for _ in range(5):
            if await tenant.resume(run, key, f"{tenant.name}:{key}") is not None:
                return

    async def _twice(self, tenant: Tenant, run: Run) -> None:
        resumed = await asyncio.gather(tenant.resume(run), tenant.resume(run))
        if sum(each is not None for each in resumed) == 1:
            self._hit(TWICE, run=run.id)

    async def _against_cancel(self, tenant: Tenant, run: Run) -> None:
        if run.id not in tenant.runs:  # nobody cancels it
            return await self._once(tenant, run)
        resuming, cancelling = tenant.resume(run), tenant.cancel(run.id)
        if self._random.random() < 0.5:
            await asyncio.gather(resuming, cancelling)
        else:
            await asyncio.gather(cancelling, resuming)
        self._hit(CANCELLED, run=run.id)
        return None

    async def _unknown(self, tenant: Tenant, run: Run) -> None:
        if await tenant.resume_unknown(run.id, expected=["INVALID_ARGUMENT", "RUN_NOT_WAITING"]) is None:
            self._hit(UNKNOWN, run=run.id)
