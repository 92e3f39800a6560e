"""Streams the messages of a watch as Server-Sent Events."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import orjson
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from runengine.rest_json import Encoders, encoder_of
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from runengine_gateway.calls import TokenCheck, explain, rpc_path
from runengine_gateway.channel import Channel, StreamRpc
from runengine_gateway.http_request import RequestReader, caller_metadata
from runengine_gateway.problems import Problem, RefusedError, deadline_exceeded, interrupted
from runengine_gateway.routes import Binding

# After so long without an event a comment is sent, by which callers that have gone away are noticed, and
# without which proxies might take the connection for dead.
COMMENT_SECONDS = 15.0
_COMMENT = b":\n\n"

# After so many milliseconds an EventSource comes again.
_RETRY = b"retry: 1000\n"

# What is over in a moment: the server is away, or stops, or takes long.
_PASSING = ("UNAVAILABLE", "INTERRUPTED", "DEADLINE_EXCEEDED")

_TOKEN = "resume_token"

# The initial metadata of a stream that goes on, and has nothing to say yet.
_BEGUN = "runengine-stream"


class OpenStreams:
    """The streams of a process, which would last longer than it may take to end."""

    def __init__(self) -> None:
        self._calls: set[StreamRpc] = set()

    def add(self, call: StreamRpc) -> None:
        """Knows the stream until it ends."""
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    def end(self) -> None:
        """Ends all of them, each with an event `problem`."""
        for call in list(self._calls):
            call.cancel()


class EventStream:
    """The endpoint of an RPC that streams messages with one `event` each.

    An event has the name of its field, its JSON as data, and the resume token, where there is one, as its id.
    A caller that comes again with that in `Last-Event-ID`, as an EventSource does by itself, goes on there;
    and gets 204 where nothing is left to come, upon which an EventSource stays away. As it does for ever
    after any other status than 200: so what passes, the server or its database being away, is an event too.
    """

    def __init__(
        self,
        channel: Channel,
        binding: Binding,
        token_check: TokenCheck,
        deadline_seconds: float,
        streams: OpenStreams,
    ) -> None:
        """Raises TypeError where an event has a field without a JSON mapping."""
        self._streams = streams
        self._rpc = binding.rpc
        self._token_check = token_check
        self._deadline_seconds = deadline_seconds
        self._reader = RequestReader(binding)
        events = binding.rpc.output_type.oneofs_by_name["event"].fields
        self._encoders: dict[str, tuple[bytes, Callable[[Message], object]]] = {
            field.name: (field.json_name.encode(), encoder_of(field.message_type, Encoders(orjson.Fragment)))
            for field in events
            if field.message_type is not None
        }
        self._call = channel.unary_stream(
            rpc_path(binding.rpc),
            request_serializer=GetMessageClass(binding.rpc.input_type).SerializeToString,
            response_deserializer=GetMessageClass(binding.rpc.output_type).FromString,
        )

    async def __call__(self, request: Request) -> Response:
        """Returns the stream, or a problem: the response begins when the stream has."""
        caller = caller_metadata(request)
        try:
            message, _ = await self._reader.read(request)
        except RefusedError as refused:
            return await self._token_check.refuse(caller, refused.problem)
        if "last-event-id" in request.headers and not getattr(message, _TOKEN):
            setattr(message, _TOKEN, request.headers["last-event-id"])
        call = self._call(message, metadata=caller)
        self._streams.add(call)
        first = None
        try:
            async with asyncio.timeout(self._deadline_seconds):
                metadata = await call.initial_metadata()
                if all(key != _BEGUN for key, _ in metadata or ()):
                    first = await call.read()
        except grpc.aio.AioRpcError as error:
            return _refusal(explain(error, self._rpc))
        except TimeoutError:
            call.cancel()
            return _refusal(deadline_exceeded())
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            return _refusal(interrupted())
        if first is grpc.aio.EOF:
            return Response(status_code=204)
        if request.method == "HEAD":
            call.cancel()
            return Response(media_type="text/event-stream")
        return _Stream(call, self._events(call, first))

    async def _events(self, call: StreamRpc, first: Any) -> AsyncIterator[bytes]:
        # Something at once, or some proxies would not let the response begin.
        yield _RETRY + (_COMMENT if first is None else self._event(first))
        reading: asyncio.Task[Any] | None = None
        try:
            while True:
                # Not a timeout, which would cancel the call.
                reading = reading or asyncio.create_task(_read(call))
                await asyncio.wait({reading}, timeout=COMMENT_SECONDS)
                if not reading.done():
                    yield _COMMENT
                    continue
                if reading.cancelled():  # by OpenStreams: whoever waits here has not been
                    yield _problem(interrupted())
                    return
                message, reading = reading.result(), None
                if not isinstance(message, Message):
                    return
                yield self._event(message)
        except grpc.aio.AioRpcError as error:
            yield _problem(explain(error, self._rpc))
        finally:
            if reading is not None:
                reading.cancel()

    def _event(self, message: Message) -> bytes:
        name = str(message.WhichOneof("event"))
        json_name, encode = self._encoders[name]
        data = orjson.dumps(encode(getattr(message, name)))
        event = b"event: %b\ndata: %b\n\n" % (json_name, data)
        token = getattr(message, _TOKEN)
        return b"id: %b\n%b" % (token.encode(), event) if token else event


def _problem(found: Problem) -> bytes:
    return b"event: problem\ndata: %b\n\n" % bytes(found.response().body)


def _refusal(found: Problem) -> Response:
    if found.reason not in _PASSING:
        return found.response()
    return Response(_RETRY + _problem(found), media_type="text/event-stream")


async def _read(call: StreamRpc) -> Any:
    return await call.read()


class _Stream(StreamingResponse):
    """A response that ends the RPC when it is complete, or when the caller has gone away."""

    def __init__(self, call: StreamRpc, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._call.cancel()
