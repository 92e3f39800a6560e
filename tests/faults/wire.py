"""A way between a client and a server that a network forgets: nothing passes, and neither end is told."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from types import TracebackType


class Wire:
    """Stands before `server_address` (HOST:PORT), and is reached at `address`."""

    def __init__(self, server_address: str) -> None:
        host, _, port = server_address.rpartition(":")
        self._server = host, int(port)
        self._open: dict[_Connection, asyncio.Task[None]] = {}
        self._happened = asyncio.Condition()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.connections = 0  # that were ever made
        self.given_up = 0  # forgotten connections that their clients have closed
        self.received = 0  # bytes of clients that were passed on

    async def __aenter__(self) -> Wire:
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.close()
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        host, port = self._listening.sockets[0].getsockname()
        return f"{host}:{port}"

    def forget(self) -> None:
        """What is sent on the connections that there are is lost, for ever. New ones are fine."""
        for connection in self._open:
            connection.forgotten = True

    def freeze(self) -> None:
        """Accepts new connections, and passes nothing on in either direction, also on existing ones."""
        self.flowing.clear()

    def thaw(self) -> None:
        """All that was sent meanwhile arrives."""
        self.flowing.set()

    async def until(self, condition: Callable[[Wire], bool]) -> None:
        """Returns once this is so of the counts above."""
        async with self._happened:
            await self._happened.wait_for(lambda: condition(self))

    async def note(self, *, connections: int = 0, given_up: int = 0, received: int = 0) -> None:
        """Adds to the counts."""
        async with self._happened:
            self.connections += connections
            self.given_up += given_up
            self.received += received
            self._happened.notify_all()

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        task = asyncio.create_task(connection.run(self._server))
        self._open[connection] = task
        task.add_done_callback(lambda _: self._open.pop(connection))


class _Connection:
    def __init__(self, wire: Wire, reader: StreamReader, writer: StreamWriter) -> None:
        self.forgotten = False
        self._wire = wire
        self._client = reader, writer

    async def run(self, server: tuple[str, int]) -> None:
        """Passes bytes on until either end closes."""
        await self._wire.note(connections=1)
        writers = [self._client[1]]
        pumps: list[asyncio.Task[None]] = []
        try:
            reader, writer = await asyncio.open_connection(*server)
            writers.append(writer)
            pumps = [
                asyncio.create_task(self._pump(self._client[0], writer, from_client=True)),
                asyncio.create_task(self._pump(reader, self._client[1], from_client=False)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for writer in writers:
                writer.transport.abort()
        if self.forgotten:
            await self._wire.note(given_up=1)

    async def _pump(self, reader: StreamReader, writer: StreamWriter, from_client: bool) -> None:
        while data := await reader.read(65_536):
            await self._wire.flowing.wait()
            if not self.forgotten:
                writer.write(data)
                await writer.drain()
                if from_client:
                    await self._wire.note(received=len(data))
