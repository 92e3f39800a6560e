"""Sends calls of one function that wait at the same moment as one statement."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from runengine_server.database.driver_errors import has_rolled_back
from runengine_server.database.functions import BatchedFunction

# No call waits longer for others to end: they may wait for a lock that it does not need.
_WAIT_SECONDS = 0.1

# How much is sent as one statement, so that no call waits for megabytes of others.
_MOST, _MOST_BYTES = 64, 2**18


@dataclass(slots=True, eq=False)
class _Call:
    """`batch` are those that its statement is for, itself too, and `task` sends them; once they are sent."""

    arguments: tuple[Any, ...]
    row: asyncio.Future[asyncpg.Record]
    batch: Sequence[_Call] = ()
    task: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        return sum(len(each) for each in self.arguments if isinstance(each, bytes))


class Batcher:
    """Calls of one function, of all tenants; each returns one row.

    While none is under way a call is a statement of its own, at once. Calls that come meanwhile wait until it
    ends, for 0.1 s at most, and are sent together: one round trip and one commit. They share nothing else.
    When the statement is refused, and so has changed nothing, each is sent alone, and the one that is wrong
    fails alone; a call that is given up leaves the others in place.
    """

    def __init__(
        self, function: BatchedFunction, fetch: Callable[..., Awaitable[Sequence[asyncpg.Record]]]
    ) -> None:
        """`fetch` returns the rows of a statement with these arguments, in a transaction of its own."""
        self._function = function
        self._fetch = fetch
        self._under_way: set[object] = set()  # statements; not those that calls have waited for long enough
        self._waiting: deque[_Call] = deque()
        self._timer: asyncio.TimerHandle | None = None  # of the first that waits
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, *arguments: Any) -> asyncpg.Record:
        """The row that the function returns. Raises as `fetch` does."""
        if not self._under_way:
            (row,) = await self._fetch_counted(self._function.one.call, *arguments)
            return row
        call = _Call(arguments, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._start_timer()
        try:
            return await call.row
        except asyncio.CancelledError:
            if call.task is not None and all(each.row.cancelled() for each in call.batch):
                call.task.cancel()
            raise

    async def _fetch_counted(self, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        statement = object()
        self._under_way.add(statement)
        try:
            return await self._fetch(sql, *arguments)
        finally:
            self._under_way.discard(statement)
            self._send_waiting()

    def _start_timer(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_later(_WAIT_SECONDS, self._stop_waiting)

    def _stop_waiting(self) -> None:
        self._under_way.clear()
        self._send_waiting()

    def _send_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch: list[_Call] = []
        size = 0
        while self._waiting and len(batch) < _MOST:
            call = self._waiting[0]
            size += call.size
            if batch and size > _MOST_BYTES:
                break
            self._waiting.popleft()
            if not call.row.done():
                batch.append(call)
        if batch:
            self._start(batch)
        self._start_timer()

    def _start(self, batch: list[_Call]) -> None:
        task = asyncio.create_task(self._send(batch), name=f"batch of {self._function.one.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        for call in batch:
            call.batch, call.task = batch, task

    async def _send(self, batch: list[_Call]) -> None:
        try:
            rows = await self._rows(batch)
        except Exception as error:
            for call in batch:
                if call.row.done():
                    continue
                if len(batch) > 1 and has_rolled_back(error):
                    self._start([call])
                else:
                    call.row.set_exception(error)
        else:
            for call, row in zip(batch, rows, strict=True):
                if not call.row.done():
                    call.row.set_result(row)

    async def _rows(self, batch: list[_Call]) -> Sequence[asyncpg.Record]:
        """The row of each call, in their order."""
        if len(batch) == 1:
            return await self._fetch_counted(self._function.one.call, *batch[0].arguments)
        arrays = zip(*(call.arguments for call in batch), strict=True)
        rows = await self._fetch_counted(self._function.many, *map(list, arrays))
        results = {row["place"]: row["result"] for row in rows}
        return [results[place] for place in range(1, len(batch) + 1)]
