"""Opens connections to PostgreSQL: to a host that takes writes, directly or through a pooler."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import asyncpg
import orjson

from runengine_server.database.postgres_url import parse_postgres_url, place_of

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

# The settings that all statements rely on, whatever the defaults of the database, the role or the server.
_COMMON_SETTINGS = {
    "default_transaction_isolation": "read committed",
    "search_path": "public",
    "row_security": "on",
    "standard_conforming_strings": "on",
}

# A migration may take as long as it needs.
MIGRATION_SETTINGS = {
    **_COMMON_SETTINGS,
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}

CALL_SETTINGS = {
    **_COMMON_SETTINGS,
    # The policies read these, and each transaction sets its own. Here they are reset, in case that the role
    # has defaults of its own for them.
    "runengine.dispatch": "off",
    "runengine.tenant": "",
    "runengine.all_tenants": "off",
    # PostgreSQL itself ends the transaction of a process that was stopped or cut off while it held the lock
    # of a run: until then nobody could take the run over, or renew the leases of the other runs with it.
    "idle_in_transaction_session_timeout": "5s",
    "statement_timeout": "10s",
    # Every statement has one good plan. By default PostgreSQL plans the list of runs anew for each call,
    # which takes 0.35 ms of its 0.5.
    "plan_cache_mode": "force_generic_plan",
    # And that plan reads by index. One made while the tables are empty would scan them, and it is kept: after
    # 3,600 runs a worker had slowed from 240 to 144 runs/s.
    "enable_seqscan": "off",
}

# Has values compressed by lz4 where the server was built with it: to store 14 KB of text takes PostgreSQL
# 110 µs then, and 350 by pglz. {} says whether for the transaction alone.
_BY_LZ4 = (
    "(SELECT pg_catalog.set_config(name, 'lz4', {}) FROM pg_catalog.pg_settings"
    " WHERE name OPERATOR(pg_catalog.=) 'default_toast_compression'"
    " AND 'lz4' OPERATOR(pg_catalog.=) ANY (enumvals))"
)

# How many transactions keeps_session begins on a second connection.
_SESSION_CHECKS = 5


class NotWritable(OSError):
    """A host accepts connections but no writes: it is a standby, or was made read-only."""

    sqlstate = "25006"

    def __init__(self) -> None:
        super().__init__("it is read-only")


class NotGranted(OSError):
    """The role has lost what `migrate` grants it; the message names it."""

    sqlstate = "42501"

    def __init__(self, lacking: str) -> None:
        super().__init__(f"the role lacks {lacking}, which `migrate` grants")


class NoUsableHost(OSError):
    """None of several hosts can be used; the message has the reason of each."""

    def __init__(self, reasons: Mapping[str, Exception]) -> None:
        super().__init__("; ".join(f"{place}: {describe_error(error)}" for place, error in reasons.items()))
        self.sqlstate = next(filter(None, map(sqlstate, reasons.values())), None)


def describe_error(error: Exception) -> str:
    """The first line of the error's message, or the name of its type."""
    if isinstance(error, TimeoutError) and not str(error):
        return "it does not respond"
    return (str(error) or type(error).__name__).splitlines()[0]


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's error code, None where the error is not PostgreSQL's."""
    found = getattr(error, "sqlstate", None)
    return found if isinstance(found, str) else None


class Connector:
    """Opens connections to one URL, each with the process's name and with `settings` in its session.

    A pooler (pgbouncer, as an example) refuses or ignores settings at startup, and in transaction mode hands
    a session with changed settings to its next client. So the settings are made only in a session that is
    PostgreSQL's own: the process id of the responding server is the one that it announced when it connected.
    Through a pooler `pooled` is true, nothing is set, and statements have no names; each transaction then has
    to begin with `begin`.
    """

    def __init__(self, url: str, process: str, settings: Mapping[str, str] = CALL_SETTINGS) -> None:
        """Raises ValueError as parse_postgres_url does."""
        self.url = parse_postgres_url(url)
        self.pooled = False
        self._name = self.url.application_name or f"runengine {process} {os.getpid()}"
        self._settings = settings
        self._hosts = list(self.url.hosts)

    @property
    def begin(self) -> str:
        """Begins a transaction in which the settings hold."""
        if not self.pooled:
            return "BEGIN"
        local = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in self._settings.items())
        return f"BEGIN ISOLATION LEVEL READ COMMITTED; {local}"

    async def connect(self) -> Connection:
        """A connection to the first usable host. Each host has a time limit of its own, and the host that was
        used last is tried first.

        Raises OSError, TimeoutError, asyncpg.PostgresError or asyncpg.InterfaceError when none is usable.
        """
        reasons: dict[str, Exception] = {}
        for host in list(self._hosts):
            try:
                async with asyncio.timeout(self.url.connect_seconds):
                    connection = await self._connect_to(*host)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
                reasons[place_of(*host)] = error
            else:
                self._hosts.remove(host)
                self._hosts.insert(0, host)
                return connection
        if len(reasons) == 1:
            raise next(iter(reasons.values()))
        raise NoUsableHost(reasons)

    async def _connect_to(self, host: str | None, port: int | None) -> Connection:
        while True:
            names_statements = not self.pooled
            connection = await self._open(host, port, names_statements)
            try:
                is_pooled = await self._is_pooled(connection)
            except BaseException:
                connection.terminate()
                raise
            if not (is_pooled and names_statements):
                return connection
            # It stays true, whatever the other hosts are: PostgreSQL itself works without names too.
            self.pooled = True
            connection.terminate()

    async def _open(self, host: str | None, port: int | None, names_statements: bool) -> Connection:
        url = self.url
        settings = {"application_name": self._name}
        if url.server_options is not None:
            settings["options"] = url.server_options
        more = {} if names_statements else {"statement_cache_size": 0}
        # The stubs do not know that a host may be left to the driver beside a URL.
        connect: Any = asyncpg.connect
        connection: Connection = await connect(
            f"postgresql://?{urlencode(url.driver_options)}",
            host=host,
            port=port,
            user=url.user,
            password=url.password,
            database=url.database,
            passfile=url.passfile,
            servicefile=url.servicefile,
            target_session_attrs="any",  # _is_pooled checks each host
            server_settings=settings,
            **more,
        )
        self._set_keepalives(connection)
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", format="text", encoder=lambda value: orjson.dumps(value).decode(),
            decoder=orjson.loads,
        )  # fmt: skip
        return connection

    def _set_keepalives(self, connection: Any) -> None:
        """Lets the kernel end a connection that the network has dropped without a reset."""
        # asyncpg has no public way to its socket.
        found = connection._transport.get_extra_info("socket")
        if found is None or found.family == socket.AF_UNIX or not self.url.keepalives["keepalives"]:
            return
        keep = self.url.keepalives
        with suppress(OSError, AttributeError):  # where the platform has no such option
            found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keep["keepalives_idle"])
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, keep["keepalives_interval"])
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keep["keepalives_count"])
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self.url.tcp_user_timeout_ms)

    async def _is_pooled(self, connection: Connection) -> bool:
        """Whether a pooler is in between. If not, the settings are made in the session. One round trip.

        Raises NotWritable for a read-only host, unless the URL accepts one.
        """
        announced_pid = connection.get_server_pid()
        is_local = f"pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.<>) {announced_pid}"
        results = [
            "pg_catalog.pg_backend_pid()",
            "pg_catalog.current_setting('transaction_read_only')",
            *(
                f"pg_catalog.set_config('{name}', '{value}', {is_local})"
                for name, value in self._settings.items()
            ),
            _BY_LZ4.format(is_local),
        ]
        row = await _fetch_row_unnamed(connection, f"SELECT {', '.join(results)}")
        if row[1] == "on" and not self.url.may_be_read_only:
            raise NotWritable
        return int(row[0]) != announced_pid


async def _fetch_row_unnamed(connection: Connection, query: str) -> list[str]:
    """One row, as text, by COPY, the only way in which asyncpg gets rows by the simple protocol. Anything
    else is a prepared statement, whose name would be left behind on the server of a pooler.
    """
    received = bytearray()

    async def receive(data: bytes) -> None:
        received.extend(data)

    await connection.copy_from_query(query, output=receive)
    return received.decode().rstrip("\n").split("\t")


async def backend_pid(connection: Connection) -> int:
    """The process id of the server process that executes the query."""
    return int((await _fetch_row_unnamed(connection, "SELECT pg_backend_pid()"))[0])


async def keeps_session(connector: Connector) -> bool:
    """Whether a connection stays with one server process, as LISTEN and locks of a session need: it does with
    PostgreSQL itself, and with a pooler in session mode.

    A pooler in transaction mode gives the server process to another client that begins a transaction: that
    client then has the same process, or this one has another. Raises as Connector.connect does.
    """
    first = await connector.connect()
    try:
        if not connector.pooled:
            return True
        second = await connector.connect()
        try:
            own = await backend_pid(first)
            for _ in range(_SESSION_CHECKS):
                await second.execute("BEGIN")
                if await backend_pid(second) == own or await backend_pid(first) != own:
                    return False
                await second.execute("COMMIT")
            return True
        finally:
            second.terminate()
    finally:
        first.terminate()
