"""Lets a test hold a node of a running graph and let it go, by events and not by time."""

from __future__ import annotations

import asyncio
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

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


class Listening(ABC):
    """A Unix socket at `path`, on which whoever arrives is received while the block runs."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="gates-")
        self.path = str(Path(self._directory.name) / "socket")

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._arrive, self.path, backlog=1024)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._directory.cleanup()

    @abstractmethod
    async def _arrive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...


class Gates(Listening):
    """What a test listens with; its `path` goes to the node in its payload."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived: asyncio.Queue[Gate] = asyncio.Queue()

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
