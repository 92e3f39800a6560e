"""Sends calls of one kind that wait at the same moment as one statement."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import asyncpg

from runengine_server.database.driver_errors import has_rolled_back, translate_driver_errors, translated

# No call waits longer for others to end: they may wait for a lock that it does not need.
_WAIT_SECONDS = 0.1

# How much is sent as one statement, so that no call waits for megabytes of others.
_MOST, _MOST_BYTES = 64, 2**18


Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class BatchedFunction(Protocol[Result_co]):
    """What is called, with the arguments of each call as a tuple."""

    @property
    def name(self) -> str:
        """A word for it."""

    @property
    def turns(self) -> int:
        """So many turns of the loop are between the end of a statement and the next, where calls wait."""

    def size(self, call: tuple[Any, ...], /) -> int:
        """About so many bytes are sent for the call."""

    def statement(self, calls: Sequence[tuple[Any, ...]], /) -> tuple[str, Sequence[Any]]:
        """One statement for these calls, and its arguments."""

    def results(
        self, calls: Sequence[tuple[Any, ...]], rows: Sequence[asyncpg.Record], /
    ) -> Sequence[Result_co]:
        """The result of each call, from the rows of the statement."""


@dataclass(slots=True, eq=False)
class _Call(Generic[Result]):
    """`batch` are those that its statement is for, itself too, and `task` sends them; once they are sent."""

    arguments: tuple[Any, ...]
    result: asyncio.Future[Result]
    batch: Sequence[_Call[Result]] = ()
    task: asyncio.Task[None] | None = None

    def give_up(self, result: asyncio.Future[Result]) -> None:
        """Stops the statement when nobody waits for it any more."""
        if result.cancelled() and self.task and all(each.result.cancelled() for each in self.batch):
            self.task.cancel()


class Batcher(Generic[Result]):
    """Calls of one kind, of all tenants.

    While none is under way a call is a statement of its own, at once. Calls that come meanwhile wait until it
    ends, for 0.1 s at most, and are sent together: one round trip and one commit. They share nothing else.
    Where the function has `turns`, they wait for so many turns of the loop more, and with them go those that
    were on their way through the loop.
    When the statement is refused, and so has changed nothing, each is sent alone, and the one that is wrong
    fails alone; a call that is given up leaves the others in place.
    """

    def __init__(
        self,
        function: BatchedFunction[Result],
        fetch: Callable[..., Awaitable[Sequence[asyncpg.Record]]],
    ) -> None:
        """`fetch` returns the rows of a statement with these arguments, in a transaction of its own."""
        self._function = function
        self._fetch = fetch
        self._under_way: set[object] = set()  # statements; not those that calls have waited for long enough
        self._waiting: deque[_Call[Result]] = deque()
        self._is_due = False  # they are sent in a moment
        self._timer: asyncio.TimerHandle | None = None  # of the first that waits
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, *arguments: Any) -> Result:
        """The result of a call with these arguments. Raises as translate_driver_errors does."""
        if self._under_way or self._is_due:
            return await self.submit(*arguments)
        with translate_driver_errors():
            (result,) = await self._fetch_results([arguments])
        return result

    def submit(self, *arguments: Any) -> asyncio.Future[Result]:
        """As `call`, without a coroutine that waits: to cancel the future gives the call up."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        call = _Call(arguments, result)
        result.add_done_callback(call.give_up)
        self._waiting.append(call)
        if self._under_way:
            self._start_timer()
        else:
            self._send_soon(0)
        return result

    def _send_soon(self, turns: int) -> None:
        if not self._is_due:
            self._is_due = True
            self._start(self._send_due(turns))

    async def _send_due(self, turns: int) -> None:
        # Begins in a moment, and takes with it those that have come until then.
        for _ in range(turns):
            await asyncio.sleep(0)
        self._is_due = False
        batch = self._next_batch()
        self._start_timer()
        if batch:
            await self._send(batch)

    async def _fetch_results(self, calls: Sequence[tuple[Any, ...]]) -> Sequence[Result]:
        sql, arguments = self._function.statement(calls)
        statement = object()
        self._under_way.add(statement)
        try:
            rows = await self._fetch(sql, *arguments)
        finally:
            self._under_way.discard(statement)
            self._send_waiting()
        return self._function.results(calls, rows)

    def _start_timer(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_later(_WAIT_SECONDS, self._stop_waiting)

    def _stop_waiting(self) -> None:
        self._under_way.clear()
        self._send_waiting()

    def _send_waiting(self) -> None:
        self._stop_timer()
        if self._waiting:
            self._send_soon(self._function.turns)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next_batch(self) -> list[_Call[Result]]:
        batch: list[_Call[Result]] = []
        size = 0
        while self._waiting and len(batch) < _MOST:
            call = self._waiting[0]
            size += self._function.size(call.arguments)
            if batch and size > _MOST_BYTES:
                break
            self._waiting.popleft()
            if not call.result.done():
                batch.append(call)
        return batch

    def _start(self, sending: Coroutine[Any, Any, None]) -> None:
        # In no context, because what it logs is not of one call.
        task = asyncio.create_task(sending, name=f"batch of {self._function.name}", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, batch: list[_Call[Result]]) -> None:
        task = asyncio.current_task()
        for call in batch:
            call.batch, call.task = batch, task
        try:
            results = await self._fetch_results([call.arguments for call in batch])
        except Exception as error:
            for call in batch:
                if call.result.done():
                    continue
                if len(batch) > 1 and has_rolled_back(error):
                    self._start(self._send([call]))
                else:
                    call.result.set_exception(translated(error))
        else:
            for call, result in zip(batch, results, strict=True):
                if not call.result.done():
                    call.result.set_result(result)
