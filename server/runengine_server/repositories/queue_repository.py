"""What a worker asks of all tenants together: which runs to take, and to keep."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from runengine_server.database.functions import dispatch_function
from runengine_server.domain.encoded_run import decode_input
from runengine_server.domain.run import SUSPECT_LOSSES, ClaimedRun
from runengine_server.repositories.channels import CANCELLED, HANDED_BACK, QUEUED
from runengine_server.repositories.database import Database, DispatchLine

_CLAIM_QUEUED = dispatch_function("claim_queued")
_CLAIM_EXPIRED = dispatch_function("claim_expired")
_HEARTBEAT = dispatch_function("heartbeat")
_HAND_BACK = dispatch_function("hand_back")

# The first of the pauses.
_PAUSE_SECONDS = 0.25

# A thousand at a time, so that no transaction is long.
_FORGET_KEYS = """
DELETE FROM public.idempotency_keys WHERE (tenant_id, key) IN (
    SELECT tenant_id, key FROM public.idempotency_keys
    WHERE created_at < statement_timestamp() - interval '7 days' LIMIT 1000)
RETURNING 1
"""
_FORGET_CACHED = """
DELETE FROM public.step_cache WHERE (tenant_id, workflow_name, step_id, key) IN (
    SELECT tenant_id, workflow_name, step_id, key FROM public.step_cache
    WHERE expires_at < statement_timestamp() LIMIT 1000)
RETURNING 1
"""

_CLEAR_CACHED = """
DELETE FROM public.step_cache WHERE (tenant_id, workflow_name, step_id, key) IN (
    SELECT tenant_id, workflow_name, step_id, key FROM public.step_cache
    WHERE ($1::text IS NULL OR workflow_name = $1) AND ($2::text IS NULL OR tenant_id = $2) LIMIT 1000)
RETURNING 1
"""

_REGISTER = "INSERT INTO public.workflows (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"


def _claimed(row: asyncpg.Record) -> ClaimedRun:
    tenant_id, run_id, epoch, workflow_name, attempt, losses, hand_backs, *rest = row
    campaign_id, encoded_input, seconds, _ = rest
    return ClaimedRun(
        tenant_id,
        run_id,
        epoch,
        workflow_name,
        attempt,
        losses,
        hand_backs,
        campaign_id,
        *decode_input(encoded_input),
        seconds,
    )


def _columns(held: Sequence[ClaimedRun]) -> tuple[list[str], list[UUID], list[int]]:
    return [run.tenant_id for run in held], [run.id for run in held], [run.epoch for run in held]


async def clear_cache(database: Database, workflow_name: str | None, tenant_id: str | None) -> int:
    """Deletes what steps have cached, of one workflow and tenant or of all; how many entries."""
    dispatch, cleared = database.dispatch(), 0
    while found := await dispatch.fetch(_CLEAR_CACHED, workflow_name, tenant_id):
        cleared += len(found)
    return cleared


class QueueRepository:
    """The queue as one worker sees it; `worker` names it in the log of transitions.

    `running_limit` is how many runs of a tenant may be running at a time, on all workers together.
    """

    def __init__(
        self,
        database: Database,
        worker: str,
        workflow_names: Sequence[str],
        lease: float,
        running_limit: int | None = None,
    ) -> None:
        self._database = database
        self._dispatch = database.dispatch()
        self._worker = worker
        self._workflow_names = list(workflow_names)
        self._lease = lease
        self._running_limit = running_limit
        self._cursor = ""

    async def register_workflows(self) -> None:
        """Lets callers trigger the workflows of this worker."""
        await self._dispatch.fetch(_REGISTER, self._workflow_names)

    async def claim_queued(self, limit: int) -> list[ClaimedRun]:
        """Takes up to `limit` queued runs for one lease, of all tenants in turn, from each those of
        the highest priority, oldest first. Fewer than `limit` do not mean that there are no more.
        """
        rows = await self._dispatch.call(
            _CLAIM_QUEUED,
            self._workflow_names,
            limit,
            self._lease,
            self._worker,
            self._cursor,
            self._running_limit,
        )
        if rows:
            self._cursor = rows[0]["round_robin_cursor"]
        return [_claimed(row) for row in rows]

    async def claim_expired(self, limit: int, suspects: int = 1) -> list[ClaimedRun]:
        """Takes up to `limit` runs whose worker let the lease end; of those that may have killed it, up
        to `suspects`.
        """
        rows = await self._dispatch.call(
            _CLAIM_EXPIRED, self._workflow_names, limit, self._lease, self._worker, SUSPECT_LOSSES, suspects
        )
        return [_claimed(row) for row in rows]

    @asynccontextmanager
    async def line(self, heard: Callable[[str, str], None]) -> AsyncIterator[Line]:
        """A connection for heartbeats alone; `heard` gets the (channel, payload) of each notification."""
        async with self._database.dispatch_line(heard, QUEUED, CANCELLED) as line:
            yield Line(line, self._lease)

    async def hand_back(self, held: Sequence[ClaimedRun]) -> None:
        """Ends the leases, so that another worker goes on and no loss is counted: at once, unless a run is
        handed back again without a step completed in between.
        """
        if await self._dispatch.call(_HAND_BACK, *_columns(held), _PAUSE_SECONDS):
            self._database.notifier.notify(QUEUED, HANDED_BACK)

    async def forget_old(self) -> None:
        """Deletes idempotency keys of more than seven days, and cache entries that have expired."""
        for sql in (_FORGET_KEYS, _FORGET_CACHED):
            while await self._dispatch.fetch(sql):
                pass


class Line:
    """Renews leases, one statement for all of a worker's runs."""

    def __init__(self, line: DispatchLine, lease: float) -> None:
        self._line = line
        self._lease = lease

    async def heartbeat(self, held: Sequence[ClaimedRun], seconds: float) -> set[UUID]:
        """Renews the leases within `seconds`, and answers the ids that are still held."""
        rows = await self._line.call(_HEARTBEAT, *_columns(held), self._lease, seconds=seconds)
        return {row["id"] for row in rows}

    async def look(self, seconds: float) -> None:
        """Raises TimeoutError or OSError when the connection is no use any more."""
        await self._line.look(seconds)

    async def hand_back(self, held: Sequence[ClaimedRun], seconds: float) -> None:
        """As QueueRepository.hand_back, within `seconds`, and without the worker's event loop."""
        if await self._line.call(_HAND_BACK, *_columns(held), _PAUSE_SECONDS, seconds=seconds):
            await self._line.notify(QUEUED, HANDED_BACK, seconds)
