"""What is bound to one tenant on the connections of a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import asyncpg

from runengine_server.database import functions
from runengine_server.database.connecting import (
    Connection,
    Connector,
    NotGranted,
    NotWritable,
    keeps_session,
    server_of,
)
from runengine_server.database.driver_errors import translate_driver_errors
from runengine_server.database.functions import DispatchFunction, TenantFunction, dispatch_function
from runengine_server.database.notifier import Notifier, notification
from runengine_server.database.patience import Patience
from runengine_server.database.pool import Pool
from runengine_server.domain.errors import StatementRefused

# How long a transaction may take, with the wait for its connection. Less than the ten seconds after which
# what was cut off from the database has to be well again.
_SECONDS = 9

_WRITE_FILE = dispatch_function("write_temporary_file")

_NO_TURN: nullcontext[None] = nullcontext()

_ROLE = """
SELECT CASE
    WHEN rolsuper THEN format('the role %I is a superuser', rolname)
    WHEN rolbypassrls THEN format('the role %I bypasses row-level security', rolname)
    WHEN pg_has_role(oid, (SELECT relowner FROM pg_class WHERE oid = 'public.runs'::regclass), 'MEMBER')
        THEN format('the role %I owns the tables', rolname)
    ELSE (SELECT format('the table %I has no forced row-level security', relname)
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE attname = 'tenant_id' AND relkind = 'r' AND NOT (relrowsecurity AND relforcerowsecurity)
        LIMIT 1)
END AS flaw, current_setting('transaction_read_only') = 'off' AS is_writable, (
    SELECT string_agg(format('%s on %I', privilege, relname), ', ' ORDER BY relname, privilege)
    FROM pg_class CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS privilege
    WHERE relkind = 'r' AND relrowsecurity AND relnamespace = 'public'::regnamespace
        AND (privilege <> 'UPDATE' OR relname = 'runs') AND NOT has_table_privilege(pg_class.oid, privilege)
) AS lacking
FROM pg_roles WHERE rolname = current_user
"""


class Scope:
    """Statements that row-level security lets see one tenant, or what dispatch needs of all.

    Each is in a transaction, because the setting that the policies read must end with it: a setting
    of the session would be inherited by the next user of the pooled connection.
    """

    def __init__(self, database: Database, setting: str, value: str) -> None:
        self._database = database
        self.notifier = database.notifier
        # E'…', which reads the same whatever the session takes a backslash for.
        quoted = value.replace("\\", "\\\\").replace("'", "''")
        self._set = f"SELECT set_config('{setting}', E'{quoted}', true)"

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction, committed at the end and rolled back on any exception.

        Raises StatementRefused for a statement that is wrong, and Unavailable for all else.
        """
        with translate_driver_errors():
            async with self._database.connection(writes=True) as connection:
                await connection.execute(f"{self._database.begin}; {self._set}")
                yield connection
                await _commit(connection)

    async def _call(
        self, function: TenantFunction | DispatchFunction, *arguments: Any
    ) -> Sequence[asyncpg.Record]:
        with translate_driver_errors():
            async with self._database.connection(writes=not function.is_reading) as connection:
                return await self._database.fetch_on(connection, function.call, *arguments)

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """The rows of one statement, in three round trips: for what is rare."""
        async with self.transaction() as connection:
            return await connection.fetch(sql, *arguments)

    async def fetchrow(self, sql: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row of one statement."""
        rows = await self.fetch(sql, *arguments)
        return rows[0] if rows else None


class TenantScope(Scope):
    """What one tenant may see."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        super().__init__(database, "runengine.tenant", tenant_id)
        self._tenant_id = tenant_id

    async def call(self, function: TenantFunction, *arguments: Any) -> Sequence[asyncpg.Record]:
        """The rows of a function, after its first parameter, the tenant. A transaction of its own, and one
        round trip, or three through a pooler. Raises as `transaction` does.
        """
        return await self._call(function, self._tenant_id, *arguments)


class DispatchScope(Scope):
    """What a worker needs of all tenants, to claim runs and keep them; no request gets this."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "runengine.dispatch", "on")

    async def call(self, function: DispatchFunction, *arguments: Any) -> Sequence[asyncpg.Record]:
        """As TenantScope.call, without a tenant."""
        return await self._call(function, *arguments)


async def _commit(connection: Connection) -> None:
    # A transaction that has failed answers COMMIT with ROLLBACK, and no error.
    if await connection.execute("COMMIT") != "COMMIT":
        raise StatementRefused


async def _roll_back(connection: Connection) -> None:
    # Whatever went wrong, no connection goes back to the pool with a tenant's transaction open.
    try:
        await connection.execute("ROLLBACK")
    except BaseException:
        connection.terminate()


async def _fetch(
    connector: Connector, connection: Connection, sql: str, *arguments: Any
) -> Sequence[asyncpg.Record]:
    """The rows of one statement that is a transaction of its own."""
    if not connector.pooled:
        return await connection.fetch(sql, *arguments)
    # The session is another's as soon as the statement has ended, so what has to hold is set with it.
    await connection.execute(connector.begin)
    rows = await connection.fetch(sql, *arguments)
    await _commit(connection)
    return rows


class Database:
    """The connections of one process."""

    def __init__(
        self,
        url: str,
        max_connections: int,
        *,
        kept_for_reads: int = 0,
        listen_url: str | None = None,
        process: str = "process",
    ) -> None:
        """`kept_for_reads` are so many more connections, that writes do not get: when commits wait for a
        standby that is gone, reads go on. `listen_url` is for what needs a session of its own.

        Raises ValueError for a URL that is wrong.
        """
        self._connector = Connector(url, process)
        self._listening = Connector(listen_url or url, process)
        self._pool = Pool(self._connector.connect, max_connections + kept_for_reads)
        self._writing = asyncio.Semaphore(max_connections)
        self._patience = Patience()
        self.notifier = Notifier(self._connector.connect)

    async def open(self) -> None:
        """Connects. Raises OSError, asyncpg.PostgresError or asyncpg.InterfaceError with the server's own
        words.
        """
        self._pool.put_back(await self._pool.take())

    @property
    def begin(self) -> str:
        """Begins a transaction."""
        return self._connector.begin

    async def check(self, seconds: float = _SECONDS) -> str | None:
        """Why row-level security would not hold tenants apart here, in words; None when it does.

        Raises asyncpg.UndefinedTableError when there is no schema, NotWritable where nothing can be
        written, NotGranted when the role lacks what every process needs, and as connection() does.
        """
        asked = False
        try:
            async with self.connection(seconds) as connection:
                asked = True
                ((flaw, is_writable, lacking),) = await self.fetch_on(connection, _ROLE)
        except TimeoutError:
            # Not so when there was none to ask: they may all wait for a lock.
            if asked:
                self._pool.lose_silent()
            raise
        if not is_writable:
            # Another host may have taken over; and a host's name may stand for another one by now.
            self._pool.lose_idle()
            raise NotWritable
        if lacking:
            raise NotGranted(lacking)
        return str(flaw) if flaw else None

    async def check_disk(self) -> None:
        """Raises asyncpg.DiskFullError when tables have no room to grow, and as connection() does."""
        with suppress(TimeoutError, asyncpg.ConfigurationLimitExceededError):  # a slow disk, temp_file_limit
            async with self.connection() as connection:
                await self.fetch_on(connection, _WRITE_FILE.call)

    async def has_functions(self) -> bool:
        """Whether `migrate` of this version has been there. Raises as connection() does."""
        sql = "SELECT to_regnamespace($1) IS NOT NULL"
        async with self.connection() as connection:
            ((has,),) = await self.fetch_on(connection, sql, functions.schema())
            return bool(has)

    async def note_use(self) -> None:
        """Keeps the functions of this version from being pruned. Raises as connection() does."""
        async with self.connection(writes=True) as connection:
            await self.fetch_on(connection, functions.NOTE_USE, functions.schema())

    async def hears(self) -> bool:
        """Whether a connection for LISTEN is one that stays. Raises as Connector.connect does."""
        return await keeps_session(self._listening)

    async def close(self) -> None:
        """Waits for what is under way, for a second at most, then closes all connections."""
        await self.notifier.close()
        await self._pool.close(seconds=1)

    def tenant(self, tenant_id: str) -> TenantScope:
        """Every repository of a tenant's rows is built on this."""
        if not tenant_id.isprintable():
            raise ValueError("the id of a tenant is printable, as its token was checked to be")
        return TenantScope(self, tenant_id)

    def dispatch(self) -> DispatchScope:
        """Every repository of a worker's is built on this."""
        return DispatchScope(self)

    @asynccontextmanager
    async def connection(
        self, seconds: float | None = None, *, writes: bool = False
    ) -> AsyncIterator[Connection]:
        """A connection that, until a transaction of a Scope begins, sees no tenant's rows at all.

        Raises TimeoutError when the block, with the wait for the connection, takes longer than that, nine
        seconds by default, and nothing comes or goes on the connection any more; and OSError,
        asyncpg.InterfaceError or asyncpg.PostgresError as the driver does.
        """
        seconds = _SECONDS if seconds is None else seconds
        try:
            async with asyncio.timeout(seconds) as limit, self._writing if writes else _NO_TURN:
                connection = await self._pool.take()
                self._patience.begin(limit, seconds, connection)
                try:
                    yield connection
                except Exception:
                    await _roll_back(connection)
                    raise
                except BaseException:
                    # It may be in the middle of a statement. asyncpg would wait for the server to agree
                    # to stop it, and a server that says nothing would hold the call beyond its deadline.
                    self._pool.abandon(connection)
                    raise
                finally:
                    self._patience.end(limit)
                    self._pool.put_back(connection)
        except TimeoutError:
            # A server that is gone without a word has left the idle connections dead too, and nobody would
            # find out but the calls that get them, one after the other.
            self._pool.lose_idle()
            raise

    async def fetch_on(self, connection: Connection, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """The rows of one statement, a transaction of its own, on a connection of connection()."""
        return await _fetch(self._connector, connection, sql, *arguments)

    @asynccontextmanager
    async def dispatch_line(
        self, heard: Callable[[str, str], None], *channels: str
    ) -> AsyncIterator[DispatchLine]:
        """A connection outside of the pool, for one worker's heartbeat and what is notified to it.

        `heard` gets (channel, payload).
        """
        with translate_driver_errors():
            connection = await self._listening.connect()
            try:
                line = DispatchLine(self._listening, connection, await server_of(connection))
                async with asyncio.timeout(_SECONDS):
                    for channel in channels:
                        await connection.add_listener(
                            channel, lambda _connection, _pid, to, payload: heard(to, str(payload))
                        )
                yield line
            finally:
                connection.terminate()


class DispatchLine:
    """What the heartbeat does on its connection."""

    def __init__(self, connector: Connector, connection: Connection, server: int) -> None:
        self._connector = connector
        self._connection = connection
        self._server = server

    async def call(
        self, function: DispatchFunction, *arguments: Any, seconds: float
    ) -> Sequence[asyncpg.Record]:
        """The rows of a function, within so many seconds, or TimeoutError."""
        async with asyncio.timeout(seconds):
            return await _fetch(self._connector, self._connection, function.call, *arguments)

    async def notify(self, channel: str, payload: str, seconds: float) -> None:
        """Tells workers, within so many seconds, or TimeoutError: where no event loop could do it."""
        async with asyncio.timeout(seconds):
            await self._connection.execute(notification(channel, payload))

    async def look(self, seconds: float) -> None:
        """Raises TimeoutError when PostgreSQL does not answer within so many seconds, and
        ConnectionError when it is another server process than the one that was told to LISTEN.
        """
        async with asyncio.timeout(seconds):
            if await server_of(self._connection) != self._server:
                raise ConnectionResetError("a pooler has given the session to others")
