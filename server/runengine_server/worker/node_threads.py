"""The threads on which a worker executes sync nodes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import structlog
from langchain_core.runnables.config import var_child_runnable_config

from runengine_server.worker.graph.recorded_node import Lost
from runengine_server.worker.graph.time_limit import clock_of_node
from runengine_server.worker.graph.whereabouts import execution_of, of_config

# How many threads may be left behind at once: each keeps its stack and whatever its node holds.
MAX_LEFT = 64

_log = structlog.get_logger()


class NodeThreads(ThreadPoolExecutor):
    """Executes up to `limit` calls at once, on daemon threads, which keep no process alive.

    A call that is cancelled while it executes cannot be stopped. Its thread is left behind: logged with
    its run, counted in `left`, and replaced, so that it takes no place of another. Once more than
    `max_left` are, `overfull` is called: only a new process is rid of them.

    A ThreadPoolExecutor by name alone, which is what asyncio wants of a default executor.
    """

    def __init__(self, limit: int, overfull: Callable[[], object], max_left: int = MAX_LEFT) -> None:
        super().__init__(1)
        self._limit = limit
        self._max_left = max_left
        self._overfull = overfull
        self._changed = threading.Condition()
        self._calls: deque[_Call] = deque()
        self._count = self._idle = self.left = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Executes it as soon as one of `limit` threads is free."""
        call = _Call(partial(fn, *args, **kwargs), self._leave)
        with self._changed:
            self._calls.append(call)
            self._provide_thread()
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Waits for nothing: see `left`."""

    def _provide_thread(self) -> None:
        if self._idle >= len(self._calls):
            self._changed.notify()
        elif self._count < self._limit:
            self._count += 1
            threading.Thread(target=self._work, name="node", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._calls)
                self._idle -= 1
                call = self._calls.popleft()
            call.execute()
            with self._changed:
                if call.is_left:
                    self.left -= 1
                    return
            del call

    def _leave(self, call: _Call) -> None:
        with self._changed:
            if call.done() or call.is_left:
                return
            call.is_left = True
            self.left += 1
            left = self.left
            self._count -= 1
            if self._calls:
                self._provide_thread()
        _log.warning("a sync node was stopped, and its thread goes on", **call.whose, left_behind=left)
        if left > self._max_left:
            self._overfull()


class _Call(Future[Any]):
    """What a thread executes, and for which run."""

    def __init__(self, function: Callable[[], Any], leave: Callable[[_Call], None]) -> None:
        super().__init__()
        self._function: Callable[[], Any] | None = function
        self._on_leave = leave
        self.is_left = False
        config = var_child_runnable_config.get()
        self.whose = of_config(config)
        self._execution = execution_of(config)
        # Until there is a thread for it.
        if (clock := clock_of_node()) is not None:
            clock.stop()
        self._clock = clock

    def cancel(self) -> bool:
        """As of any Future: one that executes goes on."""
        cancelled = super().cancel()
        if not cancelled:
            self._on_leave(self)
        return cancelled

    def execute(self) -> None:
        if self._clock is not None:
            self._clock.go_on()
        if not self.set_running_or_notify_cancel():
            return
        function, self._function = self._function, None
        assert function is not None
        try:
            # It may have waited for its thread until its run was another worker's.
            if self._execution is not None and not self._execution.holds():
                raise Lost
            result = function()
        except BaseException as error:
            self.set_exception(error)
        else:
            self.set_result(result)
