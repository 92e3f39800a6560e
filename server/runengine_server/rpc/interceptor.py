"""What surrounds every call: it checks the token before, and turns errors into statuses after."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from runengine_server.auth.clerk import ClerkVerifier
from runengine_server.auth.refusals import RefusalCause, RefusalLog, TenantRefused, TokenRefused
from runengine_server.domain.caller import Caller
from runengine_server.domain.errors import (
    Interrupted,
    InvalidArgument,
    Overloaded,
    QuotaExceeded,
    RunEngineError,
    Violation,
)
from runengine_server.metrics import CALLS_IN_FLIGHT
from runengine_server.rpc.observed_call import ObservedCall, note_code
from runengine_server.rpc.statuses import internal_status, status_of

# The standard services, which need no token: they show nothing of any tenant.
_PUBLIC_SERVICES = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)

# How many calls of each of their methods may be under way at once.
_MAX_PUBLIC_CALLS = 32

# How long the reader of a stream may read nothing. A slow reader makes room in jumps: with the flow-control
# windows that gRPC chooses, of up to 2 MiB, which at 40 kB/s take 50 s.
READER_SECONDS = 60.0


# What a stream sends that has begun, and may have nothing to say for long.
STREAM_BEGUN = (("runengine-stream", "begun"),)


@dataclass(frozen=True, slots=True)
class StreamLimit:
    """How many streams of a kind there may be at once: in this process, of a tenant, and of a caller."""

    kind: str
    in_all: int
    of_tenant: int
    of_caller: int
    words: str


_CALLS = "calls"
_DOWNLOADS = StreamLimit("downloads", 64, 16, 16, "downloads may be under way")
# A stream that waits takes 31 KiB (`python -m tests.bench.idle_watchers`).
_WATCHES = StreamLimit("watches", 2048, 256, 16, "streams may watch runs")


SentMetadata = Sequence[tuple[str, str | bytes]]

_caller: ContextVar[Caller] = ContextVar("caller")
_metadata: ContextVar[SentMetadata] = ContextVar("metadata")

_log = structlog.get_logger()


def caller() -> Caller:
    """Who makes the call that is being served."""
    return _caller.get()


def sent_metadata() -> SentMetadata:
    """What came with the call, of one response, that is being served. Its context makes it anew each time, in
    6 µs.
    """
    return _metadata.get()


class Undecodable:
    """A request whose bytes do not parse."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """The outermost and only interceptor.

    It wraps the handler and not the call, because grpc.aio sends the text of an exception that
    leaves a handler to the caller, word for word.
    """

    def __init__(
        self,
        verifier: ClerkVerifier,
        max_calls: int = 256,
        downloads: StreamLimit = _DOWNLOADS,
        observes_calls: bool = False,
    ) -> None:
        """At most `max_calls` are under way; the next is refused at once, because a queue would only make
        all of them late. Streams, which last as long as their readers like, have limits of their own.
        `observes_calls`: for metrics and traces.
        """
        self._verifier = verifier
        self._refusals = RefusalLog()
        self._max_calls = max_calls
        self._downloads = downloads
        # By kind: calls, those of streams, and each method of the public services.
        self._under_way: Counter[str] = Counter()
        # By kind, tenant, and caller or "" for all of the tenant.
        self._streams: Counter[tuple[str, str, str]] = Counter()
        self._guarded: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}  # by method
        self._observes_calls = observes_calls
        if observes_calls:
            for kind in (_CALLS, _WATCHES.kind, downloads.kind):
                CALLS_IN_FLIGHT.labels(kind).set_function(partial(self._under_way.__getitem__, kind))

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler, guarded; those of the public services as they are.

        A call without a token or beyond the limits is refused here, before its message is received, so that
        it takes no memory but what the flow-control windows of HTTP/2 let in unread.
        """
        method = handler_call_details.method
        is_public = method.startswith(_PUBLIC_SERVICES)
        handler = self._guarded.get(method)
        if handler is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            if not is_public:
                handler = self._guarded[method] = self._guard_handler(method, handler)
        if self._observes_calls and not is_public:
            metadata = handler_call_details.invocation_metadata
            ObservedCall(method, handler.response_streaming, metadata).begin()
        try:
            if is_public:
                self._count_call(method, _MAX_PUBLIC_CALLS)
            elif handler.response_streaming:
                limit = self._limit_of(method)
                self._count_call(limit.kind, limit.in_all)
                await self._admit(handler_call_details.invocation_metadata)
            else:
                self._count_call(_CALLS, self._max_calls)
                _metadata.set(handler_call_details.invocation_metadata)
                await self._admit(handler_call_details.invocation_metadata)
        except RunEngineError as error:
            return _failing_handler(method, handler.response_streaming, error)
        return handler

    def _count_call(self, kind: str, limit: int) -> None:
        """Counts the call until its task ends, in which its handler runs too. Raises Overloaded."""
        task = asyncio.current_task()
        assert task is not None
        self._under_way[kind] += 1
        task.add_done_callback(partial(self._uncount_call, kind))
        if self._under_way[kind] > limit:
            raise Overloaded

    def _uncount_call(self, kind: str, _: asyncio.Task[Any]) -> None:
        self._under_way[kind] -= 1

    def _guard_handler(
        self, method: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        assert handler.request_deserializer is not None
        assert handler.response_serializer is not None
        deserialize = _parse_or_undecodable(handler.request_deserializer)
        serialize = _serialize_unless_bytes(handler.response_serializer)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._guard_stream(method, handler.unary_stream), deserialize, serialize
            )
        return grpc.unary_unary_rpc_method_handler(
            self._guard(method, handler.unary_unary), deserialize, serialize
        )

    def _guard(self, method: str, handle: Any) -> Any:
        async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                _require_decoded(request)
                return await handle(request, context)
            except BaseException as error:
                await abort(method, context, error)

        return guarded

    def _guard_stream(self, method: str, handle: Any) -> Any:
        # It writes, and does not yield: a timeout around a yield is never raised in grpc.aio 1.85.
        async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            try:
                _require_decoded(request)
                with self._count_stream(method):
                    async with aclosing(handle(request, context)) as responses:
                        async for response in responses:
                            async with asyncio.timeout(READER_SECONDS):
                                if response is None:
                                    await context.send_initial_metadata(STREAM_BEGUN)
                                else:
                                    await context.write(response)
            except grpc.aio.InternalError:
                note_code(grpc.StatusCode.CANCELLED)  # the reader has gone away
            except TimeoutError:
                # The status waits behind what the reader has not read; but not for ever.
                async with asyncio.timeout(READER_SECONDS):
                    await abort(method, context, Interrupted())
            except BaseException as error:
                await abort(method, context, error)

        return guarded

    def _limit_of(self, method: str) -> StreamLimit:
        return _WATCHES if "/Watch" in method else self._downloads

    @contextmanager
    def _count_stream(self, method: str) -> Iterator[None]:
        """Counts the stream within the block, for its tenant and its caller. Raises QuotaExceeded."""
        limit, by = self._limit_of(method), caller()
        kinds = (limit.kind, by.tenant_id, ""), (limit.kind, by.tenant_id, by.subject)
        self._streams.update(kinds)
        try:
            for kind, most in zip(kinds, (limit.of_tenant, limit.of_caller), strict=True):
                if self._streams[kind] > most:
                    raise QuotaExceeded(f"At most {most} {limit.words} at once.")
            yield
        finally:
            self._streams.subtract(kinds)
            self._streams += Counter()  # removes those that have none left

    async def _admit(self, metadata: SentMetadata) -> None:
        try:
            _caller.set(await self._identify(metadata))
        except (TokenRefused, TenantRefused) as refused:
            self._refusals.note(refused)
            raise

    async def _identify(self, metadata: SentMetadata) -> Caller:
        tokens = [value for key, value in metadata if key == "authorization"]
        scheme, _, token = str(tokens[0]).partition(" ") if len(tokens) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not token:
            raise TokenRefused(RefusalCause.NO_TOKEN)
        # For machines alone. Two count as none: it is not known which one was meant.
        tenants = [str(value) for key, value in metadata if key == "x-tenant-id"]
        tenant = tenants[0] if len(tenants) == 1 else None
        return await self._verifier.verify(token, tenant)


def _failing_handler(method: str, is_stream: bool, error: RunEngineError) -> grpc.RpcMethodHandler[Any, Any]:
    """Ends a call with the error. It receives a stream, so that gRPC does not wait for a message."""

    async def fail(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await abort(method, context, error)

    handler = grpc.stream_stream_rpc_method_handler if is_stream else grpc.stream_unary_rpc_method_handler
    return handler(fail)


def _require_decoded(request: Any) -> None:
    if isinstance(request, Undecodable):
        raise InvalidArgument([Violation("", "the request is not a valid message")])


def _parse_or_undecodable(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Bytes that do not parse reach the handler as Undecodable; grpc.aio itself would return UNKNOWN."""

    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return Undecodable()

    return parse


def _serialize_unless_bytes(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Leaves a response that is encoded already as it is."""
    return lambda response: response if type(response) is bytes else serialize(response)


async def abort(method: str, context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> None:
    """Ends the call with the status of `error`, by the one table; what is none of ours becomes INTERNAL with
    an id, and is logged.
    """
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            note_code(grpc.StatusCode.CANCELLED)
            raise error  # the caller went away
        # Raised by our own code, it would leave the caller to hang until the deadline.
        error = Interrupted()
    if isinstance(error, RunEngineError):
        code, status = status_of(error)
    elif isinstance(error, Exception):
        error_id = uuid.uuid4().hex
        _log.error("call failed", method=method, id=error_id, exc_info=error)
        code, status = internal_status(error_id)
    else:
        raise error
    await _abort_with(context, code, status)


async def _abort_with(
    context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, status: status_pb2.Status
) -> None:
    note_code(code)
    metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, status.message, metadata)
