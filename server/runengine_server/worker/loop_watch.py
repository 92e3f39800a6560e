"""Sees from another thread whether an event loop moves."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from types import FrameType

# How often it is asked.
LOOK_SECONDS = 0.25


class LoopWatch:
    """Of the event loop, and its thread, in which it is made. `look` is called every LOOK_SECONDS."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._asked = False
        self._still = 0.0
        self._looked_at = time.monotonic()

    def look(self) -> float:
        """For how many seconds the loop has not moved.

        Only time in which this was called counts: a process that was stopped as a whole, by SIGSTOP or with
        its machine, has a loop that does not move either, and that is no node's fault.
        """
        now = time.monotonic()
        self._still += min(now - self._looked_at, 2 * LOOK_SECONDS)
        self._looked_at = now
        if not self._asked:
            self._asked, self._still = True, 0.0
            try:
                self._loop.call_soon_threadsafe(self._moved)
            except RuntimeError:  # closed: the process is ending
                self._asked = False
        return self._still

    def _moved(self) -> None:
        self._asked = False

    def frame(self) -> FrameType | None:
        """What its thread is executing now."""
        return sys._current_frames().get(self._thread)
