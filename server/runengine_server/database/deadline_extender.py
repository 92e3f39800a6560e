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
    """Moves the deadlines of calls on for as long as data moves on their connections: a large state on a slow
    link does not mean that the database is away.

    One timer serves the whole process, since a timer for each call costs 7 µs.
    """

    def __init__(self) -> None:
        self._watched: dict[asyncio.Timeout, _Watched] = {}
        self._is_scheduled = False

    def begin(self, deadline: asyncio.Timeout, seconds: float, connection: Connection) -> None:
        """From now on the deadline is `seconds` after data has moved last."""
        self._watched[deadline] = _Watched(seconds, connection)
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_later(CHECK_SECONDS, self.extend_moving)

    def end(self, deadline: asyncio.Timeout) -> None:
        """The call has ended."""
        del self._watched[deadline]

    def extend_moving(self) -> None:
        """Moves the deadlines of those connections on that have moved data since the last time."""
        loop = asyncio.get_running_loop()
        for deadline, watched in self._watched.items():
            if deadline.expired() or watched.connection.is_closed():
                continue
            before, watched.counters = watched.counters, transfer_counters(watched.connection)
            if before is not None and watched.counters != before:
                deadline.reschedule(loop.time() + watched.seconds)
        self._is_scheduled = bool(self._watched)
        if self._is_scheduled:
            loop.call_later(CHECK_SECONDS, self.extend_moving)


@dataclass(slots=True)
class _Watched:
    seconds: float
    connection: Connection
    counters: tuple[int, ...] | None = None
