"""Goes on with the bulk operations of all tenants, while the process serves."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from uuid import UUID

import structlog

from runengine_server.database.database import Database
from runengine_server.domain.errors import StatementRefused, Unavailable
from runengine_server.repositories.bulk_operation_repository import (
    BulkOperationRepository,
    RunningOperation,
    running_operations,
)

# How many runs one transaction retries or cancels at most: their rows are locked until its commit.
BATCH_RUNS = 100

# How often a server that has nothing to do looks for operations that another has left.
POLL_SECONDS = 5.0
# The pause when other servers do all that is due, and that after an error: of an operation it doubles up to
# the longest, until that goes on again.
_BUSY_SECONDS, _ERROR_SECONDS, _LONGEST_SECONDS = 0.1, 1.0, 30.0

_log = structlog.get_logger()


class BulkRunner:
    """Runs the batches of operations as they are due, one at a time. Any number of servers may do so: a batch
    is one transaction that locks its operation, and what it has not committed another does again.
    """

    def __init__(self, database: Database, queued_limit: int | None) -> None:
        """`queued_limit`: how many runs a tenant may have queued. A retry waits for that."""
        self._database = database
        self._queued_limit = queued_limit
        self._woken = asyncio.Event()
        self._failures: dict[UUID, int] = {}  # in a row
        self._one_by_one: dict[UUID, int] = {}  # how many runs are yet to be decided so
        self._paused_until: dict[UUID, float] = {}

    def wake(self) -> None:
        """An operation has been created."""
        self._woken.set()

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        while True:
            try:
                pause = await self.run_due()
            except Unavailable:
                pause = _ERROR_SECONDS  # what watches the database logs it
            except Exception as error:
                _log.error("cannot see which bulk operations are running", exc_info=error)
                pause = POLL_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            self._woken.clear()

    async def run_due(self) -> float:
        """Runs a batch of each operation that is due. Returns how long nothing is due, in seconds."""
        running = await running_operations(self._database)
        known = {operation.id for operation in running}
        for of_operation in (self._failures, self._one_by_one, self._paused_until):
            for ended in of_operation.keys() - known:
                del of_operation[ended]
        pauses, decides = [POLL_SECONDS], False
        for operation in running:
            pause = max(operation.due_in, self._paused_until.get(operation.id, 0) - time.monotonic())
            if pause > 0:
                pauses.append(pause)
            elif await self._run_batch(operation):
                decides = True
            else:
                pauses.append(_BUSY_SECONDS)
        return 0 if decides else min(pauses)

    async def _run_batch(self, operation: RunningOperation) -> bool:
        """Whether it has done something."""
        scope = self._database.tenant(operation.tenant_id)
        operations = BulkOperationRepository(scope, operation.tenant_id)
        try:
            if self._one_by_one.get(operation.id):
                decided = await self._run_item(operations, operation.id)
            else:
                decided = await operations.run_batch(operation.id, BATCH_RUNS, self._queued_limit)
        except Unavailable:
            pass  # it has waited for a lock, or the database is away
        except Exception as error:
            _log.error("a bulk operation does not go on", operation=str(operation.id), exc_info=error)
            if isinstance(error, StatementRefused):
                self._one_by_one[operation.id] = BATCH_RUNS
        else:
            self._failures.pop(operation.id, None)
            self._paused_until.pop(operation.id, None)
            return decided is not None
        failures = self._failures[operation.id] = self._failures.get(operation.id, 0) + 1
        pause = min(_LONGEST_SECONDS, _ERROR_SECONDS * 2.0 ** min(failures - 1, 10))
        self._paused_until[operation.id] = time.monotonic() + pause
        return False

    async def _run_item(self, operations: BulkOperationRepository, operation_id: UUID) -> int | None:
        """The next run alone, because one of a batch keeps the others from being decided."""
        item = await operations.run_item(operation_id, self._queued_limit)
        if item is None:
            return None
        self._one_by_one[operation_id] -= item.decided
        if item.left_out is not None:
            _log.error(
                "a run is left out of a bulk operation: PostgreSQL refuses to move it",
                operation=str(operation_id),
                run_id=str(item.left_out),
                sqlstate=item.code,
            )
        return item.decided
