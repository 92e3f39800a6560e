"""Sends what no client would send, and reads what comes back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from tests.support.bad_input.proto_wire import varint
from tests.support.patience import SECONDS


@dataclass(frozen=True)
class HttpAnswer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The body of a problem, with the headers that every one has; {} for any other answer."""
        if self.headers.get("content-type") != "application/problem+json":
            return {}
        assert self.headers["cache-control"] == "no-store"
        assert self.headers["x-content-type-options"] == "nosniff"
        found: dict[str, Any] = json.loads(self.body)
        assert found["status"] == self.status
        assert ("violations" in found) is (self.status == 400)
        return found


def told(answer: HttpAnswer) -> tuple[int, str]:
    return answer.status, answer.problem.get("reason", "")


async def exchange(address: str, *parts: bytes) -> list[HttpAnswer]:
    """Every answer on one connection to which `parts` are sent, until the server ends it."""
    return _answers(await until_closed(address, *parts))


async def until_closed(address: str, *parts: bytes) -> bytes:
    """All that comes back on one connection to which `parts` are sent, until the server ends it."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(SECONDS):
            sending = asyncio.create_task(_send(writer, parts))
            received = await _read_all(reader)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            return received
    finally:
        writer.transport.abort()


async def _send(writer: asyncio.StreamWriter, parts: tuple[bytes, ...]) -> None:
    for part in parts:
        writer.write(part)
        await writer.drain()


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    received = bytearray()
    try:
        while chunk := await reader.read(65_536):
            received += chunk
    except ConnectionError:
        pass
    return bytes(received)


def _answers(received: bytes) -> list[HttpAnswer]:
    answers = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        version, status = first.split(" ")[:2]
        assert version == "HTTP/1.1", f"no answer begins with {head[:80]!r}"
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", 0))
        assert len(received) >= length, "an answer is cut short"
        answers.append(HttpAnswer(int(status), headers, received[:length]))
        received = received[length:]
    return answers


async def call_by_hand(address: str, method: str, token: str, encoding: bytes, message: bytes) -> bytes:
    """What comes back for a message that is said to be compressed, up to its status and beyond."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": method.encode(),
        b":authority": b"x",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"grpc-encoding": encoding,
        b"authorization": b"Bearer " + token.encode(),
    }
    head = b"".join(b"\0" + _hpack_text(name) + _hpack_text(value) for name, value in fields.items())
    body = b"\x01" + len(message).to_bytes(4, "big") + message
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
        writer.write(_frame(1, 4, 1, head) + _frame(0, 1, 1, body))
        received = b""
        async with asyncio.timeout(SECONDS):
            while b"grpc-status" not in received:
                chunk = await reader.read(65_536)
                assert chunk, "the connection ends without an answer"
                received += chunk
        return received
    finally:
        writer.transport.abort()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _hpack_text(content: bytes) -> bytes:
    """A string as HPACK has it, without Huffman's code."""
    if len(content) < 127:
        return bytes([len(content)]) + content
    return b"\x7f" + varint(len(content) - 127) + content


@dataclass(frozen=True)
class GrpcAnswer:
    code: str
    reason: str  # of the ErrorInfo, empty without one
    text: str
    size: int  # of the trailers


async def call(
    channel: grpc.aio.Channel, method: str, request: bytes, metadata: Any, gzip: bool = False
) -> GrpcAnswer:
    """The end of a call with these bytes as its message."""
    compression = grpc.Compression.Gzip if gzip else None
    send: Any = channel.unary_stream(method)
    try:
        async for _ in send(request, metadata=metadata, timeout=SECONDS, compression=compression):
            pass
    except grpc.aio.AioRpcError as error:
        trailers = tuple(error.trailing_metadata() or ())
        details = dict(trailers).get("grpc-status-details-bin", b"")
        status = status_pb2.Status.FromString(details if isinstance(details, bytes) else b"")
        size = sum(len(key) + len(value) + 32 for key, value in trailers) + len(error.details() or "")
        return GrpcAnswer(error.code().name, _reason(status), error.details() or "", size)
    return GrpcAnswer("OK", "", "", 0)


def _reason(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return str(info.reason)
    return ""
