"""Looks the names of hosts up, on threads that keep no process from ending."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress


class NameLookup:
    """A lookup may hang for half a minute and cannot be cancelled. A process waits at its end for the threads
    of an executor, and not for daemons, which these are. At most so many are at it.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._places = asyncio.Semaphore(threads)

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Those of the host, each once; none where it has none. The thread goes on when this is cancelled."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[str]] = loop.create_future()

        def end(addresses: Sequence[str], error: Exception | None) -> None:
            self._places.release()
            if found.done():
                return
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)

        def look_up() -> None:
            addresses: Sequence[str] = ()
            unexpected = None
            try:
                entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
            except (socket.gaierror, UnicodeError):
                pass
            except Exception as error:
                unexpected = error
            with suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(end, addresses, unexpected)

        try:
            threading.Thread(target=look_up, name=self._name, daemon=True).start()
        except RuntimeError:
            self._places.release()
            raise
        return await found
