"""The time limit of a node, which counts from when it has what it needs to begin."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent import futures
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph._internal._constants import CONFIG_KEY_SEND
from langgraph.errors import NodeTimeoutError

from runengine_server.worker.graph.failures import contained
from runengine_server.worker.graph.steps import is_part_of_another

# What the error of a step says whose thread was abandoned.
MAY_STILL_RUN = "its thread cannot be stopped, and may still be running"

_SETTLE_SECONDS = 0.05


class NodeClock:
    """How long a node has taken, without the time it waited for a thread. Any thread may call it."""

    def __init__(self, outer: NodeClock | None) -> None:
        """`outer` is the clock of the node whose graph the node is in, which waits with it."""
        self._outer = outer
        self._lock = threading.Lock()
        self._stopped = 0
        self._since = time.monotonic()
        self._counted = 0.0
        self.has_left_thread = False

    def leave_thread(self) -> None:
        """A thread that works for the node was abandoned."""
        self.has_left_thread = True
        if self._outer is not None:
            self._outer.leave_thread()

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
        """As ainvoke, for a graph that a sync node or a tool calls. The node is on a thread of its own,
        because all of the worker's may wait for such nodes; it is abandoned when its time is over.
        """
        assert config is not None
        if is_part_of_another(config):
            return self.bound.invoke(input, config, **kwargs)
        abandoned = threading.Event()
        clock = NodeClock(_clock.get())
        work: futures.Future[Any] = futures.Future()

        def execute() -> None:
            _clock.set(clock)
            try:
                work.set_result(self.bound.invoke(input, _until(abandoned, config), **kwargs))
            except BaseException as error:
                work.set_exception(error)

        threading.Thread(target=copy_context().run, args=(execute,), name="limited", daemon=True).start()
        left = self.seconds
        while left > 0:
            if futures.wait({work}, left).done:
                return work.result()
            left = self.seconds - clock.seconds()
        abandoned.set()
        error = self._timed_out(clock)
        error.add_note(MAY_STILL_RUN)
        raise error

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """What `bound` returns. Where it ignores that it is cancelled it is abandoned, and writes nothing."""
        assert config is not None
        abandoned = threading.Event()
        clock = NodeClock(_clock.get())
        before = _clock.set(clock)
        work = asyncio.ensure_future(
            contained(self.bound.ainvoke(input, _until(abandoned, config), **kwargs))
        )
        _clock.reset(before)
        try:
            left = self.seconds
            while left > 0:
                done, _ = await asyncio.wait({work}, timeout=left)
                if done:
                    return work.result()
                left = self.seconds - clock.seconds()
        except asyncio.CancelledError:
            abandoned.set()
            _abandon(work)
            raise
        abandoned.set()
        error = self._timed_out(clock)
        _abandon(work)
        # Once it has ended, the threads are known that work for it and cannot be stopped.
        await asyncio.wait({work}, timeout=_SETTLE_SECONDS)
        if clock.has_left_thread:
            error.add_note(MAY_STILL_RUN)
        raise error

    def _timed_out(self, clock: NodeClock) -> NodeTimeoutError:
        return NodeTimeoutError(str(self.name), clock.seconds(), kind="run", run_timeout=self.seconds)


def _until(abandoned: threading.Event, config: RunnableConfig) -> RunnableConfig:
    """The config of a node that writes nothing any more once it is abandoned."""
    send = config["configurable"][CONFIG_KEY_SEND]

    def send_in_time(writes: Sequence[tuple[str, Any]]) -> None:
        if not abandoned.is_set():
            send(writes)

    return {**config, "configurable": {**config["configurable"], CONFIG_KEY_SEND: send_in_time}}


def _abandon(work: asyncio.Future[Any]) -> None:
    def forget(done: asyncio.Future[Any]) -> None:
        with suppress(BaseException):
            done.result()

    work.cancel()
    work.add_done_callback(forget)
