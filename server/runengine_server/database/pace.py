"""How often something is done that comes without end."""

from __future__ import annotations

import asyncio
import time


class Pace:
    """A token bucket: `burst` times at once, and `per_second` times a second where it goes on."""

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst, self._per_second = burst, per_second
        self._allowed, self._counted_at = burst, 0.0  # how often, at that time.monotonic()

    async def wait(self) -> None:
        """Returns when it may be done once more."""
        now = time.monotonic()
        self._allowed += (now - self._counted_at) * self._per_second
        self._allowed, self._counted_at = min(self._allowed, self._burst) - 1, now
        if self._allowed < 0:
            await asyncio.sleep(-self._allowed / self._per_second)
