"""The time limit of a node, which counts from when it has what it needs to begin."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph._internal._constants import CONFIG_KEY_SEND
from langgraph.errors import NodeTimeoutError


class NodeClock:
    """How long a node has taken, without the time it waited for a thread. Any thread may call it."""

    def __init__(self, outer: NodeClock | None) -> None:
        """`outer` is the clock of the node whose graph the node is in, which waits with it."""
        self._outer = outer
        self._lock = threading.Lock()
        self._stopped = 0
        self._since = time.monotonic()
        self._counted = 0.0

    def stop(self) -> None:
        """Does not count until `resume` was called as often as this."""
        with self._lock:
            if self._stopped == 0:
                self._counted += time.monotonic() - self._since
            self._stopped += 1
        if self._outer is not None:
            self._outer.stop()

    def resume(self) -> None:
        """Counts again, see `stop`."""
        with self._lock:
            self._stopped -= 1
            if self._stopped == 0:
                self._since = time.monotonic()
        if self._outer is not None:
            self._outer.resume()

    def seconds(self) -> float:
        """What it has counted so far."""
        with self._lock:
            return self._counted + (0.0 if self._stopped else time.monotonic() - self._since)


_clock: ContextVar[NodeClock | None] = ContextVar("clock of the node", default=None)


def clock_of_node() -> NodeClock | None:
    """The clock of the node that is being executed; None where it has no time limit."""
    return _clock.get()


class TimeLimit(Runnable[Any, Any]):
    """Executes `bound` for at most `seconds`, then cancels it and raises NodeTimeoutError, as LangGraph does
    for nodes with a timeout. LangGraph gives none to sync nodes and error handlers (langgraph 1.2.22,
    `prepare_node_error_handler_task`; its issue 8843), and counts from when a node is due, while a sync node
    may have to wait for its thread until its time is over.
    """

    def __init__(self, name: str, bound: Runnable[Any, Any], seconds: float) -> None:
        self.name = name
        self.bound = bound
        self.seconds = seconds

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """What `bound` returns. A node on a thread cannot be stopped: the limit of the node that has called
        its graph holds.
        """
        return self.bound.invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """What `bound` returns. Where it ignores that it is cancelled it is abandoned, and writes nothing."""
        assert config is not None
        is_abandoned = False
        send = config["configurable"][CONFIG_KEY_SEND]

        def send_in_time(writes: Sequence[tuple[str, Any]]) -> None:
            if not is_abandoned:
                send(writes)

        config = {**config, "configurable": {**config["configurable"], CONFIG_KEY_SEND: send_in_time}}
        clock = NodeClock(_clock.get())
        before = _clock.set(clock)
        work = asyncio.ensure_future(self.bound.ainvoke(input, config, **kwargs))
        _clock.reset(before)
        try:
            left = self.seconds
            while left > 0:
                done, _ = await asyncio.wait({work}, timeout=left)
                if done:
                    return work.result()
                left = self.seconds - clock.seconds()
        except asyncio.CancelledError:
            is_abandoned = True
            _abandon(work)
            raise
        is_abandoned = True
        _abandon(work)
        raise NodeTimeoutError(str(self.name), clock.seconds(), kind="run", run_timeout=self.seconds)


def _abandon(work: asyncio.Future[Any]) -> None:
    def forget(done: asyncio.Future[Any]) -> None:
        with suppress(BaseException):
            done.result()

    work.cancel()
    work.add_done_callback(forget)
