"""How long to wait for a database that may be gone, or only far away."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from contextlib import suppress
from typing import Any

from runengine_server.repositories.connecting import Connection

# How often it is seen whether something moves, once a wait has been long: the last time before it is over.
_PAUSE_SECONDS = 3.0
_BEFORE_SECONDS = 0.1

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
    """Puts off the end of a time limit for as long as bytes come or go on the connection: a large state on a
    slow link is no sign of a database that is away. To be ended by `end`.
    """

    def __init__(self, limit: asyncio.Timeout, seconds: float, connection: Connection) -> None:
        """`seconds` are those of the limit, and how long nothing may move."""
        self._limit = limit
        self._seconds = seconds
        self._connection = connection
        self._pause = min(_PAUSE_SECONDS, seconds / 2)
        self._loop = asyncio.get_running_loop()
        self._moved: tuple[int, ...] | None = None
        until = limit.when()
        assert until is not None
        self._timer = self._loop.call_at(until - self._pause - _BEFORE_SECONDS, self._look)

    def end(self) -> None:
        """The wait is over."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._limit.expired() or self._connection.is_closed():
            return
        before, self._moved = self._moved, moved(self._connection)
        if before is not None and self._moved != before:
            self._limit.reschedule(self._loop.time() + self._seconds)
        self._timer = self._loop.call_later(self._pause, self._look)
