"""What bounds a connection to the gateway? Time and size of a request's head, and how much is served at once.

uvicorn with httptools bounds neither, nor does it end a connection whose request was answered before its
body had come.
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

# Fed to the parser at once: how far beyond its limit a head is read at most.
_SLICE = 4096


def _affordable_connections() -> int:
    """As many as leave descriptors for the rest, and for those that are turned away."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(descriptors * 3 // 4, 4_000) if descriptors > 0 else 4_000


@dataclass(frozen=True)
class Limits:
    """What one connection, and all of them together, may take."""

    head_seconds: float = 10.0  # to the end of the head, from connecting or from its first byte
    head_bytes: int = 32 * 1024  # of a head, or of whatever else is no body: trailers, chunk extensions
    head_fields: int = 100
    rest_seconds: float = 10.0  # for the rest of a body that was answered before it had come
    rest_bytes: int = 4 * 1024 * 1024
    stalled_seconds: float = 60.0  # for a caller that reads nothing of its answer
    goodbye_seconds: float = 1.0  # for a refused caller to read its refusal
    pipelined: int = 16  # requests that wait for the answer to the one before
    connections: int = field(default_factory=_affordable_connections)
    requests: int = 1_000  # under way on all connections; /healthz does not count


class BoundedHttp(HttpToolsProtocol):
    """One connection. It is refused with a problem where that can still be told apart from an answer."""

    limits: ClassVar[Limits] = Limits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._answering: RequestResponseCycle | None = None
        self._head_begun = False
        self._receiving_body = False
        self._unfinished = 0  # bytes since a head, a piece of a body or a message was complete
        self._rest = 0  # bytes of a body since its answer
        self._deaf = False  # whatever else comes is not read
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) <= self.limits.connections:
            self._expect_within(self.limits.head_seconds)
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
        for start in range(0, len(data), _SLICE):
            if self._deaf or self.transport.is_closing():
                return
            self._feed(data[start : start + _SLICE])
        if (self._unfinished or self._head_begun) and not self._receiving_body and not self._deaf:
            self._expect_within(self.limits.head_seconds)

    def _feed(self, part: bytes) -> None:
        self._unfinished += len(part)
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            # The request is answered as plain HTTP; what follows it may be any protocol.
            self._end_after_answers()
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
            return  # a trailer, which must not pass for a header
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
        self._expect_nothing()
        if len(self.pipeline) > self.limits.pipelined:
            self.pipeline.popleft()
            self._end_after_answers()

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
            self._expect_nothing()
            self._expect_within(self.limits.head_seconds)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        if len(self.tasks) >= self.limits.requests and cycle.scope["path"] != "/healthz":
            app = _TURN_AWAY
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._receiving_body and self.cycle.response_complete:
            self._rest = 0
            self._expect_within(self.limits.rest_seconds)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def _watch_writing(self, unsent: int) -> None:
        self._stalled = self.loop.call_later(self.limits.stalled_seconds, self._judge_writing, unsent)

    def _judge_writing(self, before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent >= before:
            self.transport.abort()
        else:
            self._watch_writing(unsent)

    def _expect_within(self, seconds: float) -> None:
        """Ends the connection in `seconds`, unless it is to end before already."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(seconds, self._run_out)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _run_out(self) -> None:
        self._deadline = None
        if self._head_begun and not self._deaf:
            self._refuse(request_timeout())
        elif self._answering is not None and not self._answering.response_complete:
            self._end_after_answers()
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answers the request that is being received with `problem`, and ends the connection.

        A request before it that is being answered still gets its answer, and the refused one then none.
        """
        answering = self._answering
        if answering is None or answering.response_complete:
            self._say_goodbye(problem)
        elif not self._receiving_body or self.pipeline:
            if self._receiving_body:
                self.pipeline.popleft()
            self._end_after_answers()
        elif answering.response_started:
            self.transport.close()
        else:
            answering.disconnected = True
            answering.message_event.set()
            self._say_goodbye(problem)

    def _end_after_answers(self) -> None:
        """Reads no more, and closes the connection once every request that was read has its answer."""
        self._deaf = True
        self._expect_nothing()
        last = self.pipeline[0][0] if self.pipeline else self._answering
        if last is None or last.response_complete:
            self.transport.close()
        else:
            last.keep_alive = False

    def _say_goodbye(self, problem: Problem) -> None:
        self._deaf = True
        self._expect_nothing()
        self.transport.write(_spelled_out(problem))
        if self.transport.can_write_eof():
            # To close with bytes unread would reset the connection, and the caller may lose the answer.
            self.transport.write_eof()
            self._expect_within(self.limits.goodbye_seconds)
        else:
            self.transport.close()


def _malformed() -> Problem:
    return invalid([Violation("request", "is not HTTP/1.1")])


def _spelled_out(problem: Problem) -> bytes:
    response = problem.response()
    status = HTTPStatus(response.status_code)
    response.headers.update(
        {"cache-control": "no-store", "x-content-type-options": "nosniff", "connection": "close"}
    )
    lines = [b": ".join(header) for header in response.raw_headers]
    return b"\r\n".join(
        [f"HTTP/1.1 {status.value} {status.phrase}".encode(), *lines, b"", bytes(response.body)]
    )


async def _turn_away(scope: Scope, receive: Receive, send: Send) -> None:
    await overloaded().response()(scope, receive, send)


_TURN_AWAY = SafeResponses(_turn_away)
