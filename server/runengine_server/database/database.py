"""The database of one process: its connections, the scopes on them, and the checks that it can be used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress

import asyncpg

from runengine_server.database import functions
from runengine_server.database.connecting import Connector, NotGranted, NotWritable, keeps_session
from runengine_server.database.connections import TRANSACTION_SECONDS, Connections
from runengine_server.database.dispatch_connection import (
    DispatchConnection,
    ListeningConnection,
    open_connection,
)
from runengine_server.database.functions import dispatch_function
from runengine_server.database.scopes import DispatchScope, TenantScope

_WRITE_FILE = dispatch_function("write_temporary_file")

CHECK_ROLE = """
SELECT CASE
    WHEN rolsuper THEN format('the role %I is a superuser', rolname)
    WHEN rolbypassrls THEN format('the role %I bypasses row-level security', rolname)
    WHEN pg_has_role(oid, (SELECT relowner FROM pg_class WHERE oid = 'public.runs'::regclass), 'MEMBER')
        THEN format('the role %I owns the tables', rolname)
    ELSE (SELECT format('the table %I has no forced row-level security', relname)
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE attname = 'tenant_id' AND relkind = 'r' AND NOT (relrowsecurity AND relforcerowsecurity)
        LIMIT 1)
END AS bypass, current_setting('transaction_read_only') = 'off' AS is_writable, (
    SELECT string_agg(format('%s on %I', privilege, relname), ', ' ORDER BY relname, privilege)
    FROM pg_class CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS privilege
    WHERE relkind = 'r' AND relrowsecurity AND relnamespace = 'public'::regnamespace
        AND (privilege <> 'UPDATE' OR relname = 'runs') AND NOT has_table_privilege(pg_class.oid, privilege)
) AS lacking
FROM pg_roles WHERE rolname = current_user
"""


class Database(Connections):
    """The database of one process."""

    def __init__(
        self,
        url: str,
        max_connections: int,
        *,
        kept_for_reads: int = 0,
        listen_url: str | None = None,
        process: str = "process",
    ) -> None:
        """`kept_for_reads` as of Connections. `listen_url` is for connections that need a session of their
        own.

        Raises ValueError for a URL that is wrong.
        """
        super().__init__(Connector(url, process), max_connections, kept_for_reads=kept_for_reads)
        self._listening = Connector(listen_url or url, process)

    def tenant(self, tenant_id: str) -> TenantScope:
        """The scope of the repositories of a tenant's rows."""
        if not tenant_id.isprintable():
            raise ValueError("the id of a tenant is printable, as its token was checked to be")
        return TenantScope(self, tenant_id)

    def dispatch(self) -> DispatchScope:
        """The scope of the repositories of workers."""
        return DispatchScope(self)

    def dispatch_connection(
        self, on_notification: Callable[[str, str], None], *channels: str
    ) -> AbstractAsyncContextManager[DispatchConnection]:
        """A connection outside of the pool, as open_connection has it."""
        return open_connection(DispatchConnection, self._listening, on_notification, *channels)

    def listening_connection(
        self, on_notification: Callable[[str, str], None], *channels: str
    ) -> AbstractAsyncContextManager[ListeningConnection]:
        """As dispatch_connection, for processes that may see the rows of one tenant at a time."""
        return open_connection(ListeningConnection, self._listening, on_notification, *channels)

    async def check(self, seconds: float = TRANSACTION_SECONDS) -> str | None:
        """How the role could get around row-level security, in words; None when it cannot.

        Raises asyncpg.UndefinedTableError when there is no schema, NotWritable for a read-only host,
        NotGranted when the role lacks what every process needs, and as connection() does.
        """
        has_connection = False
        try:
            async with self.connection(seconds) as connection:
                has_connection = True
                ((bypass, is_writable, lacking),) = await self.fetch_on(connection, CHECK_ROLE)
        except TimeoutError:
            # Without a connection nothing is known of the server: all may be in use, and wait for a lock.
            if has_connection:
                self._pool.drop_stalled()
            raise
        if not is_writable:
            # Another host may have become the primary; and a host's name may lead to another machine by now.
            self._pool.drop_idle()
            raise NotWritable
        if lacking:
            raise NotGranted(lacking)
        return str(bypass) if bypass else None

    async def check_disk(self) -> None:
        """Raises asyncpg.DiskFullError when tables have no room to grow, and as connection() does."""
        with suppress(TimeoutError, asyncpg.ConfigurationLimitExceededError):  # a slow disk, temp_file_limit
            async with self.connection() as connection:
                await self.fetch_on(connection, _WRITE_FILE.call)

    async def has_functions(self) -> bool:
        """Whether `migrate` of this version has run. Raises as connection() does."""
        sql = "SELECT to_regnamespace($1) IS NOT NULL"
        async with self.connection() as connection:
            ((has,),) = await self.fetch_on(connection, sql, functions.schema())
            return bool(has)

    async def record_use(self) -> None:
        """Keeps the functions of this version from being pruned for a day. Raises as connection() does."""
        async with self.connection(writes=True) as connection:
            await self.fetch_on(connection, functions.RECORD_USE, functions.schema())

    async def can_listen(self) -> bool:
        """Whether a connection for LISTEN keeps its session. Raises as Connector.connect does."""
        return await keeps_session(self._listening)
