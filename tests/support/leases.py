"""When leases end, as the database has it, and what ends or renews them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from runengine_server.domain.run import ClaimedRun
from runengine_server.repositories.queue_repository import QueueRepository

from tests.support.own_worker import Engine
from tests.support.patience import SECONDS

# Of a run, as an expression in a statement on `runs`.
LEASE_ENDS = """CASE lease_expires_at WHEN 'infinity' THEN (
    SELECT expires_at FROM public.worker_leases WHERE worker_leases.worker_id = runs.worker_id
) ELSE lease_expires_at END"""


async def beat(queue: QueueRepository, held: Sequence[ClaimedRun]) -> set[UUID]:
    async with queue.lease_renewer(lambda channel, payload: None) as line:
        kept, locked = await line.heartbeat(held, SECONDS)
        assert not locked
        return kept


def other_worker(engine: Engine) -> QueueRepository:
    return QueueRepository(engine.database, "worker:other", [engine.workflow], engine.lease_seconds)


async def leases(engine: Engine) -> dict[UUID, datetime]:
    rows = await engine.tenant.fetch(f"SELECT id, {LEASE_ENDS} AS ends FROM runs WHERE status = 'running'")
    return {row["id"]: row["ends"] for row in rows}
