"""The connections of a process: who has which, and who waits for one."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg

from runengine_server.database.connecting import Connection
from runengine_server.database.driver_errors import TRANSIENT_ERRORS, tell
from runengine_server.database.patience import moved

# How long a server that would not let another connection in is not asked again, while there are some.
_REFUSED_SECONDS = 1.0

# How long PostgreSQL may take to stop a statement that nobody waits for any more.
_ABANDON_SECONDS = 3.0

# How long a connection may be busy yet, when another one was found to be dead without a word.
_SILENT_SECONDS = 1.5


class Pool:
    """Up to `size` connections, made by `connect` as they are needed, and kept.

    Connecting goes on although the one who waits for it has given up: behind a host that is frozen, a
    call with a short deadline would never get past it. Whoever waits gets what comes first, a new
    connection or one that another puts back; a new one that PostgreSQL refuses, for it has no slot left,
    fails nobody as long as there are others to wait for.
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
                self.put_back(waiter.result())  # it came in the moment in which we gave up
            raise

    def put_back(self, connection: Connection) -> None:
        """Lets others have it, unless it was lost or abandoned."""
        if self._busy.pop(connection, None) is None or connection.is_closed():
            self._grow()
        else:
            self._give(connection)
        if not self._busy:
            self._none_busy.set()

    def abandon(self, connection: Connection) -> None:
        """Gives up one that may be in the middle of a statement. PostgreSQL is asked to stop that, for it
        would go on, and be waited for by nobody: a commit that waits for a standby for ever, and with a
        slot of the server's.
        """
        self._busy.pop(connection, None)
        task = asyncio.create_task(_stop(connection))
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)
        self._grow()

    def lose_idle(self) -> None:
        """Drops all connections that nobody uses."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.terminate()

    def lose_silent(self) -> None:
        """Drops all that are idle, and those that are busy now, if they still are after a moment in which
        nothing came or went: one was found that answers nothing.
        """
        self.lose_idle()
        busy = {each: (since, moved(each)) for each, since in self._busy.items() if not each.is_closed()}
        asyncio.get_running_loop().call_later(_SILENT_SECONDS, self._lose_those_still, busy)

    def _lose_those_still(self, before: dict[Connection, tuple[float, tuple[int, ...]]]) -> None:
        for connection, (since, then) in before.items():
            is_busy = self._busy.get(connection) == since and not connection.is_closed()
            # On a slow link a large statement keeps others waiting.
            if is_busy and moved(connection) == then:
                connection.terminate()

    async def close(self, seconds: float) -> None:
        """Waits so long for what is under way, and closes all."""
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
        """Connects, once for each of those who wait, as far as there may be more connections."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        if self._is_closed or (self._busy and time.monotonic() < self._refused_until):
            return
        wanted = sum(not waiter.done() for waiter in self._waiting) - len(self._connecting)
        room = self._size - len(self._busy) - len(self._idle) - len(self._connecting)
        for _ in range(min(wanted, room)):
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
            tell(failure)
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
    # asyncpg has sent a request to cancel, of its own, when the statement was cut off; closing waits
    # for the answer to it.
    try:
        async with asyncio.timeout(_ABANDON_SECONDS):
            await connection.close()
    except (*TRANSIENT_ERRORS, asyncio.CancelledError):
        connection.terminate()
