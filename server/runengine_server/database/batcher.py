"""Sends calls of one function that wait at the same moment as one statement."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from runengine_server.database.driver_errors import has_rolled_back
from runengine_server.database.functions import BatchedFunction

# How many statements are under way before further calls wait until one of them ends.
_AT_ONCE = 2

# A statement that takes longer is not waited for any more: it may wait for a lock that the calls behind it do
# not need.
_SLOW_SECONDS = 0.1

# How much is sent as one statement, so that no call waits for megabytes of others.
_MOST, _MOST_BYTES = 64, 2**18


@dataclass(frozen=True, slots=True)
class _Call:
    arguments: tuple[Any, ...]
    row: asyncio.Future[asyncpg.Record] = field(default_factory=asyncio.Future)

    @property
    def size(self) -> int:
        return sum(len(each) for each in self.arguments if isinstance(each, bytes))


class Batcher:
    """Calls of one function, of all tenants; each returns one row.

    While fewer than two statements are under way a call is a statement of its own, at once. Calls that come
    meanwhile wait until one ends, and are sent together: one round trip and one commit. They share nothing
    else. When the statement is refused, and so has changed nothing, each is sent alone, and the one that is
    wrong fails alone; a call that is given up leaves the others in place.
    """

    def __init__(
        self, function: BatchedFunction, fetch: Callable[..., Awaitable[Sequence[asyncpg.Record]]]
    ) -> None:
        """`fetch` returns the rows of a statement with these arguments, in a transaction of its own."""
        self._function = function
        self._fetch = fetch
        self._under_way = 0
        self._waiting: deque[_Call] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, *arguments: Any) -> asyncpg.Record:
        """The row that the function returns. Raises as `fetch` does."""
        if self._under_way < _AT_ONCE:
            with self._counted():
                (row,) = await self._fetch(self._function.one.call, *arguments)
                return row
        call = _Call(arguments)
        self._waiting.append(call)
        return await call.row

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """A statement that is under way, for 0.1 s at most."""
        is_counted = True

        def end() -> None:
            nonlocal is_counted
            if is_counted:
                is_counted = False
                self._under_way -= 1
                self._send_waiting()

        self._under_way += 1
        timer = asyncio.get_running_loop().call_later(_SLOW_SECONDS, end)
        try:
            yield
        finally:
            timer.cancel()
            end()

    def _send_waiting(self) -> None:
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

    def _start(self, batch: list[_Call]) -> None:
        task = asyncio.create_task(self._send(batch), name=f"batch of {self._function.one.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def give_up(row: asyncio.Future[asyncpg.Record]) -> None:
            if row.cancelled() and all(call.row.cancelled() for call in batch):
                task.cancel()

        for call in batch:
            call.row.add_done_callback(give_up)

    async def _send(self, batch: list[_Call]) -> None:
        try:
            with self._counted():
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
            return await self._fetch(self._function.one.call, *batch[0].arguments)
        arrays = zip(*(call.arguments for call in batch), strict=True)
        rows = await self._fetch(self._function.many, *map(list, arrays))
        return [row["result"] for row in sorted(rows, key=lambda row: int(row["place"]))]
