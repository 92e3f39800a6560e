"""One pool of connections a process, and what is bound to one tenant on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson

from runengine_server.domain.errors import StatementRefused, Unavailable

if TYPE_CHECKING:
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.pool.PoolConnectionProxy
    Pool = asyncpg.Pool

# How long a statement may take, and how long it may wait for a connection.
_SECONDS = 10

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
_FAILED = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError)


async def _prepare(connection: Any) -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", format="text", encoder=lambda value: orjson.dumps(value).decode(),
        decoder=orjson.loads,
    )  # fmt: skip


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


class Scope:
    """Statements that row-level security lets see one tenant, or what dispatch needs of all.

    Each is in a transaction, because the setting that the policies read must end with it: a setting
    of the session would be inherited by the next user of the pooled connection.
    """

    def __init__(self, database: Database, setting: str, value: str) -> None:
        self._database = database
        quoted = value.replace("'", "''")
        # One message for both, and COMMIT another: three round trips a statement.
        self._begin = f"BEGIN; SELECT set_config('{setting}', '{quoted}', true)"

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction, committed at the end and rolled back on any exception.

        Raises StatementRefused for a statement that is wrong, and Unavailable for all else that the
        database or the way to it does, so that no word of the driver's leaves this file.
        """
        async with self._database.connection() as connection:
            try:
                await connection.execute(self._begin)
                yield connection
                # A transaction that has failed answers COMMIT with ROLLBACK, and no error.
                if await connection.execute("COMMIT") != "COMMIT":
                    raise StatementRefused
            except asyncio.CancelledError:
                # It may be in the middle of a statement. asyncpg would wait for the server to agree to
                # stop it, and a server that says nothing would hold the call beyond its deadline.
                connection.terminate()
                raise
            except _FAILED as error:
                await _roll_back(connection)
                raise (StatementRefused if isinstance(error, _REFUSED) else Unavailable) from error
            except BaseException:
                await _roll_back(connection)
                raise

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """The rows of one statement."""
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
        connection.terminate()


async def _keep_session(connection: Any) -> None:
    """Instead of asyncpg's reset query, a round trip for each release: all settings here are local to
    a transaction, and nobody listens or locks on a pooled connection.
    """


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
            reset=_keep_session,
        )

    async def check(self) -> str | None:
        """Why row-level security would not hold tenants apart here, in words; None when it does.

        Raises asyncpg.UndefinedTableError when there is no schema.
        """
        async with self.connection() as connection:
            return str(found) if (found := await connection.fetchval(_ROLE)) else None

    async def close(self) -> None:
        """Waits for what is under way, for a second at most, then closes all connections."""
        if self._pool is None:
            return
        try:
            await asyncio.wait_for(self._pool.close(), timeout=1)
        except TimeoutError:
            self._pool.terminate()

    def tenant(self, tenant_id: str) -> Scope:
        """What one tenant may see. Every repository of a tenant's rows is built on this."""
        assert tenant_id.isprintable(), "checked with the token"
        return Scope(self, "runengine.tenant", tenant_id)

    def dispatch(self) -> Scope:
        """What a worker needs of all tenants, to claim runs and keep them; no request gets this."""
        return Scope(self, "runengine.dispatch", "on")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection that, until a transaction of a Scope begins, sees no tenant's rows at all."""
        assert self._pool is not None, "open() comes first"
        try:
            connection = await self._pool.acquire(timeout=_SECONDS)
        except _FAILED as error:
            raise Unavailable from error
        try:
            yield connection
        finally:
            await self._pool.release(connection)

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[asyncio.Queue[str | None]]:
        """The payloads notified on `channel` while the block runs; None when the connection is lost."""
        heard: asyncio.Queue[str | None] = asyncio.Queue()
        try:
            connection = await asyncpg.connect(self._url, timeout=_SECONDS)
        except _FAILED as error:
            raise Unavailable from error
        connection.add_termination_listener(lambda _: heard.put_nowait(None))
        try:
            await connection.add_listener(
                channel, lambda _c, _pid, _ch, payload: heard.put_nowait(str(payload))
            )
            yield heard
        except _FAILED as error:
            raise Unavailable from error
        finally:
            try:
                await connection.close(timeout=1)
            except _FAILED:
                connection.terminate()
