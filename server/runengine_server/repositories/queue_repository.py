"""The queue, across all tenants: which runs a worker takes, keeps, and hands back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg
from google.protobuf.struct_pb2 import Struct

from runengine_server.database.channels import CANCELLED, HANDED_BACK, QUEUED, TENANTS_WATCHED, WATCHED
from runengine_server.database.database import Database
from runengine_server.database.dispatch_connection import DispatchConnection
from runengine_server.database.driver_errors import translate_driver_errors
from runengine_server.database.functions import dispatch_function
from runengine_server.domain.encoded_run import decode_input
from runengine_server.domain.handover import Handover
from runengine_server.domain.run import QUARANTINE_LOSSES, ClaimedRun
from runengine_server.repositories.workflow_repository import WorkflowRepository

_CLAIM_QUEUED = dispatch_function("claim_queued")
_CLAIM_EXPIRED = dispatch_function("claim_expired")
_HEARTBEAT = dispatch_function("heartbeat")
_HAND_BACK = dispatch_function("hand_back")
_BEGIN_CHORE = dispatch_function("begin_chore")
_PURGE_EXPIRED = dispatch_function("purge_expired")
_HAS_RETENTION = dispatch_function("has_retention")
_COUNT_BACKLOG = dispatch_function("count_backlog")

# For how long a run is left alone that is handed back for the second time in a row; then for twice as long
# each time, up to 30 s.
HAND_BACK_PAUSE_SECONDS = 0.25

# Rows of each kind, so that no transaction is long.
_PURGED_AT_ONCE = 1000

# No run is named: whichever are due.
_ANY = (None,) * 4

# For how many leases a registration of a worker counts.
LEASES_REGISTERED = 2


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many runs of a workflow are queued and due, for how long the oldest has been, and how many wait for
    somebody; 100,000 stands for as many or more.
    """

    workflow: str
    queued: int
    oldest_seconds: float
    waiting: int


def _claimed(row: asyncpg.Record) -> ClaimedRun:
    tenant_id, run_id, epoch, workflow_name, attempt, losses, hand_backs, campaign_id, *rest = row
    encoded_input, seconds, resume_values, waiting_timed_out, thread_id, trace_id, lease_left, _ = rest
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
        Struct.FromString(resume_values or b""),
        waiting_timed_out,
        thread_id,
        trace_id,
        lease_left,
    )


def _updated_and_locked(rows: Sequence[asyncpg.Record]) -> tuple[set[UUID], set[UUID]]:
    """The ids of the runs that were updated, and of those that were locked."""
    updated = {row["id"] for row in rows if not row["is_locked"]}
    return updated, {row["id"] for row in rows} - updated


def _lease_columns(held: Sequence[ClaimedRun]) -> tuple[list[str], list[UUID], list[int]]:
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
        # Names alone are not unique: they have a host's name and a process id, which containers may share.
        self._worker_id = uuid4()
        self._worker = worker
        self._workflow_names = list(workflow_names)
        self._lease = lease
        self._running_limit = running_limit
        self._cursor = ""

    async def register_workflows(self) -> None:
        """Lets callers trigger the workflows of this worker, for the next two leases."""
        await self._workflows.register(
            self._worker_id, self._worker, self._workflow_names, LEASES_REGISTERED * self._lease
        )

    async def describe_workflows(self, descriptions: Mapping[str, bytes]) -> None:
        """Says what the workflows of this worker, which are registered, look like: see
        WorkflowRepository.describe.
        """
        await self._workflows.describe(descriptions)

    async def withdraw_workflows(self) -> None:
        """Ends the registration of this worker; those of others stay."""
        await self._workflows.withdraw(self._worker_id)

    async def claim_queued(self, limit: int) -> list[ClaimedRun]:
        """Claims up to `limit` queued runs for one lease, round-robin over the tenants, of each those of the
        highest priority, oldest first. Fewer than `limit` do not mean that there are no more.
        """
        rows = await self._dispatch.call(
            _CLAIM_QUEUED,
            self._workflow_names,
            limit,
            self._lease,
            self._worker_id,
            self._worker,
            self._cursor,
            self._running_limit,
            *_ANY,
        )
        if rows:
            self._cursor = rows[0]["round_robin_cursor"]
        return [_claimed(row) for row in rows]

    async def claim_expired(self, limit: int, quarantine: int = 1) -> list[ClaimedRun]:
        """Claims up to `limit` runs whose lease has ended, up to `quarantine` of them runs that may be what
        killed their workers, see ClaimedRun.in_quarantine.
        """
        rows = await self._dispatch.call(
            _CLAIM_EXPIRED,
            self._workflow_names,
            limit,
            self._lease,
            self._worker_id,
            self._worker,
            QUARANTINE_LOSSES,
            quarantine,
            *_ANY,
        )
        return [_claimed(row) for row in rows]

    async def claim_handed_over(
        self, handover: Handover, quarantine: int
    ) -> tuple[ClaimedRun, bool] | tuple[None, None]:
        """Claims that run for one lease, and says whether others had it before. None when it is no longer as
        it was when it was handed over, or is one that claim_expired leaves out with this `quarantine`.
        """
        named = handover.tenant_id, handover.run_id, handover.attempt, handover.epoch
        common = self._workflow_names, 1, self._lease, self._worker_id, self._worker
        if rows := await self._dispatch.call(_CLAIM_QUEUED, *common, "", None, *named):
            return _claimed(rows[0]), False
        if rows := await self._dispatch.call(_CLAIM_EXPIRED, *common, QUARANTINE_LOSSES, quarantine, *named):
            return _claimed(rows[0]), True
        return None, None

    @asynccontextmanager
    async def lease_renewer(self, on_notification: Callable[[str, str], None]) -> AsyncIterator[LeaseRenewer]:
        """A connection for heartbeats; `on_notification` gets (channel, payload) of each notification."""
        channels = QUEUED, CANCELLED, WATCHED, TENANTS_WATCHED
        async with self._database.dispatch_connection(on_notification, *channels) as connection:
            yield LeaseRenewer(connection, self._worker_id, self._lease)

    async def hand_back(self, held: Sequence[ClaimedRun]) -> set[UUID]:
        """Ends the leases, so that another worker can go on and no loss is counted: at once, or after a pause
        where a run is handed back again without a step completed in between. Returns those that are still
        this worker's because others have locked them at the moment.
        """
        handed, locked = _updated_and_locked(
            await self._dispatch.call(_HAND_BACK, *_lease_columns(held), HAND_BACK_PAUSE_SECONDS)
        )
        if handed:
            self._database.notifier.notify(QUEUED, HANDED_BACK)
        return locked

    async def check(self) -> None:
        """Raises Denied when the role lacks a grant that workers need; Unavailable as every method does."""
        with translate_driver_errors():
            await self._database.check()

    async def purge_expired(self) -> None:
        """Deletes idempotency keys older than seven days, cache entries that have expired, registrations of
        workers that were lost, and deliveries of webhooks that ended long ago.
        """
        deleted = 1
        while deleted:
            ((deleted,),) = await self._dispatch.call(_PURGE_EXPIRED, _PURGED_AT_ONCE)

    async def begin_chore(self, name: str, seconds: float) -> bool:
        """Whether this worker is the one to do that chore now: one of all does, at most once in `seconds`."""
        return bool(await self._dispatch.call(_BEGIN_CHORE, name, seconds))

    async def has_retention(self) -> bool:
        """Whether a tenant has a retention of its own, or bytes of its artifacts are to be deleted."""
        ((has,),) = await self._dispatch.call(_HAS_RETENTION)
        return bool(has)

    async def count_backlog(self) -> list[Backlog]:
        """Of each workflow, of all tenants."""
        return [Backlog(*row) for row in await self._dispatch.call(_COUNT_BACKLOG)]


class LeaseRenewer:
    """Renews a worker's lease, which is that of all its runs, on a connection of its own."""

    def __init__(self, connection: DispatchConnection, worker_id: UUID, lease: float) -> None:
        self._connection = connection
        self._worker_id = worker_id
        self._lease = lease

    async def heartbeat(self, held: Sequence[ClaimedRun], seconds: float) -> tuple[set[UUID], set[UUID]]:
        """Renews the lease within `seconds`, of all runs that the worker holds: what is claimed and not in
        `held` has another lease left. Returns the ids of those that are held, and of those that are this
        worker's and could not be renewed because others have locked them at the moment.
        """
        columns = _lease_columns(held)
        return _updated_and_locked(
            await self._connection.call(_HEARTBEAT, self._worker_id, *columns, self._lease, seconds=seconds)
        )

    async def check_connection(self, seconds: float) -> None:
        """Raises TimeoutError or OSError when the connection is of no use any more."""
        await self._connection.ensure_listening(seconds)

    async def hand_back(self, held: Sequence[ClaimedRun], seconds: float) -> None:
        """As QueueRepository.hand_back, within `seconds`, without the worker's event loop."""
        rows = await self._connection.call(
            _HAND_BACK, *_lease_columns(held), HAND_BACK_PAUSE_SECONDS, seconds=seconds
        )
        if _updated_and_locked(rows)[0]:
            await self._connection.notify(QUEUED, HANDED_BACK, seconds)
