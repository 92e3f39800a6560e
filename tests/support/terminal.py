"""A terminal that a command writes to."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.support.patience import SECONDS


class Terminal:
    """What has been written to a terminal of that size; `end` is for the process to write to."""

    def __init__(self, columns: int, lines: int) -> None:
        self._own, self.end = pty.openpty()
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._written = b""
        self._has_written = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._own, self._read)

    def _read(self) -> None:
        self._written += os.read(self._own, 65536)
        self._has_written.set()

    @property
    def raw(self) -> str:
        """All of it, with its escape sequences."""
        return self._written.decode("utf-8", "replace").replace("\r\n", "\n")

    @property
    def text(self) -> str:
        """All of it: of what was drawn again and again each drawing."""
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", self.raw)

    async def until(self, words: str) -> None:
        """Returns when these words have been written, wherever lines ended."""
        await self._until(lambda: words in " ".join(self.text.split()))

    async def until_drawn_again(self) -> None:
        """Returns when the cursor has gone up, over what was drawn before."""
        await self._until(lambda: "\x1b[1A" in self.raw)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not is_so():
                self._has_written.clear()
                await self._has_written.wait()

    def close(self) -> None:
        """Closes both ends."""
        asyncio.get_running_loop().remove_reader(self._own)
        os.close(self._own)
        os.close(self.end)


@asynccontextmanager
async def terminal(columns: int = 80, lines: int = 24) -> AsyncIterator[Terminal]:
    """A terminal of that size."""
    opened = Terminal(columns, lines)
    try:
        yield opened
    finally:
        opened.close()
