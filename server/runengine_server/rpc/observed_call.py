"""A call as metrics and traces see it, from the first look at it to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextvars import ContextVar

import grpc

from runengine_server.metrics import CALL_SECONDS, CALLS
from runengine_server.tracing import begin_call, end_call

_call: ContextVar[ObservedCall] = ContextVar("observed_call")


class ObservedCall:
    """It ends with the task in which its handler runs, with the code that note_code was given there."""

    def __init__(self, method: str, is_stream: bool, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """In the task of its handler, which it makes that of its span."""
        self._method = method.rpartition("/")[2]
        self._is_stream = is_stream
        self._span = begin_call(method, metadata)
        self._began = time.perf_counter()
        self.code = grpc.StatusCode.OK

    def begin(self) -> None:
        """Observes the call of the current task."""
        task = asyncio.current_task()
        assert task is not None
        _call.set(self)
        task.add_done_callback(self._end)

    def _end(self, _task: asyncio.Task[object]) -> None:
        CALLS.labels(self._method, self.code.name).inc()
        if not self._is_stream:
            CALL_SECONDS.labels(self._method).observe(time.perf_counter() - self._began)
        end_call(self._span, self.code.name, self.code.value[0])


def note_code(code: grpc.StatusCode) -> None:
    """The call of the current task ends with that code, and not with OK."""
    if (call := _call.get(None)) is not None:
        call.code = code
