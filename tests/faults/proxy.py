"""Breaks the way between the product and PostgreSQL, on demand and by events."""

from __future__ import annotations

import asyncio
import tempfile
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, quote, urlsplit

_SOCKET = ".s.PGSQL.5432"

# What a client may send instead of its startup message, to be answered "N": SSL or GSS encryption.
_ENCRYPTION_REQUESTS = (80877103, 80877104)

# How PostgreSQL announces that it ends a connection that is idle, and a notice behind it.
_ENDED = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
_NOTICE = b"SNOTICE\0VNOTICE\0C00000\0Mit is ended\0\0"

# Whether a message, of a type and a body, is passed on.
_Passes = Callable[[bytes, bytes], bool]


@dataclass(frozen=True)
class _Loss:
    """A commit that is to be lost."""

    applied: bool
    sql: bytes | None
    happened: asyncio.Future[None]


class Proxy:
    """Stands between a client and PostgreSQL, and breaks what passes in the way a test asks for."""

    def __init__(self, database_url: str) -> None:
        """`database_url` is `postgresql://role@/database?host=/dir` of the real server's socket."""
        self._directory = tempfile.TemporaryDirectory(prefix="proxy-")
        parts = urlsplit(database_url)
        self.server_path = str(Path(parse_qs(parts.query)["host"][0]) / _SOCKET)
        self.url = parts._replace(query=f"host={quote(self._directory.name)}").geturl()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.muted = False
        self.delay = 0.0  # seconds, of each message
        self.dropped = 0  # notifications
        self.losses: list[_Loss] = []
        self.executed: list[str] = []  # the text of each statement
        self._refusing = False
        self._open: dict[_Connection, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_unix_server(
            self._accept, str(Path(self._directory.name) / _SOCKET), backlog=1024
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        tasks = list(self._open.values())
        self.reset()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._directory.cleanup()

    @property
    def connections(self) -> int:
        """How many are open; in a black hole, nobody learns that one was closed."""
        return len(self._open)

    def refuse(self) -> None:
        """Closes new connections at once, and resets those that there are."""
        self._refusing = True
        self.reset()

    def black_hole(self) -> None:
        """Accepts new connections, and passes nothing on in either direction, also on existing ones."""
        self.flowing.clear()

    def reset(self) -> None:
        """Cuts every existing connection abruptly. New ones are fine."""
        self._cut(self._open)

    def strand(self) -> None:
        """Existing connections are silent for ever, as when a firewall has forgotten them. New ones are
        fine, and heal() cuts the others.
        """
        for connection in self._open:
            connection.flowing = asyncio.Event()

    def announce_end(self) -> None:
        """Tells every client that PostgreSQL ends its connection, and then a notice, by which a test
        learns that this has arrived. The end itself is still on its way.
        """
        for connection in self._open:
            connection.tell(b"E", _ENDED)
            connection.tell(b"N", _NOTICE)

    def mute_notifications(self) -> None:
        """Drops what NOTIFY sends, counts it in `dropped`, and passes all else."""
        self.muted = True

    def heal(self) -> None:
        """All is normal again. What a black hole held back arrives now, as TCP would send it again;
        stranded connections are cut.
        """
        self._refusing = self.muted = False
        self.delay = 0.0
        self.flowing.set()
        self._cut(each for each in self._open if each.flowing is not self.flowing)

    def lose_commit(self, applied: bool, sql: bytes | None = None) -> asyncio.Future[None]:
        """Cuts the connection at the next COMMIT: after PostgreSQL has done it, or before it hears of it.

        With `sql`, at the COMMIT of a transaction in which a statement, or its arguments, contained
        these bytes; also at the end of such a statement that is a transaction of its own. Once only;
        done when it has happened.
        """
        loss = _Loss(applied, sql, asyncio.get_running_loop().create_future())
        self.losses.append(loss)
        return loss.happened

    def _cut(self, connections: Iterable[_Connection]) -> None:
        for connection in connections:
            connection.cut()
            self._open[connection].cancel()

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        connection = _Connection(self, reader, writer)
        task = asyncio.create_task(connection.run())
        self._open[connection] = task
        task.add_done_callback(lambda _: self._open.pop(connection))


class _Connection:
    """One connection, as the frontend/backend protocol, version 3, frames what passes through it."""

    def __init__(self, proxy: Proxy, reader: StreamReader, writer: StreamWriter) -> None:
        self._proxy = proxy
        self.flowing = proxy.flowing
        self._client = (reader, writer)
        self._writers = [writer]
        self._statements: dict[bytes, bytes] = {}
        self._in_transaction = False
        self._bound = b""  # the statement that is executed next
        self._seen = b""  # statements and arguments since the last transaction ended
        self._lost: _Loss | None = None  # applied, its answer is awaited

    def cut(self) -> None:
        """Ends both halves, with what is on its way."""
        for writer in self._writers:
            writer.transport.abort()

    def tell(self, kind: bytes, body: bytes) -> None:
        """Sends a message that is not PostgreSQL's to the client."""
        self._client[1].write(kind + (len(body) + 4).to_bytes(4, "big") + body)

    async def run(self) -> None:
        """Passes messages on until either end closes, or a fault says otherwise."""
        pumps: list[asyncio.Task[None]] = []
        try:
            startup = await self._startup()
            server = await asyncio.open_unix_connection(self._proxy.server_path)
            self._writers.append(server[1])
            server[1].write(startup)
            pumps = [
                asyncio.create_task(self._pump(self._client[0], server[1], self._from_client)),
                asyncio.create_task(self._pump(server[0], self._client[1], self._from_server)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for writer in self._writers:
                writer.close()

    async def _startup(self) -> bytes:
        """The startup message, or a CancelRequest, which looks the same and which nothing follows."""
        while True:
            size = await self._client[0].readexactly(4)
            body = await self._client[0].readexactly(int.from_bytes(size, "big") - 4)
            await self.flowing.wait()
            if int.from_bytes(body[:4], "big") not in _ENCRYPTION_REQUESTS:
                return size + body
            self._client[1].write(b"N")

    async def _pump(self, reader: StreamReader, writer: StreamWriter, passes: _Passes) -> None:
        try:
            while True:
                head = await reader.readexactly(5)
                body = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
                await self.flowing.wait()
                if self._proxy.delay:
                    await asyncio.sleep(self._proxy.delay)
                if passes(head[:1], body):
                    writer.write(head + body)
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            await self.flowing.wait()  # a black hole swallows the end of a connection as well

    def _from_client(self, kind: bytes, body: bytes) -> bool:
        commits = False
        if kind == b"P":  # Parse: name, text
            name, text, _ = body.split(b"\0", 2)
            self._statements[name] = text
        elif kind == b"B":  # Bind: portal, name of the statement, arguments
            _, name, arguments = body.split(b"\0", 2)
            self._bound = self._statements.get(name, b"")
            self._seen += self._bound + arguments
        elif kind == b"E":  # Execute
            self._proxy.executed.append(self._bound.decode())
            commits = not self._in_transaction
        elif kind == b"Q":
            self._proxy.executed.append(body.rstrip(b"\0").decode())
            self._seen += body
            commits = body.rstrip(b"\0; \n").upper().endswith(b"COMMIT")
        if not commits or self._lost:
            return True
        for loss in self._proxy.losses:
            if loss.sql in self._seen if loss.sql is not None else kind == b"Q":
                self._proxy.losses.remove(loss)
                if loss.applied:
                    self._lost = loss
                else:
                    self._lose(loss)
                return loss.applied
        return True

    def _from_server(self, kind: bytes, body: bytes) -> bool:
        if kind == b"Z":  # ReadyForQuery: idle, in a transaction, or in a failed one
            self._in_transaction = body != b"I"
            if not self._in_transaction:
                self._seen = b""
                if self._lost:
                    self._lose(self._lost)
        if kind == b"A" and self._proxy.muted:
            self._proxy.dropped += 1
            return False
        return self._lost is None

    def _lose(self, loss: _Loss) -> None:
        self.cut()
        if not loss.happened.done():
            loss.happened.set_result(None)
