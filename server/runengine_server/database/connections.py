"""The connections of one process, with the time limits of their use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any, TypeAlias

import asyncpg

from runengine_server.database.batcher import BatchedFunction, Batcher, Result
from runengine_server.database.connecting import Connection, Connector
from runengine_server.database.deadline_extender import DeadlineExtender
from runengine_server.database.notifier import Notifier
from runengine_server.database.pool import Pool, PoolUse
from runengine_server.domain.errors import StatementRefused

# How long a transaction may take, with the wait for its connection. Less than the ten seconds after which a
# process that was cut off from the database has to work again.
TRANSACTION_SECONDS = 9

_NO_LIMIT: nullcontext[None] = nullcontext()

Rows: TypeAlias = Coroutine[Any, Any, Sequence[asyncpg.Record]]


class Connections:
    """The connections of one process to the URL of a Connector, and its notifier."""

    def __init__(self, connector: Connector, max_connections: int, *, kept_for_reads: int = 0) -> None:
        """`kept_for_reads` are further connections that writes do not get: when commits wait for a standby
        that is away, reads go on.
        """
        self._connector = connector
        self._pool = Pool(connector.connect, max_connections + kept_for_reads)
        self._write_slots = asyncio.Semaphore(max_connections)
        self._deadlines = DeadlineExtender()
        self._batchers: dict[BatchedFunction[Any], Batcher[Any]] = {}
        self.notifier = Notifier(connector.connect)

    async def open(self) -> None:
        """Opens the first connection. Raises OSError, asyncpg.PostgresError or asyncpg.InterfaceError with
        the server's own message.
        """
        self._pool.put_back(await self._pool.take())

    async def close(self) -> None:
        """Waits for the connections in use, for a second at most, then closes all."""
        await self.notifier.close()
        await self._pool.close(seconds=1)

    @property
    def pool_use(self) -> PoolUse:
        """How its connections are used at the moment."""
        return self._pool.use

    @property
    def begin(self) -> str:
        """The statement that begins a transaction."""
        return self._connector.begin

    @asynccontextmanager
    async def connection(
        self, seconds: float | None = None, *, writes: bool = False
    ) -> AsyncIterator[Connection]:
        """A connection that sees no tenant's rows until the transaction of a Scope begins.

        Raises TimeoutError when the block, with the wait for the connection, takes longer than `seconds`,
        nine by default, and no data moves on the connection any more; and OSError, asyncpg.InterfaceError or
        asyncpg.PostgresError as the driver does.
        """
        seconds = TRANSACTION_SECONDS if seconds is None else seconds
        try:
            async with asyncio.timeout(seconds) as deadline, self._write_slots if writes else _NO_LIMIT:
                connection = await self._pool.take()
                self._deadlines.begin(deadline, seconds, connection)
                try:
                    yield connection
                except Exception:
                    await _roll_back(connection)
                    raise
                except BaseException:
                    # The connection may be in the middle of a statement. asyncpg would wait until the server
                    # has agreed to cancel it, and a server that does not respond would hold up the call.
                    self._pool.abandon(connection)
                    raise
                finally:
                    self._deadlines.end(deadline)
                    self._pool.put_back(connection)
        except TimeoutError:
            # When the server has gone without a reset, the idle connections are dead too, and would fail the
            # calls that get them, one after the other.
            self._pool.drop_idle()
            raise

    def fetch_on(self, connection: Connection, sql: str, *arguments: Any) -> Rows:
        """The rows of one statement, in a transaction of its own, on a connection of connection()."""
        return fetch(self._connector, connection, sql, *arguments)

    def batcher(self, function: BatchedFunction[Result]) -> Batcher[Result]:
        """What sends the calls of the function of this process. Its calls raise as connection() does."""
        if (batcher := self._batchers.get(function)) is None:
            batcher = self._batchers[function] = Batcher(function, self._write)
        return batcher

    async def _write(self, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        async with self.connection(writes=True) as connection:
            return await self.fetch_on(connection, sql, *arguments)


def fetch(connector: Connector, connection: Connection, sql: str, *arguments: Any) -> Rows:
    """The rows of one statement, in a transaction of its own."""
    if connector.pooled:
        return _fetch_pooled(connector, connection, sql, *arguments)
    return connection.fetch(sql, *arguments)


async def _fetch_pooled(
    connector: Connector, connection: Connection, sql: str, *arguments: Any
) -> Sequence[asyncpg.Record]:
    # The pooler gives the session away after each transaction, so the settings are made in this one.
    await connection.execute(connector.begin)
    rows = await connection.fetch(sql, *arguments)
    await commit(connection)
    return rows


async def commit(connection: Connection) -> None:
    """Commits. Raises StatementRefused for a transaction that has failed: PostgreSQL then rolls back, and
    reports that as success.
    """
    if await connection.execute("COMMIT") != "COMMIT":
        raise StatementRefused


async def _roll_back(connection: Connection) -> None:
    # No connection may go back to the pool with a tenant's transaction open.
    try:
        await connection.execute("ROLLBACK")
    except BaseException:
        connection.terminate()
