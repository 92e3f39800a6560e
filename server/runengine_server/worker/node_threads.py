"""The threads on which a worker executes sync nodes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import structlog
from langchain_core.runnables.config import var_child_runnable_config

from runengine_server.worker.graph.execution import ExecutionStopped
from runengine_server.worker.graph.log_fields import (
    CONFIG_OF_NODE,
    execution_of,
    fields_of_config,
    task_of,
)
from runengine_server.worker.graph.time_limit import clock_of_node

# How many threads may be abandoned at once: each keeps its stack and whatever its node holds.
MAX_ABANDONED = 64

_log = structlog.get_logger()


class NodeThreads(ThreadPoolExecutor):
    """Executes up to `limit` calls at once, on daemon threads, which keep no process alive.

    A call that is cancelled while it executes cannot be stopped. Its thread is abandoned: logged with its
    run, counted in `abandoned`, and replaced, so that the limit still allows as many calls. Once more than
    `max_abandoned` are, `on_too_many` is called: only a new process is rid of them.

    It is a ThreadPoolExecutor only because asyncio demands that of a default executor.
    """

    def __init__(
        self, limit: int, on_too_many: Callable[[], object], max_abandoned: int = MAX_ABANDONED
    ) -> None:
        super().__init__(1)
        self._limit = limit
        self._max_abandoned = max_abandoned
        self._on_too_many = on_too_many
        self._changed = threading.Condition()
        self._calls: deque[_Call] = deque()
        self._count = self._idle = self.abandoned = 0

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread."""
        return len(self._calls)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Executes it as soon as one of `limit` threads is free."""
        call = _Call(partial(fn, *args, **kwargs), self.abandon)
        with self._changed:
            self._calls.append(call)
            self._provide_thread()
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Waits for nothing: a node may never end."""

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
                is_abandoned = call.is_abandoned
                self.abandoned -= is_abandoned
            if is_abandoned:
                call.log_late_end()
                return
            del call

    def abandon(self, call: _Call) -> None:
        """Gives the place of a call that cannot be stopped to another thread."""
        with self._changed:
            if call.done() or call.is_abandoned:
                return
            call.become_abandoned()
            self.abandoned += 1
            abandoned = self.abandoned
            self._count -= 1
            if self._calls:
                self._provide_thread()
        _log.warning(
            "a sync node was stopped, and its thread goes on", **call.log_fields, abandoned=abandoned
        )
        if abandoned > self._max_abandoned:
            self._on_too_many()


class _Call(Future[Any]):
    """A call, and the execution of a run that it is for."""

    def __init__(self, function: Callable[[], Any], on_abandoned: Callable[[_Call], None]) -> None:
        super().__init__()
        self._function: Callable[[], Any] | None = function
        self._on_abandoned = on_abandoned
        self.is_abandoned = False
        self._config, self._config_of_node = var_child_runnable_config.get(), CONFIG_OF_NODE.get()
        self._execution = execution_of(self._config)
        self.log_fields: dict[str, object] = {}
        self._abandoned_at = 0.0
        if (clock := clock_of_node()) is not None:
            clock.stop()  # until there is a thread for it
        self._clock = clock

    def become_abandoned(self) -> None:
        """It goes on although it was cancelled. `log_fields` says what it is for."""
        self.is_abandoned, self._abandoned_at = True, time.monotonic()
        self.log_fields = fields_of_config(self._config) or fields_of_config(self._config_of_node)
        if self._clock is not None:
            self._clock.leave_thread()
        if (execution := execution_of(self._config_of_node)) is not None:
            execution.leave_thread(task_of(self._config_of_node))

    def log_late_end(self) -> None:
        """It has ended, abandoned."""
        error = self.exception()
        _log.info(
            "the thread of a sync node that was stopped has ended",
            **self.log_fields,
            seconds=round(time.monotonic() - self._abandoned_at, 1),
            error=None if error is None else type(error).__name__,
        )

    def cancel(self) -> bool:
        """As that of any Future: a call that is being executed goes on, abandoned."""
        cancelled = super().cancel()
        if not cancelled:
            self._on_abandoned(self)
        return cancelled

    def execute(self) -> None:
        if self._clock is not None:
            self._clock.resume()
        if not self.set_running_or_notify_cancel():
            return
        function, self._function = self._function, None
        assert function is not None
        try:
            # It may have waited for its thread until its run was another worker's.
            if self._execution is not None and not self._execution.holds_lease():
                raise ExecutionStopped
            result = function()
        except BaseException as error:
            self.set_exception(error)
        else:
            self.set_result(result)
