"""The connections of one process, with the time limits of their use."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
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

    def connection(self, seconds: float | None = None, *, writes: bool = False) -> _Use:
        """A connection that sees no tenant's rows until the transaction of a Scope begins, within a block.

        Raises TimeoutError when the block, with the wait for the connection, takes longer than `seconds`,
        nine by default, and no data moves on the connection any more; and OSError, asyncpg.InterfaceError or
        asyncpg.PostgresError as the driver does.
        """
        seconds = TRANSACTION_SECONDS if seconds is None else seconds
        return _Use(self._pool, self._deadlines, self._write_slots if writes else None, seconds)

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


class _Use:
    """The use of a connection. Written out, it takes half the time of a generator with a context manager of
    its own for each of these."""

    __slots__ = ("_connection", "_deadline", "_deadlines", "_pool", "_seconds", "_slots")

    def __init__(
        self, pool: Pool, deadlines: DeadlineExtender, slots: asyncio.Semaphore | None, seconds: float
    ) -> None:
        self._pool, self._deadlines, self._slots, self._seconds = pool, deadlines, slots, seconds

    async def __aenter__(self) -> Connection:
        self._deadline = await asyncio.timeout(None).__aenter__()
        self._deadlines.begin(self._deadline, self._seconds)
        has_slot = False
        try:
            if self._slots is not None:
                has_slot = await self._slots.acquire()
            connection = self._connection = await self._pool.take()
        except BaseException as error:
            await self._end(error, has_slot)
            raise
        self._deadlines.follow(self._deadline, connection)
        return connection

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception):
            await _roll_back(self._connection)
        elif error is not None:
            # The connection may be in the middle of a statement. asyncpg would wait until the server has
            # agreed to cancel it, and a server that does not respond would hold up the call.
            self._pool.abandon(self._connection)
        self._pool.put_back(self._connection)
        await self._end(error, has_slot=True)

    async def _end(self, error: BaseException | None, has_slot: bool) -> None:
        self._deadlines.end(self._deadline)
        if self._slots is not None and has_slot:
            self._slots.release()
        try:
            await self._deadline.__aexit__(type(error) if error is not None else None, error, None)
        except TimeoutError:
            self._drop_idle()
            raise
        if isinstance(error, TimeoutError):
            self._drop_idle()

    def _drop_idle(self) -> None:
        # When the server has gone without a reset, the idle connections are dead too, and would fail the
        # calls that get them, one after the other.
        self._pool.drop_idle()


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
