"""How a connection to PostgreSQL comes about: to a host that can write, directly or through a pooler."""

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

# What the statements here take for granted, whatever the database's, the role's or the server's defaults.
_ASSUMED = {
    "default_transaction_isolation": "read committed",
    "search_path": "public",
    "row_security": "on",
    "standard_conforming_strings": "on",
}

# What a migration may take as long as it needs for.
OF_MIGRATIONS = {**_ASSUMED, "statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}

OF_CALLS = {
    **_ASSUMED,
    # What the policies read is set in each transaction; a role that has it set sees no more for that.
    "runengine.dispatch": "off",
    "runengine.tenant": "",
    "runengine.all_tenants": "off",
    # What PostgreSQL does of itself for a process that was stopped or cut off in a transaction, and holds a
    # run's lock in it: nobody could take the run over, or renew the leases of all those beside it.
    "idle_in_transaction_session_timeout": "5s",
    "statement_timeout": "10s",
    # Every statement here has one good plan. Left to itself PostgreSQL plans the list anew each time,
    # which takes 0.35 ms of its 0.5.
    "plan_cache_mode": "force_generic_plan",
    # And that is by index. A plan made while the tables are empty would read them whole, and it is kept:
    # after 3,600 runs a worker was down from 240 to 144 runs/s.
    "enable_seqscan": "off",
}

# How often a pooler is asked for two servers at once, to see whether it keeps a client's own for it.
_LOOKS = 5


class NotWritable(OSError):
    """A host lets us in and takes no writes: a standby, or made read-only."""

    sqlstate = "25006"

    def __init__(self) -> None:
        super().__init__("it is read-only")


class NotGranted(OSError):
    """The role has lost what `migrate` grants it; the message names it."""

    sqlstate = "42501"

    def __init__(self, lacking: str) -> None:
        super().__init__(f"the role lacks {lacking}, which `migrate` grants")


class NoHost(OSError):
    """None of several hosts will do; the message has the reason of each."""

    def __init__(self, reasons: Mapping[str, Exception]) -> None:
        super().__init__("; ".join(f"{place}: {words(error)}" for place, error in reasons.items()))
        self.sqlstate = next(filter(None, map(sqlstate, reasons.values())), None)


def words(error: Exception) -> str:
    """One line of what it says, or its name."""
    if isinstance(error, TimeoutError) and not str(error):
        return "it does not answer"
    return (str(error) or type(error).__name__).splitlines()[0]


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code of what happened, where that is who said it."""
    found = getattr(error, "sqlstate", None)
    return found if isinstance(found, str) else None


class Connector:
    """Opens connections to one URL, each named after the process, with the `settings` of a session.

    A pooler (pgbouncer, as an example) refuses or ignores settings at startup, and in transaction mode
    hands a session that was changed to its next client. So a session is set only after it was seen
    to be PostgreSQL's own: the process that answers is the one that the connection was greeted with.
    Through a pooler `pooled` is true, nothing is set, and statements have no names; each transaction
    then has to begin with `begin`.
    """

    def __init__(self, url: str, process: str, settings: Mapping[str, str] = OF_CALLS) -> None:
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
        """A connection to the first host that will do, each with a time limit of its own: the host that
        did the last time first.

        Raises OSError, TimeoutError, asyncpg.PostgresError or asyncpg.InterfaceError when none will.
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
        raise NoHost(reasons)

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
            # For good, whatever other hosts are: one that is PostgreSQL's own can do without names.
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
            target_session_attrs="any",  # looked at by ourselves, on each host
            server_settings=settings,
            **more,
        )
        self._watch_socket(connection)
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", format="text", encoder=lambda value: orjson.dumps(value).decode(),
            decoder=orjson.loads,
        )  # fmt: skip
        return connection

    def _watch_socket(self, connection: Any) -> None:
        """Has the kernel end a connection that the network has forgotten without a word."""
        # asyncpg shows its socket to nobody.
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
        """Whether a pooler is in between; if not, its session has the settings now. One round trip.

        Raises NotWritable when it has to be able to write, and is not.
        """
        greeted_by = connection.get_server_pid()
        sets = "".join(
            f", pg_catalog.set_config('{name}', '{value}', pg_catalog.pg_backend_pid()"
            f" OPERATOR(pg_catalog.<>) {greeted_by})"
            for name, value in self._settings.items()
        )
        answer = await _copied(
            connection,
            "SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('transaction_read_only')" + sets,
        )
        if answer[1] == "on" and not self.url.may_be_read_only:
            raise NotWritable
        return int(answer[0]) != greeted_by


async def _copied(connection: Connection, query: str) -> list[str]:
    """One row, as text. COPY is the one way in which asyncpg gets rows by the simple protocol: all else is
    a prepared statement, whose name would stay behind on the server of a pooler.
    """
    received = bytearray()

    async def receive(data: bytes) -> None:
        received.extend(data)

    await connection.copy_from_query(query, output=receive)
    return received.decode().rstrip("\n").split("\t")


async def server_of(connection: Connection) -> int:
    """The process id of the server process that answers."""
    return int((await _copied(connection, "SELECT pg_backend_pid()"))[0])


async def keeps_session(connector: Connector) -> bool:
    """Whether a connection stays with one server process, as LISTEN and locks of a session need it:
    PostgreSQL itself, or a pooler in session mode.

    A pooler in transaction mode has given the server away by the time that another client is in a
    transaction: that one gets the same, or this one another. Raises as Connector.connect does.
    """
    first = await connector.connect()
    try:
        if not connector.pooled:
            return True
        second = await connector.connect()
        try:
            own = await server_of(first)
            for _ in range(_LOOKS):
                await second.execute("BEGIN")
                if await server_of(second) == own or await server_of(first) != own:
                    return False
                await second.execute("COMMIT")
            return True
        finally:
            second.terminate()
    finally:
        first.terminate()
