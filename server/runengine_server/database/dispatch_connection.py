"""A connection outside of the pool, for LISTEN, and for what a worker's heartbeat does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg

from runengine_server.database.connecting import Connection, Connector, backend_pid
from runengine_server.database.connections import TRANSACTION_SECONDS, fetch
from runengine_server.database.driver_errors import translate_driver_errors
from runengine_server.database.functions import DispatchFunction, EachCall
from runengine_server.database.notifier import ADVANCE_QUEUE_TAIL, notification


class ListeningConnection:
    """A connection that executed LISTEN. Each method has a limit in seconds, after which it raises
    TimeoutError.
    """

    def __init__(self, connector: Connector, connection: Connection, listening_pid: int) -> None:
        self._connector = connector
        self._connection = connection
        self._listening_pid = listening_pid
        self._using = asyncio.Lock()

    async def notify(self, channel: str, payload: str, seconds: float) -> None:
        """Notifies workers. It works where no event loop runs that could send it later, as Notifier does. Not
        sent when the queue of notifications is full: no connection is worth losing for a hint.
        """
        async with asyncio.timeout(seconds), self._using:
            try:
                await self._connection.execute(notification(channel, payload))
            except asyncpg.ProgramLimitExceededError:
                await self._connection.execute(ADVANCE_QUEUE_TAIL)

    async def ensure_listening(self, seconds: float) -> None:
        """Returns when every notification that was committed before has been received. Raises ConnectionError
        when the connection leads to another server process than the one that executed LISTEN.
        """
        async with asyncio.timeout(seconds), self._using:
            if await backend_pid(self._connection) != self._listening_pid:
                raise ConnectionResetError("a pooler has given the session to others")

    async def call_each(
        self, function: EachCall, *columns: Sequence[Any], seconds: float
    ) -> Sequence[asyncpg.Record]:
        """The rows of several calls, each for its own tenant, by one statement."""
        return await self._fetch(function.many, *columns, seconds=seconds)

    async def _fetch(self, sql: str, *arguments: Any, seconds: float) -> Sequence[asyncpg.Record]:
        async with asyncio.timeout(seconds), self._using:
            return await fetch(self._connector, self._connection, sql, *arguments)


class DispatchConnection(ListeningConnection):
    """What a worker's heartbeat does on its connection."""

    async def call(
        self, function: DispatchFunction, *arguments: Any, seconds: float
    ) -> Sequence[asyncpg.Record]:
        """The rows of a function."""
        return await self._fetch(function.call, *arguments, seconds=seconds)


Opened = TypeVar("Opened", bound=ListeningConnection)


@asynccontextmanager
async def open_connection(
    kind: type[Opened], connector: Connector, on_notification: Callable[[str, str], None], *channels: str
) -> AsyncIterator[Opened]:
    """A connection of that kind that listens on these channels; `on_notification` gets (channel, payload).

    Raises Denied or Unavailable.
    """
    with translate_driver_errors():
        connection = await connector.connect()
        try:
            opened = kind(connector, connection, await backend_pid(connection))
            async with asyncio.timeout(TRANSACTION_SECONDS):
                for channel in channels:
                    await connection.add_listener(
                        channel, lambda _connection, _pid, to, payload: on_notification(to, str(payload))
                    )
            yield opened
        finally:
            connection.terminate()
