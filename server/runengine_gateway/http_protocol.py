"""Limits a connection to the gateway: time and size of a request's head, and how much is served at once.

uvicorn with httptools limits neither, nor does it end a connection whose request had its response before its
body had arrived.
"""

# ruff: noqa: D102 - the public methods are those of asyncio.Protocol and of uvicorn's class

import asyncio
import resource
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from runengine_gateway.problems import (
    Problem,
    RefusedError,
    Violation,
    head_too_large,
    invalid,
    overloaded,
    request_timeout,
)
from runengine_gateway.safe_responses import SafeResponses

# How many bytes the parser gets at once: a head is read at most so far beyond its limit.
_SLICE_BYTES = 4096


def _affordable_connections() -> int:
    """So many that file descriptors are left for everything else, and to refuse further connections."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(descriptors * 3 // 4, 4_000) if descriptors > 0 else 4_000


@dataclass(frozen=True)
class Limits:
    """The limits of one connection, and of all together."""

    head_seconds: float = 10.0  # to the end of the head, from connecting or from its first byte
    head_bytes: int = 32 * 1024  # of a head, or of anything else outside a body: trailers, chunk extensions
    head_fields: int = 100
    rest_seconds: float = 10.0  # for the rest of a body, after the response
    rest_bytes: int = 4 * 1024 * 1024
    stalled_seconds: float = 60.0  # for a caller that reads nothing of its response
    linger_seconds: float = 1.0  # for a refused caller to read its refusal
    pipelined: int = 16  # requests that wait for the response to the one before
    connections: int = field(default_factory=_affordable_connections)
    requests: int = 1_000  # under way on all connections; /healthz does not count


class BoundedHttp(HttpToolsProtocol):
    """One connection. A limit that is exceeded ends it, with a problem unless a response has begun."""

    limits: ClassVar[Limits] = Limits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._current: RequestResponseCycle | None = None
        self._head_begun = False
        self._receiving_body = False
        self._unfinished = 0  # bytes since the last complete head, piece of a body or message
        self._rest = 0  # bytes of a body since its response
        self._closing = False  # nothing more is read
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) <= self.limits.connections:
            self.set_deadline(self.limits.head_seconds)
        elif len(self.connections) <= self.limits.connections * 5 // 4:
            self._refuse(overloaded())
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        for start in range(0, len(data), _SLICE_BYTES):
            if self._closing or self.transport.is_closing():
                return
            self._feed(data[start : start + _SLICE_BYTES])
        if (self._unfinished or self._head_begun) and not self._receiving_body and not self._closing:
            self.set_deadline(self.limits.head_seconds)

    def _feed(self, part: bytes) -> None:
        self._unfinished += len(part)
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            # The request gets a plain HTTP response; the bytes after it may be of any protocol.
            self._close_after_responses()
        except httptools.HttpParserError as error:
            known = isinstance(error.__context__, RefusedError)
            self._refuse(error.__context__.problem if known else _malformed())  # type: ignore[union-attr]
        else:
            if self._unfinished > self.limits.head_bytes:
                self._refuse(head_too_large())
            elif self._rest > self.limits.rest_bytes:
                self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._receiving_body:
            return  # a trailer, which must not be taken for a header
        if len(self.headers) >= self.limits.head_fields:
            raise RefusedError(head_too_large())
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() != "1.0"):
            raise RefusedError(invalid([Violation("Host", "must be given once")]))
        super().on_headers_complete()
        self._unfinished = 0
        self._head_begun = False
        self._receiving_body = True
        self.clear_deadline()
        if len(self.pipeline) > self.limits.pipelined:
            self.pipeline.popleft()
            self._close_after_responses()

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        if self.cycle.response_complete:
            self._rest += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished = 0
        self._receiving_body = False
        super().on_message_complete()
        if self.cycle.response_complete:
            self.clear_deadline()
            self.set_deadline(self.limits.head_seconds)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._current = cycle
        if len(self.tasks) >= self.limits.requests and cycle.scope["path"] != "/healthz":
            app = _RESPOND_OVERLOADED
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._receiving_body and self.cycle.response_complete:
            self._rest = 0
            self.set_deadline(self.limits.rest_seconds)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def _watch_writing(self, unsent: int) -> None:
        self._stalled = self.loop.call_later(self.limits.stalled_seconds, self._check_writing, unsent)

    def _check_writing(self, before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent >= before:
            self.transport.abort()
        else:
            self._watch_writing(unsent)

    def set_deadline(self, seconds: float) -> None:
        """Ends the connection in `seconds`, unless an earlier deadline is set."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(seconds, self.on_deadline)

    def clear_deadline(self) -> None:
        """Lets the connection go on without a deadline."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def on_deadline(self) -> None:
        """Ends the connection: what it was waiting for has not come."""
        self._deadline = None
        if self._head_begun and not self._closing:
            self._refuse(request_timeout())
        elif self._current is not None and not self._current.response_complete:
            self._close_after_responses()
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Responds to the request that is being received with `problem`, and ends the connection.

        A request before it that is being served still gets its response, and the refused one then gets none.
        """
        current = self._current
        if current is None or current.response_complete:
            self._send_and_close(problem)
        elif not self._receiving_body or self.pipeline:
            if self._receiving_body:
                self.pipeline.popleft()
            self._close_after_responses()
        elif current.response_started:
            self.transport.close()
        else:
            current.disconnected = True
            current.message_event.set()
            self._send_and_close(problem)

    def _close_after_responses(self) -> None:
        """Reads no more, and closes the connection once every request that was read has its response."""
        self._closing = True
        self.clear_deadline()
        last = self.pipeline[0][0] if self.pipeline else self._current
        if last is None or last.response_complete:
            self.transport.close()
        else:
            last.keep_alive = False

    def _send_and_close(self, problem: Problem) -> None:
        self._closing = True
        self.clear_deadline()
        self.transport.write(_encoded(problem))
        if self.transport.can_write_eof():
            # Closing with unread bytes would reset the connection, and the caller might lose the response.
            self.transport.write_eof()
            self.set_deadline(self.limits.linger_seconds)
        else:
            self.transport.close()


def _malformed() -> Problem:
    return invalid([Violation("request", "is not HTTP/1.1")])


def _encoded(problem: Problem) -> bytes:
    response = problem.response()
    status = HTTPStatus(response.status_code)
    response.headers.update(
        {"cache-control": "no-store", "x-content-type-options": "nosniff", "connection": "close"}
    )
    lines = [b": ".join(header) for header in response.raw_headers]
    return b"\r\n".join(
        [f"HTTP/1.1 {status.value} {status.phrase}".encode(), *lines, b"", bytes(response.body)]
    )


async def _respond_overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    await overloaded().response()(scope, receive, send)


_RESPOND_OVERLOADED = SafeResponses(_respond_overloaded)
