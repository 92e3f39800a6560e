"""What a worker asks of all tenants together: which runs to take, and to keep."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg

from runengine_server.database.channels import CANCELLED, HANDED_BACK, QUEUED
from runengine_server.database.database import Database
from runengine_server.database.dispatch_connection import DispatchConnection
from runengine_server.database.driver_errors import translate_driver_errors
from runengine_server.database.functions import dispatch_function
from runengine_server.domain.encoded_run import decode_input
from runengine_server.domain.run import SUSPECT_LOSSES, ClaimedRun
from runengine_server.repositories.purges import purge_expired
from runengine_server.repositories.workflow_repository import WorkflowRepository

_CLAIM_QUEUED = dispatch_function("claim_queued")
_CLAIM_EXPIRED = dispatch_function("claim_expired")
_HEARTBEAT = dispatch_function("heartbeat")
_HAND_BACK = dispatch_function("hand_back")
_BEGIN_CHORE = dispatch_function("begin_chore")

# The first of the pauses.
_PAUSE_SECONDS = 0.25

# For how long a worker is taken to be there that has said so.
LEASES_REGISTERED = 2


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


def _divided(rows: Sequence[asyncpg.Record]) -> tuple[set[UUID], set[UUID]]:
    """The ids of runs that were updated, and of those that were locked."""
    updated = {row["id"] for row in rows if not row["is_locked"]}
    return updated, {row["id"] for row in rows} - updated


def _columns(held: Sequence[ClaimedRun]) -> tuple[list[str], list[UUID], list[int]]:
    return [run.tenant_id for run in held], [run.id for run in held], [run.epoch for run in held]


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
        self._workflows = WorkflowRepository(database)
        # Of this process alone: names are made of what containers share, a host's name and process ids.
        self._worker_id = uuid4()
        self._worker = worker
        self._workflow_names = list(workflow_names)
        self._lease = lease
        self._running_limit = running_limit
        self._cursor = ""

    async def register_workflows(self) -> None:
        """Lets callers trigger the workflows of this worker, which is taken to be there for two leases."""
        await self._workflows.register(
            self._worker_id, self._worker, self._workflow_names, LEASES_REGISTERED * self._lease
        )

    async def withdraw_workflows(self) -> None:
        """No worker is taken to be there for them, unless another has registered them."""
        await self._workflows.withdraw(self._worker_id)

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
        async with self._database.dispatch_connection(heard, QUEUED, CANCELLED) as line:
            yield Line(line, self._lease)

    async def hand_back(self, held: Sequence[ClaimedRun]) -> set[UUID]:
        """Ends the leases, so that another worker goes on and no loss is counted: at once, unless a run is
        handed back again without a step completed in between. Returns those that are still the worker's
        own, for others have locked them at the moment.
        """
        handed, locked = _divided(await self._dispatch.call(_HAND_BACK, *_columns(held), _PAUSE_SECONDS))
        if handed:
            self._database.notifier.notify(QUEUED, HANDED_BACK)
        return locked

    async def check(self) -> None:
        """Raises Denied when the role lacks what every worker needs, and Unavailable as all do."""
        with translate_driver_errors():
            await self._database.check()

    async def purge_expired(self) -> None:
        """Deletes idempotency keys of more than seven days, and what has expired: cache entries, and workers
        that went away without a word.
        """
        await purge_expired(self._dispatch)

    async def begin_chore(self, name: str, seconds: float) -> bool:
        """Whether this worker is to do what one of all workers does, at most once in so many seconds."""
        return bool(await self._dispatch.call(_BEGIN_CHORE, name, seconds))


class Line:
    """Renews leases, one statement for all of a worker's runs."""

    def __init__(self, line: DispatchConnection, lease: float) -> None:
        self._line = line
        self._lease = lease

    async def heartbeat(self, held: Sequence[ClaimedRun], seconds: float) -> tuple[set[UUID], set[UUID]]:
        """Renews the leases within `seconds`. The ids of those that it has renewed; and of those that it has
        not, although they are the worker's own, for others have locked them at the moment.
        """
        return _divided(await self._line.call(_HEARTBEAT, *_columns(held), self._lease, seconds=seconds))

    async def look(self, seconds: float) -> None:
        """Raises TimeoutError or OSError when the connection is no use any more."""
        await self._line.ensure_listening(seconds)

    async def hand_back(self, held: Sequence[ClaimedRun], seconds: float) -> None:
        """As QueueRepository.hand_back, within `seconds`, and without the worker's event loop."""
        rows = await self._line.call(_HAND_BACK, *_columns(held), _PAUSE_SECONDS, seconds=seconds)
        if _divided(rows)[0]:
            await self._line.notify(QUEUED, HANDED_BACK, seconds)
