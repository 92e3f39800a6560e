"""Notifies workers of what was committed, after the commit and on a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import islice

import asyncpg
import structlog

from runengine_server.database.pace import Pace

# How many statements a second there are where notifications come without end, and how many may come at once
# before. Those that come meanwhile are sent together: at 1,800 triggers/s a hundred statements a second cost
# 1 % of a core, and one for each trigger 15 %. The steps of a run, within milliseconds, are no such load.
_STATEMENTS_PER_SECOND = 100.0
_BURST = 20.0

# How long one statement may take, with the connection that may have to be opened first.
_SECONDS = 5.0

# The pauses after failures. There is none after the first, which may be of a connection lost while it was
# idle.
_RETRY_PAUSES = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)

# How long a process that ends waits until its notifications are sent.
_CLOSE_SECONDS = 0.5

# How many different notifications may wait; 1,000 cancels in one statement are 90 kB.
_MAX_WAITING = 1000

# A notification queue that was full stays full, although it has been read since, until a session calls this.
ADVANCE_QUEUE_TAIL = "SELECT pg_catalog.pg_notification_queue_usage()"

_log = structlog.get_logger()


class Notifier:
    """Sends notifications, which are hints: polls and heartbeats find what a lost one would have told.

    In the transaction that it is about, NOTIFY would hold one lock of the whole server until the commit is on
    the disk, and a full notification queue would fail the commit. Sent afterwards, they cannot delay or fail
    a call. The first is sent at once. Those that come while it is being sent are sent by one statement,
    duplicates once, and after twenty statements in a row those of 10 ms.

    The connection is opened with the first notification. What cannot be sent is tried again with growing
    pauses, and dropped when a thousand wait. The session has no state, and its statements have no names, so
    it may be one of a pooler's. `sent` is how many were sent.
    """

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self._connection: asyncpg.Connection | None = None
        self._waiting: dict[tuple[str, str], None] = {}
        self._sending: asyncio.Task[None] | None = None
        self._closed = False
        self.sent = 0
        self._pace = Pace(_BURST, _STATEMENTS_PER_SECOND)

    def notify(self, channel: str, payload: str = "") -> None:
        """Sends a notification soon, in the background. Call it after the commit that the notification is
        about.
        """
        if self._closed:
            return
        if len(self._waiting) < _MAX_WAITING:
            self._waiting[channel, payload] = None
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_waiting(), name="notifier")

    async def close(self) -> None:
        """Waits half a second at most for the notifications that wait, and closes the connection."""
        self._closed = True
        if self._sending is not None:
            await asyncio.wait({self._sending}, timeout=_CLOSE_SECONDS)
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        self._disconnect()

    async def _send_waiting(self) -> None:
        failures = 0
        while self._waiting:
            await self._pace.wait()
            # A notification from now on may be about a later commit, so it is sent after this batch.
            batch, self._waiting = self._waiting, {}
            try:
                await self.send(batch)
            except Exception as error:
                self._disconnect()
                self._waiting = dict(islice((batch | self._waiting).items(), _MAX_WAITING))
                if failures == 1:
                    _log.warning(
                        "notifications cannot be sent: polls and heartbeats do without",
                        error=type(error).__name__,
                    )
                await asyncio.sleep(_RETRY_PAUSES[min(failures, len(_RETRY_PAUSES) - 1)])
                failures += 1
            else:
                if failures > 1:
                    _log.info("notifications are sent again")
                failures = 0
                self.sent += len(batch)

    async def send(self, batch: dict[tuple[str, str], None]) -> None:
        """Sends (channel, payload) of each. Raises as the driver does, and TimeoutError."""
        async with asyncio.timeout(_SECONDS):
            if self._connection is None:
                self._connection = await self._connect()
                await self._connection.execute(ADVANCE_QUEUE_TAIL)
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
