"""Which rows a statement sees: those of one tenant, or those that workers need of all tenants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from runengine_server.database.batcher import BatchedFunction, Result
from runengine_server.database.channels import CHANGED
from runengine_server.database.connecting import Connection
from runengine_server.database.connections import Connections, Rows, commit
from runengine_server.database.driver_errors import DRIVER_ERRORS, translate_driver_errors, translated
from runengine_server.database.functions import DispatchFunction, TenantFunction

# A notification has at most 7,999 bytes. Whoever watches a tenant with a longer id polls.
_MAX_TENANT_NOTIFIED = 1000


class Scope:
    """Statements under the row-level security policies.

    Each is in a transaction, because the setting that the policies read must end with it: a setting of the
    session would be inherited by the next user of the pooled connection.
    """

    def __init__(self, connections: Connections, setting: str, value: str) -> None:
        self._connections = connections
        self.notifier = connections.notifier
        # E'…' is parsed the same way whatever standard_conforming_strings is.
        quoted = value.replace("\\", "\\\\").replace("'", "''")
        self._set = f"SELECT set_config('{setting}', E'{quoted}', true)"

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction, committed at the end and rolled back on any exception.

        Raises StatementRefused for a statement that is wrong, and Denied or Unavailable for other errors.
        """
        with translate_driver_errors():
            async with self._connections.connection(writes=True) as connection:
                await connection.execute(f"{self._connections.begin}; {self._set}")
                yield connection
                await commit(connection)

    async def _call(
        self, function: TenantFunction | DispatchFunction, *arguments: Any
    ) -> Sequence[asyncpg.Record]:
        try:
            async with self._connections.connection(writes=not function.is_reading) as connection:
                return await self._connections.fetch_on(connection, function.call, *arguments)
        except DRIVER_ERRORS as error:
            raise translated(error) from error

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """The rows of one statement, in three round trips: for what is rare."""
        async with self.transaction() as connection:
            return await connection.fetch(sql, *arguments)

    async def fetchrow(self, sql: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row of one statement."""
        rows = await self.fetch(sql, *arguments)
        return rows[0] if rows else None


class TenantScope(Scope):
    """The rows of one tenant."""

    def __init__(self, connections: Connections, tenant_id: str) -> None:
        super().__init__(connections, "runengine.tenant", tenant_id)
        self._tenant_id = tenant_id

    def notify_changed(self) -> None:
        """Tells those who watch runs of the tenant that one has changed, after the commit."""
        if len(self._tenant_id) <= _MAX_TENANT_NOTIFIED:
            self.notifier.notify(CHANGED, self._tenant_id)

    def call(self, function: TenantFunction, *arguments: Any) -> Rows:
        """The rows of a function, whose first parameter, the tenant, is added here. It is a transaction of
        its own, and one round trip, or three through a pooler. Raises as `transaction` does.
        """
        return self._call(function, self._tenant_id, *arguments)

    def call_batched(self, function: BatchedFunction[Result], *arguments: Any) -> Coroutine[Any, Any, Result]:
        """The result of a call, which is one transaction with others that come at the same time, of any
        tenants: see Batcher. The tenant is added as in `call`, and it raises as that does.
        """
        return self._connections.batcher(function).call(self._tenant_id, *arguments)

    def submit(self, function: BatchedFunction[Result], *arguments: Any) -> asyncio.Future[Result]:
        """As call_batched, without a coroutine that waits."""
        return self._connections.batcher(function).submit(self._tenant_id, *arguments)


class DispatchScope(Scope):
    """The rows that a worker needs of all tenants, to claim runs and keep them. No request gets this."""

    def __init__(self, connections: Connections) -> None:
        super().__init__(connections, "runengine.dispatch", "on")

    def call(self, function: DispatchFunction, *arguments: Any) -> Rows:
        """As TenantScope.call, without a tenant."""
        return self._call(function, *arguments)
