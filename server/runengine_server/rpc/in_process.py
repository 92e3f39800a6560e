"""A channel to the server's handlers in the same process: calls without a connection between.

To its callers it is what runengine_gateway.channel describes, and a part of grpc.aio.Channel; to the services
a part of grpc.aio.Server. A call differs from one over the network in nothing that either side sees: request
and responses are bytes in between, the interceptor and its limits are those of the server, each handler has a
task of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from inspect import isasyncgen
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar

import grpc
import structlog

Metadata = tuple[tuple[str, str | bytes], ...]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

# How many bytes of a stream may wait for who reads it, before its handler waits.
_WINDOW_BYTES = 64 * 1024

_log = structlog.get_logger()

C = TypeVar("C", bound="_Call")


@dataclass(slots=True)
class _CallDetails:
    """What the interceptor is told."""

    method: str
    invocation_metadata: Metadata


@dataclass(frozen=True, slots=True)
class _Status:
    code: grpc.StatusCode
    details: str = ""
    trailing_metadata: Metadata = ()


_OK = _Status(grpc.StatusCode.OK)
_UNKNOWN_METHOD = _Status(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
_EXCEPTION = _Status(grpc.StatusCode.UNKNOWN, "Unexpected exception in the handler")
_DEADLINE = _Status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
_CANCELLED = _Status(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
_AWAY = _Status(grpc.StatusCode.UNAVAILABLE, "the server has stopped")


class InProcessChannel:
    """Calls the handlers that are added to it, until it is stopped.

    `add_RunServiceServicer_to_server` and its kin take it for the server.
    """

    def __init__(self, interceptor: grpc.aio.ServerInterceptor, max_request_bytes: int) -> None:
        """Needs a running event loop."""
        # Kept, because Python 3.11 asks the kernel for its process id whenever it looks for the loop.
        self.loop = asyncio.get_running_loop()
        self._interceptor = interceptor
        self._max_request_bytes = max_request_bytes
        self._services: list[grpc.GenericRpcHandler] = []
        self._calls: set[_Call] = set()
        self._is_stopping = False

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """The handlers of a service."""
        self._services += generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """The same handlers by their names, which generated code adds too."""

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
    ) -> _Method[InProcessUnaryCall]:
        """See runengine_gateway.channel."""
        return _Method(self, InProcessUnaryCall, method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
    ) -> _Method[InProcessStreamCall]:
        """See runengine_gateway.channel."""
        return _Method(self, InProcessStreamCall, method, request_serializer, response_deserializer)

    async def stop(self, grace: float) -> None:
        """Refuses further calls; ends those that are under way after `grace` seconds."""
        self._is_stopping = True
        if tasks := [each.task for each in self._calls if each.task is not None]:
            await asyncio.wait(tasks, timeout=grace)
        for call in list(self._calls):
            call.break_off(_AWAY)

    def start(
        self, call: _Call, method: str, request: bytes, metadata: Metadata, timeout: float | None
    ) -> None:
        """Begins the call: its handler, in a task of its own, and the time it may take."""
        if self._is_stopping:
            call.end(_AWAY)
            return
        call.task = self.loop.create_task(self._serve(call, method, request, metadata), name=method)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        if timeout is not None:
            call.timer = self.loop.call_later(timeout, call.break_off, _DEADLINE)

    async def _serve(self, call: _Call, method: str, request: bytes, metadata: Metadata) -> None:
        context, status = HandlerContext(call, metadata), _EXCEPTION
        try:
            handler = await self._interceptor.intercept_service(self._find, _CallDetails(method, metadata))
            status = _UNKNOWN_METHOD if handler is None else await self._handle(handler, request, context)
        except grpc.aio.AbortError:
            pass  # the context has the status
        except asyncio.CancelledError:
            call.end(_CANCELLED)
            raise
        except Exception as error:
            _log.error("call failed", method=method, exc_info=error)
        call.end(context.aborted or status)

    async def _find(self, details: grpc.HandlerCallDetails) -> Handler | None:
        return next((found for each in self._services if (found := each.service(details))), None)

    async def _handle(self, handler: Any, request: bytes, context: HandlerContext) -> _Status:
        if handler.request_streaming:
            # The interceptor refuses the call, and takes no message of it.
            await (handler.stream_stream or handler.stream_unary)(None, context)
        elif len(request) > self._max_request_bytes:
            sizes = f"({len(request)} vs. {self._max_request_bytes})"
            return _Status(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"SERVER: Received message larger than max {sizes}"
            )
        elif handler.response_streaming:
            context.serialize = handler.response_serializer
            responses = handler.unary_stream(handler.request_deserializer(request), context)
            if isasyncgen(responses):
                async with aclosing(responses):
                    async for response in responses:
                        await context.write(response)
            else:
                await responses
        else:
            response = await handler.unary_unary(handler.request_deserializer(request), context)
            context.call.receive(handler.response_serializer(response))
        trailing = context.trailing_metadata
        return _Status(grpc.StatusCode.OK, "", trailing) if trailing else _OK


class _Method(Generic[C]):
    """Makes the calls of one method."""

    def __init__(
        self,
        channel: InProcessChannel,
        call_class: type[C],
        method: str,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
    ) -> None:
        self._channel = channel
        self._call_class = call_class
        self._method = method
        self._serialize = serialize
        self._deserialize = deserialize

    def __call__(self, request: Any, *, timeout: float | None = None, metadata: Metadata = ()) -> C:
        data = request if self._serialize is None else self._serialize(request)
        call = self._call_class(self._channel.loop, self._deserialize)
        self._channel.start(call, self._method, data, tuple(metadata), timeout)
        return call


class _Call:
    """A call, between its handler and its caller. It has ended when it has a status; one waits at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deserialize: Callable[[bytes], Any] | None) -> None:
        self._loop = loop
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._deserialize = deserialize
        self._status: _Status | None = None
        self._initial_metadata: Metadata | None = None
        self._responses: deque[bytes] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._callbacks: list[Callable[[Any], object]] = []

    # What its handler does.

    def receive_initial_metadata(self, metadata: Metadata) -> None:
        """What comes before the first response."""
        if self._initial_metadata is None:
            self._initial_metadata = metadata
            self._wake()

    def receive(self, response: bytes) -> None:
        """A response."""
        if self._status is None:
            self._responses.append(response)
            self.receive_initial_metadata(())
            self._wake()

    def end(self, status: _Status) -> None:
        """Ends the call, unless it has ended."""
        if self._status is not None:
            return
        self._status = status
        if self.timer is not None:
            self.timer.cancel()
        self._wake()
        for callback in self._callbacks:
            callback(self)

    # What its caller does.

    def break_off(self, status: _Status) -> None:
        """Ends the call and its handler, whatever waits to be read."""
        if self._status is None:
            self._responses.clear()
            self.end(status)
            if self.task is not None:
                self.task.cancel()

    def cancel(self) -> bool:
        """Ends the call; False where it has ended."""
        had_ended = self._status is not None
        self.break_off(_CANCELLED)
        return not had_ended

    def cancelled(self) -> bool:
        """Whether cancel() has ended it."""
        return self._status is _CANCELLED

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Has it called with this call when that has ended."""
        if self._status is None:
            self._callbacks.append(callback)
        else:
            callback(self)

    async def _wait(self) -> None:
        """Until something has come. Who is cancelled here gives up the call, as with grpc.aio."""
        self._waiting = self._loop.create_future()
        try:
            await self._waiting
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _take_response(self) -> Any:
        response = self._responses.popleft()
        return response if self._deserialize is None else self._deserialize(response)

    def _raise_unless_ok(self, status: _Status) -> None:
        if status is _CANCELLED:
            raise asyncio.CancelledError
        if status.code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                status.code,
                grpc.aio.Metadata(*(self._initial_metadata or ())),
                grpc.aio.Metadata(*status.trailing_metadata),
                details=status.details,
            )


class InProcessUnaryCall(_Call):
    """A call with one response."""

    def __await__(self) -> Generator[Any, None, Any]:
        while self._status is None:
            yield from self._wait().__await__()
        self._raise_unless_ok(self._status)
        return self._take_response()

    async def trailing_metadata(self) -> Metadata:
        """What came with the response, for which it waits."""
        while self._status is None:
            await self._wait()
        return self._status.trailing_metadata


class InProcessStreamCall(_Call):
    """A call with any number of responses."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deserialize: Callable[[bytes], Any] | None) -> None:
        super().__init__(loop, deserialize)
        self._has_room = asyncio.Event()
        self._waiting_bytes = 0

    def receive(self, response: bytes) -> None:
        """A response."""
        self._waiting_bytes += len(response)
        super().receive(response)

    async def wait_for_room(self) -> None:
        """Until so little waits to be read that the handler may go on."""
        while self._waiting_bytes > _WINDOW_BYTES:
            self._has_room.clear()
            await self._has_room.wait()

    async def initial_metadata(self) -> Metadata:
        """What came before the first response; nothing where the call has ended without."""
        while self._initial_metadata is None and self._status is None:
            await self._wait()
        return self._initial_metadata or ()

    async def read(self) -> Any:
        """The next response, or grpc.aio.EOF. Raises AioRpcError, and CancelledError after cancel()."""
        while not self._responses:
            if self._status is not None:
                self._raise_unless_ok(self._status)
                return grpc.aio.EOF
            await self._wait()
        self._waiting_bytes -= len(self._responses[0])
        self._has_room.set()
        return self._take_response()


class HandlerContext:
    """What a handler gets in place of grpc.aio.ServicerContext: as much of it as ours use."""

    def __init__(self, call: _Call, metadata: Metadata) -> None:
        self.call = call
        self.aborted: _Status | None = None
        self.trailing_metadata: Metadata = ()
        self.serialize: Callable[[Any], bytes] = bytes
        self._metadata = metadata

    def invocation_metadata(self) -> Metadata:
        """What the caller sent beside its request."""
        return self._metadata

    def set_trailing_metadata(self, trailing_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """To be sent with the status."""
        self.trailing_metadata = tuple(trailing_metadata)

    async def send_initial_metadata(self, initial_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Sends it at once, before the first response."""
        self.call.receive_initial_metadata(tuple(initial_metadata))

    async def write(self, message: Any) -> None:
        """Sends a response of a stream, and returns when the reader has made room for more."""
        assert isinstance(self.call, InProcessStreamCall)
        self.call.receive(self.serialize(message))
        await self.call.wait_for_room()

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Iterable[tuple[str, str | bytes]] = (),
    ) -> NoReturn:
        """Ends the call with this status. Raises AbortError, which the handler must let pass."""
        self.aborted = _Status(code, details, tuple(trailing_metadata) or self.trailing_metadata)
        raise grpc.aio.AbortError
