"""Time limits that no slow machine decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support import time_limits


@pytest.fixture
def limits_begin_in_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    time_limits.begin_in_the_node(monkeypatch)


@pytest.fixture
async def no_thread_is_kept() -> AsyncIterator[None]:
    """The thread of time_limits.DEAF ends with the test."""
    time_limits.DEAF.let_go.clear()
    time_limits.DEAF.loop = asyncio.get_running_loop()
    yield
    time_limits.DEAF.let_go.set()
