"""Clocks that a test sets."""

from __future__ import annotations

import time


class Clock:
    """Stands for the module `time`."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


class StandingClock:
    """Stands still until it is told otherwise."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
