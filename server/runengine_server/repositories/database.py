"""One pool of connections a process, and what is bound to one tenant on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson

from runengine_server.domain.errors import StatementRefused, Unavailable
from runengine_server.repositories.functions import Function
from runengine_server.repositories.notifier import Notifier

if TYPE_CHECKING:
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.pool.PoolConnectionProxy
    Pool = asyncpg.Pool

# How long a transaction may take, with the wait for its connection.
_SECONDS = 10

# How long connecting may take; so long a way to PostgreSQL that says nothing keeps a place in the pool.
_CONNECT_SECONDS = 5

# What means that the statement, or a value in it, is wrong; anything else that PostgreSQL says is a
# state of it that will pass. The second is asyncpg's own, an InterfaceError that says nothing of the
# connection.
_REFUSED = (
    asyncpg.DataError,
    asyncpg.exceptions._base.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.SyntaxOrAccessError,
    asyncpg.ProgramLimitExceededError,
)
# The last is what asyncpg says of a connection that PostgreSQL ended with an error while it was idle.
_FAILED = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresError,
    asyncpg.InternalClientError,
)

# What PostgreSQL does of itself for a process that was stopped or cut off in a transaction, and holds a
# run's lock in it: nobody could take the run over, or renew the leases of all those beside it.
_SERVER_SETTINGS = {
    "idle_in_transaction_session_timeout": "5s",
    "statement_timeout": f"{_SECONDS}s",
    # Every statement here has one good plan. Left to itself PostgreSQL plans the list anew each time,
    # which takes 0.35 ms of its 0.5.
    "plan_cache_mode": "force_generic_plan",
    # And that is by index. A plan made while the tables are empty would read them whole, and it is kept:
    # after 3,600 runs a worker was down from 240 to 144 runs/s.
    "enable_seqscan": "off",
}


async def _prepare(connection: Any) -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", format="text", encoder=lambda value: orjson.dumps(value).decode(),
        decoder=orjson.loads,
    )  # fmt: skip


_TENANT = "runengine.tenant"

_ROLE = """
SELECT CASE
    WHEN rolsuper THEN format('the role %I is a superuser', rolname)
    WHEN rolbypassrls THEN format('the role %I bypasses row-level security', rolname)
    WHEN pg_has_role(oid, (SELECT relowner FROM pg_class WHERE oid = 'runs'::regclass), 'MEMBER')
        THEN format('the role %I owns the tables', rolname)
    ELSE (SELECT format('the table %I has no forced row-level security', relname)
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE attname = 'tenant_id' AND relkind = 'r' AND NOT (relrowsecurity AND relforcerowsecurity)
        LIMIT 1)
END
FROM pg_roles WHERE rolname = current_user
"""


_HAS_FUNCTIONS = "SELECT bool_and(to_regproc(name) IS NOT NULL) FROM unnest($1::text[]) AS name"


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Raises StatementRefused for a statement that is wrong, and Unavailable for all else that the
    database or the way to it does, so that no word of the driver's leaves this file.
    """
    try:
        yield
    except _REFUSED as error:
        raise StatementRefused from error
    except _FAILED as error:
        raise Unavailable from error


class Scope:
    """Statements that row-level security lets see one tenant, or what dispatch needs of all.

    Each is in a transaction, because the setting that the policies read must end with it: a setting
    of the session would be inherited by the next user of the pooled connection.
    """

    def __init__(self, database: Database, setting: str, value: str) -> None:
        self._database = database
        self.notifier = database.notifier
        self._of_tenant = (value,) if setting == _TENANT else ()
        quoted = value.replace("'", "''")
        self._begin = f"BEGIN; SELECT set_config('{setting}', '{quoted}', true)"

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction, committed at the end and rolled back on any exception.

        Raises StatementRefused for a statement that is wrong, and Unavailable for all else.
        """
        with _in_our_words():
            async with self._database.connection() as connection:
                await connection.execute(self._begin)
                yield connection
                # A transaction that has failed answers COMMIT with ROLLBACK, and no error.
                if await connection.execute("COMMIT") != "COMMIT":
                    raise StatementRefused

    async def call(self, function: Function, *arguments: Any) -> Sequence[asyncpg.Record]:
        """The rows of a function, after its first parameter, the tenant, if this is one. A transaction
        of its own, and one round trip. Raises as `transaction` does.
        """
        assert function.dispatch != bool(self._of_tenant), "a tenant's function is for tenants"
        with _in_our_words():
            async with self._database.connection() as connection:
                return await connection.fetch(function.call, *self._of_tenant, *arguments)

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """The rows of one statement, in three round trips: for what is rare."""
        async with self.transaction() as connection:
            return await connection.fetch(sql, *arguments)

    async def fetchrow(self, sql: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row of one statement."""
        rows = await self.fetch(sql, *arguments)
        return rows[0] if rows else None


async def _roll_back(connection: Connection) -> None:
    # Whatever went wrong, no connection goes back to the pool with a tenant's transaction open.
    try:
        await connection.execute("ROLLBACK")
    except BaseException:
        _terminate(connection)


def _terminate(connection: Connection) -> None:
    # Of one that was lost the pool has let go, and says so to whoever still uses it.
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def _is_lost(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True  # the pool has let go of it, when it found out


async def _keep_session(connection: Any) -> None:
    """Instead of asyncpg's reset query, a round trip for each release: all settings here are local to
    a transaction, and nobody listens or locks on a pooled connection.
    """


class Database:
    """The pool."""

    def __init__(self, url: str, max_connections: int) -> None:
        self._url = url
        self._max_connections = max_connections
        self._pool: Pool | None = None
        # Connections that nobody uses, taken out of the pool for good: it makes them and replaces those
        # that were lost, but its acquire and release take 40 µs, a tenth of a call.
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(max_connections)
        self.notifier = Notifier(self.open_connection)

    async def open(self) -> None:
        """Connects. Raises OSError or asyncpg.PostgresError with the server's own words."""
        self._pool = await asyncpg.create_pool(
            self._url,
            # One to begin with, and no minimum: asyncpg would restore it in the background, for ever.
            init_size=1,
            min_size=0,
            max_size=self._max_connections,
            timeout=_CONNECT_SECONDS,
            init=_prepare,
            reset=_keep_session,
            server_settings=_SERVER_SETTINGS,
        )

    async def check(self, seconds: float = _SECONDS) -> str | None:
        """Why row-level security would not hold tenants apart here, in words; None when it does.

        Raises asyncpg.UndefinedTableError when there is no schema, and as connection() does.
        """
        async with self.connection(seconds) as connection:
            return str(found) if (found := await connection.fetchval(_ROLE)) else None

    async def has(self, functions: Sequence[Function]) -> bool:
        """Whether `migrate` of this version has been there. Raises as connection() does."""
        names = [function.name for function in functions]
        async with self.connection() as connection:
            return bool(await connection.fetchval(_HAS_FUNCTIONS, names))

    async def close(self) -> None:
        """Waits for what is under way, for a second at most, then closes all connections."""
        await self.notifier.close()
        if self._pool is None:
            return
        for connection in self._idle:
            await self._pool.release(connection)
        try:
            await asyncio.wait_for(self._pool.close(), timeout=1)
        except _FAILED:
            self._pool.terminate()

    async def open_connection(self) -> asyncpg.Connection:
        """One outside of the pool, for its caller to end. Raises as `open` does."""
        return await asyncpg.connect(self._url, timeout=_CONNECT_SECONDS, server_settings=_SERVER_SETTINGS)

    def tenant(self, tenant_id: str) -> Scope:
        """What one tenant may see. Every repository of a tenant's rows is built on this."""
        assert tenant_id.isprintable(), "checked with the token"
        return Scope(self, _TENANT, tenant_id)

    def dispatch(self) -> Scope:
        """What a worker needs of all tenants, to claim runs and keep them; no request gets this."""
        return Scope(self, "runengine.dispatch", "on")

    @asynccontextmanager
    async def connection(self, seconds: float = _SECONDS) -> AsyncIterator[Connection]:
        """A connection that, until a transaction of a Scope begins, sees no tenant's rows at all.

        Raises TimeoutError when the block, with the wait for the connection, takes longer than that; and
        OSError, asyncpg.InterfaceError or asyncpg.PostgresError as the driver does.
        """
        try:
            async with asyncio.timeout(seconds), self._free:
                connection = await self._take()
                try:
                    yield connection
                except Exception:
                    await _roll_back(connection)
                    raise
                except BaseException:
                    # It may be in the middle of a statement. asyncpg would wait for the server to agree
                    # to stop it, and a server that says nothing would hold the call beyond its deadline.
                    _terminate(connection)
                    raise
                finally:
                    await self._put_back(connection)
        except TimeoutError:
            await self._lose_idle()
            raise

    async def _take(self) -> Connection:
        assert self._pool is not None, "open() comes first"
        while self._idle:
            connection = self._idle.pop()
            if not _is_lost(connection):
                return connection
            await self._pool.release(connection)
        return await self._pool.acquire()

    async def _put_back(self, connection: Connection) -> None:
        if _is_lost(connection):
            assert self._pool is not None
            await self._pool.release(connection)
        else:
            self._idle.append(connection)

    async def _lose_idle(self) -> None:
        # A server that is gone without a word has left the idle connections dead too, and nobody would
        # find out but the calls that get them, one after the other.
        idle, self._idle = self._idle, []
        for connection in idle:
            _terminate(connection)
            await self._put_back(connection)

    @asynccontextmanager
    async def dispatch_line(
        self, heard: Callable[[str, str], None], *channels: str
    ) -> AsyncIterator[asyncpg.Connection]:
        """A connection outside of the pool, for one worker's heartbeat and what is notified to it.

        `heard` gets (channel, payload). Its statements are transactions of their own, for its
        session may do what `dispatch` may, and nobody else inherits it.
        """
        with _in_our_words():
            connection = await asyncpg.connect(
                self._url,
                timeout=_SECONDS,
                command_timeout=_SECONDS,
                server_settings=_SERVER_SETTINGS,
            )
            try:
                await connection.execute("SELECT set_config('runengine.dispatch', 'on', false)")
                for channel in channels:
                    await connection.add_listener(
                        channel, lambda _connection, _pid, to, payload: heard(to, str(payload))
                    )
                yield connection
            finally:
                connection.terminate()
