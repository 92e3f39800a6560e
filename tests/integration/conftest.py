"""An engine of one node, a proxy of the database, and pauses and limits that no slow machine decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.faults.proxy import Proxy
from tests.support import time_limits
from tests.support.own_worker import Engine, Ran, chain, serving


@pytest.fixture
def limits_begin_in_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    time_limits.begin_in_the_node(monkeypatch)


@pytest.fixture
async def no_thread_is_kept() -> AsyncIterator[None]:
    """The thread of time_limits.DEAF ends with the test."""
    time_limits.DEAF.let_go.clear()
    time_limits.DEAF.entered.clear()
    time_limits.DEAF.loop = asyncio.get_running_loop()
    yield
    time_limits.DEAF.let_go.set()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runengine_server.worker.worker.POLL_SECONDS", 0.05)
    monkeypatch.setattr("runengine_server.worker.worker.STOP_SECONDS", 0.2)
    monkeypatch.setattr("runengine_server.repositories.queue_repository.HAND_BACK_PAUSE_SECONDS", 0.001)


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        yield engine
