"""One pool of connections a process, and what is bound to one tenant on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson

from runengine_server.domain.errors import Unavailable

if TYPE_CHECKING:
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.pool.PoolConnectionProxy
    Pool = asyncpg.Pool

# How long a statement may take, and how long it may wait for a connection.
_SECONDS = 10

# What means "the database is away" and not "the statement is wrong". InterfaceError is asyncpg's
# word for a connection that was closed under it.
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
)


async def _prepare(connection: Any) -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", format="text", encoder=lambda value: orjson.dumps(value).decode(),
        decoder=orjson.loads,
    )  # fmt: skip


class Database:
    """The pool. Every method raises Unavailable when PostgreSQL cannot be reached."""

    def __init__(self, url: str, max_connections: int) -> None:
        self._url = url
        self._max_connections = max_connections
        self._pool: Pool | None = None

    async def open(self) -> None:
        """Connects. Raises OSError or asyncpg.PostgresError with the server's own words."""
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=self._max_connections,
            command_timeout=_SECONDS,
            timeout=_SECONDS,
            init=_prepare,
        )

    async def close(self) -> None:
        """Waits for what is under way, for a second at most, then closes all connections."""
        if self._pool is None:
            return
        try:
            await asyncio.wait_for(self._pool.close(), timeout=1)
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction, committed at the end and rolled back on any exception."""
        assert self._pool is not None, "open() comes first"
        try:
            async with self._pool.acquire(timeout=_SECONDS) as connection, connection.transaction():
                yield connection
        except _AWAY as error:
            raise Unavailable from error

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """The rows of one statement, in a transaction of its own."""
        assert self._pool is not None, "open() comes first"
        try:
            async with self._pool.acquire(timeout=_SECONDS) as connection:
                return await connection.fetch(sql, *arguments)
        except _AWAY as error:
            raise Unavailable from error

    async def fetchrow(self, sql: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row of one statement, in a transaction of its own."""
        rows = await self.fetch(sql, *arguments)
        return rows[0] if rows else None

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[asyncio.Queue[str | None]]:
        """The payloads notified on `channel` while the block runs; None when the connection is lost."""
        heard: asyncio.Queue[str | None] = asyncio.Queue()
        try:
            connection = await asyncpg.connect(self._url, timeout=_SECONDS)
        except (*_AWAY, asyncpg.PostgresError) as error:
            raise Unavailable from error
        connection.add_termination_listener(lambda _: heard.put_nowait(None))
        try:
            await connection.add_listener(
                channel, lambda _c, _pid, _ch, payload: heard.put_nowait(str(payload))
            )
            yield heard
        finally:
            try:
                await connection.close(timeout=1)
            except (*_AWAY, asyncpg.PostgresError):
                connection.terminate()
