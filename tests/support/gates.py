"""Lets a test hold a node of a running graph and let it go, by events and not by time."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from types import TracebackType

from tests.support.patience import SECONDS


class Gate:
    """One execution of a node that has arrived and waits."""

    def __init__(self, name: str, writer: asyncio.StreamWriter, left: asyncio.Event) -> None:
        self.name = name
        self.left = left
        self._writer = writer

    def open(self, word: str = "go") -> None:
        """Lets the node go on; `word` is what pass_gate answers."""
        self._writer.write(word.encode() + b"\n")


class Gates:
    """Listens on a Unix socket, whose `path` goes to the node in its payload."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="gates-")
        self.path = str(Path(self._directory.name) / "socket")
        self._arrived: asyncio.Queue[Gate] = asyncio.Queue()

    async def __aenter__(self) -> Gates:
        self._server = await asyncio.start_unix_server(self._arrive, self.path)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._directory.cleanup()

    async def _arrive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gate = Gate((await reader.readline()).decode().strip(), writer, asyncio.Event())
        await self._arrived.put(gate)
        await reader.read()
        gate.left.set()
        writer.close()

    async def next(self) -> Gate:
        """The next execution that arrives."""
        return await asyncio.wait_for(self._arrived.get(), SECONDS)


async def pass_gate(path: str, name: str) -> str:
    """What a node calls: arrives under `name`, and returns the word that opened the gate."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(name.encode() + b"\n")
        return (await reader.readline()).decode().strip()
    finally:
        writer.close()
