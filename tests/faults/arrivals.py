"""Where an execution has arrived in a process under test, told to the test, which lets it go on or not.

As tests/support/gates.py, but of many processes at once: an arrival says its place, its process and its run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from tests.support.gates import Listening
from tests.support.patience import SECONDS as SECONDS


@dataclass(eq=False)
class Arrival:
    """One execution that has arrived and waits. `left` is set when it has gone, or its process died."""

    place: str
    pid: int
    run_id: str
    _writer: asyncio.StreamWriter
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def let_go(self, word: str = "go") -> None:
        """Lets it go on; `word` is what it is answered."""
        if not self._writer.is_closing():
            self._writer.write(word.encode() + b"\n")

    async def gone(self) -> None:
        """Returns when it has left the place, or its process is dead."""
        async with asyncio.timeout(SECONDS):
            await self.left.wait()


class Arrivals(Listening):
    """What a test listens with; its `path` goes to the processes. `all` has what waits there now."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Arrival] = []
        self._changed = asyncio.Condition()

    async def _arrive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrival: Arrival | None = None
        try:
            place, pid, run_id = (await reader.readline()).decode().split()
            arrival = Arrival(place, int(pid), run_id, writer)
            await self._change(lambda: self.all.append(arrival))
            with contextlib.suppress(OSError):
                await reader.read()
        finally:
            if arrival is not None:
                arrival.left.set()
                await self._change(lambda: self.all.remove(arrival))
            writer.close()

    async def _change(self, change: Callable[[], object]) -> None:
        async with self._changed:
            change()
            self._changed.notify_all()

    async def until(
        self, found: Callable[[Arrival], bool], count: int = 1, seconds: float = SECONDS
    ) -> list[Arrival]:
        """The first `count` that are there and found, as soon as there are so many."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                while len(there := [each for each in self.all if found(each)]) < count:
                    await self._changed.wait()
                return there[:count]
        except TimeoutError:
            there = [each for each in self.all if not each.left.is_set()]
            waiting = [f"{each.place} of {each.run_id} in {each.pid}" for each in there]
            raise TimeoutError(f"Nobody has arrived; there are {waiting}.") from None

    async def at(self, place: str, run_id: str, pid: int | None = None, seconds: float = SECONDS) -> Arrival:
        """The execution of that run at that place, in that process where one is named."""
        (arrival,) = await self.until(
            lambda each: (each.place, each.run_id) == (place, run_id) and pid in (None, each.pid),
            seconds=seconds,
        )
        return arrival


@contextlib.asynccontextmanager
async def arrive(path: str, place: str, run_id: str) -> AsyncIterator[str]:
    """What a process does: arrives, waits for its word, and leaves at the end of the block."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(f"{place} {os.getpid()} {run_id}\n".encode())
        yield (await reader.readline()).decode().strip()
    finally:
        writer.close()


def arrive_on_thread(path: str, place: str, run_id: str) -> str:
    """The same for a thread; leaves at once."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(f"{place} {os.getpid()} {run_id}\n".encode())
        with connection.makefile() as words:
            return words.readline().strip()
