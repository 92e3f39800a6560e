"""Streams the bytes of an artifact, with headers that keep a browser from executing them."""

import asyncio
import re
from collections.abc import AsyncIterator
from urllib.parse import quote

import grpc
from runengine.v1.artifact_service_pb2 import DownloadArtifactRequest, DownloadArtifactResponse
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from runengine_gateway.calls import TokenCheck, explain, rpc_path
from runengine_gateway.channel import Channel, StreamRpc
from runengine_gateway.http_request import RequestReader, caller_metadata
from runengine_gateway.problems import RefusedError, deadline_exceeded
from runengine_gateway.routes import Binding

# The author of a step has chosen the media type, and only a valid one may become a header. Names follow RFC
# 6838.
_NAME = "[A-Za-z0-9!#$&^_.+-]{1,127}"
_MEDIA_TYPE = re.compile(f"{_NAME}/{_NAME}(; ?{_NAME}={_NAME}){{0,9}}")


class ArtifactDownload:
    """The endpoint of DownloadArtifact.

    A download as a whole has no deadline, since its time depends on the caller's connection; each message
    from the server has one. Once the response has begun, an error can only end it short of its
    `content-length`.
    """

    def __init__(
        self, channel: Channel, binding: Binding, token_check: TokenCheck, deadline_seconds: float
    ) -> None:
        self._rpc = binding.rpc
        self._token_check = token_check
        self._deadline_seconds = deadline_seconds
        self._reader = RequestReader(binding)
        self._call = channel.unary_stream(
            rpc_path(binding.rpc),
            request_serializer=DownloadArtifactRequest.SerializeToString,
            response_deserializer=DownloadArtifactResponse.FromString,
        )

    async def __call__(self, request: Request) -> Response:
        """Returns the bytes, or a problem: the first message, with the header, is read before the response
        begins.
        """
        caller = caller_metadata(request)
        try:
            message, _ = await self._reader.read(request)
        except RefusedError as refused:
            return await self._token_check.refuse(caller, refused.problem)
        call = self._call(message, metadata=caller)
        try:
            header = await _read_header(call, self._deadline_seconds)
        except grpc.aio.AioRpcError as error:
            return explain(error, self._rpc).response()
        except TimeoutError:
            return deadline_exceeded().response()
        known = _MEDIA_TYPE.fullmatch(header.media_type)
        headers = {
            "content-type": header.media_type if known else "application/octet-stream",
            "content-length": str(header.size),
            "content-disposition": _disposition(header.name),
            "content-security-policy": "sandbox",
        }
        if request.method == "HEAD":
            call.cancel()
            return Response(headers=headers)
        return _Download(call, header.size, self._deadline_seconds, headers)


def _disposition(name: str) -> str:
    """The header of RFC 6266, with the plain form too where the name allows it: curl knows no other."""
    encoded = quote(name, safe="")
    plain = f' filename="{name}";' if encoded == name != "" else ""
    return f"attachment;{plain} filename*=UTF-8''{encoded}"


class _Download(StreamingResponse):
    """A response that ends the RPC when it is complete, or when the caller has gone away."""

    def __init__(self, call: StreamRpc, size: int, deadline_seconds: float, headers: dict[str, str]) -> None:
        super().__init__(_data(call, size, deadline_seconds), headers=headers)
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._call.cancel()


async def _read_header(call: StreamRpc, deadline_seconds: float) -> DownloadArtifactResponse.Header:
    first = await _read(call, deadline_seconds)
    if first is None or not first.HasField("header"):
        call.cancel()
        raise RuntimeError("DownloadArtifact did not begin with a header")
    return first.header


async def _data(call: StreamRpc, size: int, deadline_seconds: float) -> AsyncIterator[bytes]:
    sent = 0
    while (part := await _read(call, deadline_seconds)) is not None:
        sent += len(part.data)
        if sent > size:
            break
        yield part.data
    if sent != size:
        raise RuntimeError(f"DownloadArtifact announced {size} bytes and sent {sent}")


async def _read(call: StreamRpc, deadline_seconds: float) -> DownloadArtifactResponse | None:
    """The next message, or None at the end. Raises TimeoutError, which ends the call, and AioRpcError."""
    async with asyncio.timeout(deadline_seconds):
        message = await call.read()
    return message if isinstance(message, DownloadArtifactResponse) else None
