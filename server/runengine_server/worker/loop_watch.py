"""Sees from another thread whether an event loop is blocked."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from types import FrameType

# How often it is checked.
CHECK_SECONDS = 0.25

# A signal that interrupts a system call where it has a handler, and is ignored where it has none.
INTERRUPTING = signal.SIGURG


class LoopWatch:
    """Watches the event loop in which it is created. `check` is called every CHECK_SECONDS."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._is_asked = False
        self._blocked_seconds = 0.0
        self._checked_at = time.monotonic()

    def check(self) -> float:
        """For how many seconds the loop has been blocked.

        Only time in which this was called counts: in a process that was suspended as a whole, by SIGSTOP or
        with its machine, the loop does not move either, and no node is at fault.
        """
        now = time.monotonic()
        self._blocked_seconds += min(now - self._checked_at, 2 * CHECK_SECONDS)
        self._checked_at = now
        if not self._is_asked:
            self._is_asked, self._blocked_seconds = True, 0.0
            try:
                self._loop.call_soon_threadsafe(self._moved)
            except RuntimeError:  # closed: the process is ending
                self._is_asked = False
        return self._blocked_seconds

    def _moved(self) -> None:
        self._is_asked = False

    def interrupt(self) -> None:
        """Interrupts the system call that the loop's thread is in, so that Python executes the handlers of
        signals that have come. It does so in this thread alone, between two steps of a program: a signal that
        comes right before a system call, or that the kernel gives to another thread, would wait until the
        call returns.
        """
        signal.pthread_kill(self._thread, INTERRUPTING)

    def frame(self) -> FrameType | None:
        """What the thread of the loop executes now."""
        return sys._current_frames().get(self._thread)
