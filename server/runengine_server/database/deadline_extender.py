"""Extends deadlines while data moves, to tell a slow link from a database that is away."""

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

# How often the counters of connections are read: at least twice within the shortest deadline, of 1.5 s.
CHECK_SECONDS = 0.5

# tcpi_bytes_acked and tcpi_bytes_received of struct tcp_info in linux/tcp.h.
_TCP_BYTE_COUNTERS = struct.Struct("=120xQQ")


def transfer_counters(connection: Connection) -> tuple[int, ...]:
    """How much was sent and received on a connection. Two results differ if data moved in between."""
    # asyncpg has no public way to its transport.
    transport: Any = connection
    transport = transport._transport
    counters = [int(transport.get_write_buffer_size())]
    sock = transport.get_extra_info("socket")
    with suppress(OSError, AttributeError, struct.error):  # where the platform has no such counter
        if sock.family == socket.AF_UNIX:
            unsent = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
            counters += struct.unpack("=i", unsent)
        else:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_BYTE_COUNTERS.size)
            counters += _TCP_BYTE_COUNTERS.unpack(info)
    return tuple(counters)


class DeadlineExtender:
    """Ends calls at their deadlines, and moves these on for as long as data moves on their connections: a
    large state on a slow link does not mean that the database is away.

    One timer serves the whole process: it looks at all calls twice a second, and gives those that will soon
    be over a timer of their own. A timer for each call costs 3 µs.
    """

    def __init__(self) -> None:
        self._watched: dict[asyncio.Timeout, _Watched] = {}
        self._is_scheduled = False

    def begin(self, deadline: asyncio.Timeout, seconds: float) -> None:
        """The deadline, which has no time yet, is from now on `seconds` from now."""
        loop = asyncio.get_running_loop()
        expires = loop.time() + seconds
        self._watched[deadline] = _Watched(seconds, expires)
        if seconds < 2 * CHECK_SECONDS:
            deadline.reschedule(expires)
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_later(CHECK_SECONDS, self._check)

    def follow(self, deadline: asyncio.Timeout, connection: Connection) -> None:
        """From now on the deadline is its seconds after data has moved last on the connection."""
        self._watched[deadline].connection = connection

    def end(self, deadline: asyncio.Timeout) -> None:
        """The call has ended."""
        del self._watched[deadline]

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        soon = loop.time() + 2 * CHECK_SECONDS
        for deadline, watched in self._watched.items():
            if deadline.expired():
                continue
            if watched.has_moved():
                watched.expires = loop.time() + watched.seconds
            if watched.expires < soon or deadline.when() is not None:
                deadline.reschedule(watched.expires)
        self._is_scheduled = bool(self._watched)
        if self._is_scheduled:
            loop.call_later(CHECK_SECONDS, self._check)


@dataclass(slots=True)
class _Watched:
    seconds: float
    expires: float
    connection: Connection | None = None
    counters: tuple[int, ...] | None = None

    def has_moved(self) -> bool:
        """Whether the connection has moved data since the last time."""
        if self.connection is None or self.connection.is_closed():
            return False
        before, self.counters = self.counters, transfer_counters(self.connection)
        return before is not None and self.counters != before
