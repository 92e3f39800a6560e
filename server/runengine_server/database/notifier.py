"""Tells workers what was committed, after the commit and on a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import islice

import asyncpg
import structlog

# Between two notifications. What comes in between goes out together: at 1,800 triggers/s a hundred
# notifications a second cost 1 % of a core, and one for each trigger 15 %.
_TICK_SECONDS = 0.01

# How long one notification may take, with the connection that it may need first.
_SECONDS = 5.0

# After each failure; the first is none, as it may be of a connection that was lost while nobody used it.
_PAUSES = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)

# How long a process that ends waits until what it has to say has been said.
_CLOSE_SECONDS = 0.5

# How many different ones may wait; 1,000 cancels in one statement are 90 kB.
_MOST_WAITING = 1000

# A queue of notifications that was full stays so, whoever has read it since, until a session asks this.
_ADVANCE_TAIL = "SELECT pg_catalog.pg_notification_queue_usage()"

_log = structlog.get_logger()


class Notifier:
    """Sends notifications, which are hints: a poll, and the next heartbeat, find what they do not tell.

    In the transaction that they tell of, NOTIFY would hold one lock of the whole server until the commit is
    on the disk, and a full queue of notifications would fail the commit. Here neither a call nor what it
    has stored depends on them. The first is sent at once; those that come while it is under way, and in
    the tick after it, go out in one statement, each once.

    The connection is opened with the first notification. What cannot be sent is tried again with growing
    pauses, and dropped when a thousand wait. The session has no state, and its statements no names, so it may
    be one of a pooler's.
    """

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self._connection: asyncpg.Connection | None = None
        self._waiting: dict[tuple[str, str], None] = {}
        self._sending: asyncio.Task[None] | None = None
        self._closed = False

    def notify(self, channel: str, payload: str = "") -> None:
        """Sends it soon, in the background. Whatever it tells of is committed."""
        if self._closed:
            return
        if len(self._waiting) < _MOST_WAITING:
            self._waiting[channel, payload] = None
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_what_waits(), name="notifier")

    async def close(self) -> None:
        """Waits, for half a second at most, until nothing waits, and closes the connection."""
        self._closed = True
        if self._sending is not None:
            await asyncio.wait({self._sending}, timeout=_CLOSE_SECONDS)
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        self._disconnect()

    async def _send_what_waits(self) -> None:
        failures = 0
        while self._waiting:
            # What is told from now on may be of a later commit, and is sent after this.
            batch, self._waiting = self._waiting, {}
            try:
                await self._send(batch)
            except Exception as error:
                self._disconnect()
                self._waiting = dict(islice((batch | self._waiting).items(), _MOST_WAITING))
                if failures == 1:
                    _log.warning(
                        "notifications cannot be sent: polls and heartbeats do without",
                        error=type(error).__name__,
                    )
                await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
                failures += 1
            else:
                if failures > 1:
                    _log.info("notifications are sent again")
                failures = 0
                await asyncio.sleep(_TICK_SECONDS)

    async def _send(self, batch: dict[tuple[str, str], None]) -> None:
        async with asyncio.timeout(_SECONDS):
            if self._connection is None:
                self._connection = await self._connect()
                await self._connection.execute(_ADVANCE_TAIL)
            # One simple query, and so one transaction.
            await self._connection.execute("; ".join(notification(*each) for each in batch))

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def notification(channel: str, payload: str) -> str:
    """The statement that sends it, without a parameter."""
    quoted = payload.replace("'", "''")
    return f"NOTIFY {channel}, '{quoted}'"
