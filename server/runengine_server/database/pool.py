"""A pool of connections, which knows those that are idle, those in use, and the calls that wait for one."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import asyncpg

from runengine_server.database.connecting import Connection
from runengine_server.database.deadline_extender import transfer_counters
from runengine_server.database.driver_errors import TRANSIENT_ERRORS, log_driver_error

# How long to wait before the next attempt to connect after the server has refused one, while others are in
# use.
_REFUSED_SECONDS = 1.0

# How long PostgreSQL may take to cancel a statement whose call was given up.
_ABANDON_SECONDS = 3.0

# How long the busy connections have to move data, after another one did not respond at all.
STALLED_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class PoolUse:
    """How many connections a pool may have, has in use and idle, and how many calls wait for one."""

    size: int
    busy: int
    idle: int
    waiting: int


class Pool:
    """Up to `size` connections, made by `connect` as they are needed, and kept.

    An attempt to connect goes on after the call that waits for it has given up: with a frozen host first in
    the URL, a call with a short deadline would never get to the next host. A call that waits gets whichever
    comes first, a new connection or one that is put back. When PostgreSQL refuses a new connection because it
    has no slot left, no call fails as long as other connections are in use.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], size: int) -> None:
        self._connect = connect
        self._size = size
        self._idle: list[Connection] = []
        self._busy: dict[Connection, float] = {}  # since when
        self._waiting: deque[asyncio.Future[Connection]] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._abandoned: set[asyncio.Task[None]] = set()
        self._refused_until = 0.0
        self._none_busy = asyncio.Event()
        self._is_closed = False

    @property
    def use(self) -> PoolUse:
        """How it is used at the moment."""
        return PoolUse(self._size, len(self._busy), len(self._idle), len(self._waiting))

    async def take(self) -> Connection:
        """A connection, to be put back. Raises as `connect` does, and ConnectionError after close()."""
        if self._is_closed:
            raise ConnectionAbortedError("the pool is closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                self._busy[connection] = time.monotonic()
                return connection
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._grow()
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.put_back(waiter.result())  # it came at the moment at which the call gave up
            raise

    def put_back(self, connection: Connection) -> None:
        """Gives it to the next call that waits, unless it was closed or abandoned."""
        if self._busy.pop(connection, None) is None or connection.is_closed():
            self._grow()
        else:
            self._give(connection)
        if not self._busy:
            self._none_busy.set()

    def abandon(self, connection: Connection) -> None:
        """Gives up a connection that may be in the middle of a statement, and asks PostgreSQL to cancel that.
        Otherwise the statement would go on and keep a slot of the server's, such as a commit that waits for a
        standby for ever.
        """
        self._busy.pop(connection, None)
        task = asyncio.create_task(_stop(connection))
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)
        self._grow()

    def drop_idle(self) -> None:
        """Closes all connections that are not in use."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.terminate()

    def drop_stalled(self) -> None:
        """Closes the idle connections, and in 1.5 seconds those of the busy ones that have moved no data
        until then: called when one connection does not respond at all.
        """
        self.drop_idle()
        busy = {
            each: (since, transfer_counters(each))
            for each, since in self._busy.items()
            if not each.is_closed()
        }
        asyncio.get_running_loop().call_later(STALLED_SECONDS, self._drop_unless_moved, busy)

    def _drop_unless_moved(self, before: dict[Connection, tuple[float, tuple[int, ...]]]) -> None:
        for connection, (since, counters) in before.items():
            is_busy = self._busy.get(connection) == since and not connection.is_closed()
            # On a slow link a large statement delays the others.
            if is_busy and transfer_counters(connection) == counters:
                connection.terminate()

    async def close(self, seconds: float) -> None:
        """Waits up to `seconds` for the connections in use, and closes all."""
        self._is_closed = True
        self._fail(ConnectionAbortedError("the pool is closed"))
        for task in [*self._connecting, *self._abandoned]:
            task.cancel()
        await asyncio.gather(*self._connecting, *self._abandoned, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                self._none_busy.clear()
                if self._busy:
                    await self._none_busy.wait()
                while self._idle:
                    with suppress(*TRANSIENT_ERRORS):
                        await self._idle.pop().close()
        for connection in [*self._busy, *self._idle]:
            connection.terminate()

    def _give(self, connection: Connection) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._busy[connection] = time.monotonic()
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def _grow(self) -> None:
        """Starts to connect, once for each call that waits, as far as `size` allows."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        if self._is_closed or (self._busy and time.monotonic() < self._refused_until):
            return
        wanted = sum(not waiter.done() for waiter in self._waiting) - len(self._connecting)
        capacity = self._size - len(self._busy) - len(self._idle) - len(self._connecting)
        for _ in range(min(wanted, capacity)):
            task = asyncio.create_task(self._add())
            self._connecting.add(task)

    async def _add(self) -> None:
        failure = None
        try:
            connection = await self._connect()
        except Exception as error:
            failure = error
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._connecting.discard(task)
        if failure is None:
            self._give(connection)
        elif not isinstance(failure, asyncpg.PostgresError):
            self._fail(failure, first=True)
            self._grow()
        elif self._busy or self._connecting:
            log_driver_error(failure)
            self._refused_until = time.monotonic() + _REFUSED_SECONDS
            asyncio.get_running_loop().call_later(_REFUSED_SECONDS, self._grow)
        else:
            self._fail(failure)

    def _fail(self, failure: Exception, first: bool = False) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(failure)
                if first:
                    return


async def _stop(connection: Connection) -> None:
    # asyncpg has sent a request to cancel when the statement was interrupted; close() waits for its response.
    try:
        async with asyncio.timeout(_ABANDON_SECONDS):
            await connection.close()
    except (*TRANSIENT_ERRORS, asyncio.CancelledError):
        connection.terminate()
