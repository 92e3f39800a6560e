"""Nodes that run into a time limit, and limits that begin there: on a slow machine they would end before."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any

import pytest
from langgraph.pregel import _retry
from runengine_server.worker import processor
from runengine_server.worker.graph import time_limit

from tests.support.own_worker import State
from tests.support.patience import SECONDS

# Set by a node that is to run into its limit.
ENTERED = asyncio.Event()


async def forever(state: State) -> State:
    """For so much longer than any limit here that it says so when there was none."""
    ENTERED.set()
    await asyncio.sleep(SECONDS / 2)
    raise AssertionError("nothing has stopped it")


class Deaf:
    """A sync node that ends with the test alone."""

    def __init__(self) -> None:
        self.let_go, self.entered = threading.Event(), threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    def node(self, state: State) -> State:
        assert self.loop is not None
        self.loop.call_soon_threadsafe(ENTERED.set)
        self.entered.set()
        self.let_go.wait(SECONDS)
        return {"seen": ["deaf"]}


DEAF = Deaf()


class _WaitsForNode:
    """Stands for the module `asyncio` where the limit of a run, or of a node, is waited for."""

    def __init__(self, of_node: bool) -> None:
        self._of_node = of_node

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def wait(self, tasks: Any, **options: Any) -> Any:
        entered = asyncio.ensure_future(ENTERED.wait())
        try:
            await asyncio.wait({*tasks, entered}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            entered.cancel()
        if self._of_node:
            ENTERED.clear()
        return await asyncio.wait(tasks, **options)


class _WaitsForDeafNode:
    """Stands for the module `concurrent.futures` where the limit of a node on a thread is waited for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(concurrent.futures, name)

    def wait(self, works: Any, timeout: float) -> Any:
        while not DEAF.entered.wait(0.01) and not all(work.done() for work in works):
            pass
        return concurrent.futures.wait(works, timeout)


def begin_in_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """All limits wait for a node to set ENTERED."""
    watchdog = _retry._run_timeout_watchdog

    async def after_entering(seconds: float) -> None:
        await ENTERED.wait()
        ENTERED.clear()
        await watchdog(seconds)

    ENTERED.clear()
    monkeypatch.setattr(_retry, "_run_timeout_watchdog", after_entering)
    monkeypatch.setattr(time_limit, "asyncio", _WaitsForNode(of_node=True))
    monkeypatch.setattr(time_limit, "futures", _WaitsForDeafNode())
    monkeypatch.setattr(processor, "asyncio", _WaitsForNode(of_node=False))


in_the_node = pytest.mark.usefixtures("limits_begin_in_the_node")
