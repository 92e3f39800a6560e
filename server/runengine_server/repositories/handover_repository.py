"""Runs that are handed over to Temporal, as one worker sees them, across all tenants."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from runengine_server.database.database import Database
from runengine_server.database.functions import dispatch_function
from runengine_server.domain.handover import Handover

_HAND_OVER = dispatch_function("hand_over_runs")
_END = dispatch_function("end_handovers")


class HandoverRepository:
    """What a worker hands over to the task queue `queue`. `running_limit` is that of QueueRepository."""

    def __init__(
        self,
        database: Database,
        workflow_names: Sequence[str],
        lease: float,
        queue: str,
        running_limit: int | None = None,
    ) -> None:
        self._dispatch = database.dispatch()
        self._worker_id = uuid4()
        self._workflow_names = list(workflow_names)
        self._lease = lease
        self._queue = queue
        self._running_limit = running_limit
        self._cursor = ""

    async def hand_over(self, limit: int) -> list[Handover]:
        """Notes runs to be handed over, so many that up to `limit` of this worker's are still to be claimed:
        first those whose lease has ended, then queued ones as QueueRepository.claim_queued has them.
        """
        rows = await self._dispatch.call(
            _HAND_OVER,
            self._workflow_names,
            limit,
            self._lease,
            self._worker_id,
            self._queue,
            self._cursor,
            self._running_limit,
        )
        if rows:
            self._cursor = rows[0]["round_robin_cursor"]
        return [Handover(*row[:4]) for row in rows]

    async def end(self, seconds: float) -> list[tuple[Handover, str]]:
        """Forgets, for all workers, what has ended, and what nobody has claimed within `seconds`, so that it
        is handed over again. Returns, with its task queue, each whose run was cancelled.
        """
        return [(Handover(*row[:4]), row["queue"]) for row in await self._dispatch.call(_END, seconds)]
