"""How long to wait for a database that may be gone, or only far away."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from runengine_server.database.connecting import Connection

# How often it is seen whether something moves. Twice within the shortest limit, of 1.5 s, at the least.
_PAUSE_SECONDS = 0.5

# Where linux/tcp.h has tcpi_bytes_acked and tcpi_bytes_received in struct tcp_info.
_BYTES_OF_TCP = struct.Struct("=120xQQ")


def moved(connection: Connection) -> tuple[int, ...]:
    """How much has come and gone on a connection: it differs as long as something does."""
    # asyncpg shows its transport to nobody.
    transport: Any = connection
    transport = transport._transport
    found = [int(transport.get_write_buffer_size())]
    sock = transport.get_extra_info("socket")
    with suppress(OSError, AttributeError, struct.error):  # where the platform does not tell
        if sock.family == socket.AF_UNIX:
            left = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
            found += struct.unpack("=i", left)
        else:
            told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_OF_TCP.size)
            found += _BYTES_OF_TCP.unpack(told)
    return tuple(found)


class Patience:
    """Puts off the ends of time limits for as long as bytes come or go on their connections: a large state on
    a slow link is no sign of a database that is away.

    One timer for all of a process, since a timer for each call costs 7 µs.
    """

    def __init__(self) -> None:
        self._waits: dict[asyncio.Timeout, _Wait] = {}
        self._is_looking = False

    def begin(self, limit: asyncio.Timeout, seconds: float, connection: Connection) -> None:
        """`seconds` are those of the limit, and how long nothing may move."""
        self._waits[limit] = _Wait(seconds, connection)
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._look)

    def end(self, limit: asyncio.Timeout) -> None:
        """The wait is over."""
        del self._waits[limit]

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for limit, wait in self._waits.items():
            if limit.expired() or wait.connection.is_closed():
                continue
            before, wait.moved = wait.moved, moved(wait.connection)
            if before is not None and wait.moved != before:
                limit.reschedule(loop.time() + wait.seconds)
        self._is_looking = bool(self._waits)
        if self._is_looking:
            loop.call_later(_PAUSE_SECONDS, self._look)


@dataclass(slots=True)
class _Wait:
    seconds: float
    connection: Connection
    moved: tuple[int, ...] | None = None
