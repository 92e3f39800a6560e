"""Load generators: a fixed number of requests in flight, sent as bytes, answered as bytes, parsed no further.

A generator must not be the bottleneck of what it measures: h2load sends the same request again and again
for 40 µs. For requests that differ, which it cannot send, gRPC is spoken here frame by frame: grpc.aio's
client costs as much a call as its bare server does.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import cast

from tests.bench import h2load

# Whatever is measured answers within this, or is broken.
_SECONDS = 60

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 2**16 - 1
_INITIAL_WINDOW_SIZE = 4

# The first place of HPACK's dynamic table.
_DYNAMIC = 62

# What has no length is chunked.
_LAST_CHUNK = b"0\r\n\r\n"
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Missing(Exception):
    """Something that measures, or is measured, is not installed."""


class Refused(Exception):
    """An answer that is no success."""


class Generator:
    """Which one sends the requests of which each is like the first; and how many were answered, to any."""

    with_h2load = False
    answered = 0

    @classmethod
    def choose(cls, with_h2load: bool) -> None:
        """Raises Missing."""
        if with_h2load and not h2load.installed():
            raise Missing(h2load.MISSING)
        cls.with_h2load = with_h2load

    @classmethod
    def counting(cls, calls: int | None) -> Callable[[float, float], float]:
        """How many calls a round has that begins now, from its figure and its seconds: as many as are said,
        or answered to a generator, or else its rate times its seconds.
        """
        before = cls.answered
        return lambda value, seconds: calls or cls.answered - before or value * seconds


@dataclass(frozen=True)
class Load:
    """What one load was answered."""

    latencies: list[float]
    seconds: float
    length: int | None = None
    """Bytes of the last answer, if they were told."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    @property
    def p50(self) -> float:
        """The median latency in milliseconds."""
        return median(self.latencies) * 1000

    @property
    def p95(self) -> float:
        """The 95th percentile of the latencies in milliseconds."""
        return quantiles(self.latencies, n=20)[-1] * 1000


class _Requests:
    """How many are still to be sent, and how long those took that were answered."""

    def __init__(self, seconds: float, calls: int | None) -> None:
        self._left = calls
        self._begin = perf_counter()
        self._end = self._begin + seconds
        self._last = self._begin
        self._latencies: list[float] = []
        self._under_way = 0
        self.length: int | None = None
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def next(self) -> float | None:
        """The time, when another is to be sent now."""
        now = perf_counter()
        if now >= self._end or self._left == 0:
            return None
        if self._left is not None:
            self._left -= 1
        self._under_way += 1
        return now

    def answered(self, sent: float) -> None:
        self._last = perf_counter()
        self._latencies.append(self._last - sent)
        self._under_way -= 1

    def end_if_done(self) -> None:
        if self._under_way == 0 and not self._done.done():
            self._done.set_result(None)

    def fail(self, reason: str) -> None:
        if not self._done.done():
            self._done.set_exception(Refused(reason))

    async def all(self) -> Load:
        async with asyncio.timeout(_SECONDS):
            await self._done
        Generator.answered += len(self._latencies)
        return Load(self._latencies, self._last - self._begin, self.length)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def _string(value: bytes) -> bytes:
    """HPACK's string, without Huffman's code."""
    left, length = len(value) - 127, bytearray()
    if left < 0:
        return bytes([len(value)]) + value
    while left >= 128:
        length.append(left & 127 | 128)
        left >>= 7
    return bytes([127, *length, left]) + value


class _Grpc(asyncio.Protocol):
    """Unary calls on one HTTP/2 connection."""

    def __init__(
        self, requests: _Requests, headers: dict[str, str], bodies: Sequence[bytes], in_flight: int
    ) -> None:
        self._requests = requests
        # As every client does: the first request fills the dynamic table, the others point into it.
        self._headers = b"".join(
            b"\x40" + _string(name.encode()) + _string(value.encode()) for name, value in headers.items()
        )
        self._later_headers = bytes(
            0x80 | _DYNAMIC + len(headers) - 1 - place for place in range(len(headers))
        )
        self._messages = [struct.pack(">BI", 0, len(body)) + body for body in bodies]
        self._in_flight = in_flight
        self._stream = 1
        self._sent: dict[int, float] = {}
        self._lengths: dict[int, int] = {}
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        window = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
        # The windows that we grant last for 2 GiB, which no load reaches. Those that we are granted are
        # of no concern: what is in flight is a fraction of them.
        grant = struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW)
        first = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            _frame(_SETTINGS, 0, 0, window),
            _frame(_WINDOW_UPDATE, 0, 0, grant),
        ]
        for _ in range(self._in_flight):
            self._send(first)
        self._transport.write(b"".join(first))

    def _send(self, out: list[bytes]) -> None:
        if (now := self._requests.next()) is None:
            return
        stream, self._stream = self._stream, self._stream + 2
        self._sent[stream] = now
        message = self._messages[stream // 2 % len(self._messages)]
        out += (
            _frame(_HEADERS, _END_HEADERS, stream, self._headers),
            _frame(_DATA, _END_STREAM, stream, message),
        )
        self._headers = self._later_headers

    def data_received(self, data: bytes) -> None:
        data = self._received + data
        at, out = 0, list[bytes]()
        while (body := at + 9) <= len(data) and (after := body + int.from_bytes(data[at : at + 3])) <= len(
            data
        ):
            self._take(data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : body]), data[body:after], out)
            at = after
        self._received = data[at:]
        if out:
            self._transport.write(b"".join(out))
        self._requests.end_if_done()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, out: list[bytes]) -> None:
        if kind == _DATA:
            self._lengths[stream] = self._lengths.get(stream, 0) + len(payload)
        elif kind in (_RST_STREAM, _GOAWAY):
            self._requests.fail(f"frame {kind}: {payload!r}")
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            out.append(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
            # A call that fails is answered with a status and no message.
            if stream not in self._lengths:
                self._requests.fail(f"a call failed: {payload!r}")
                return
            self._requests.length = self._lengths.pop(stream)
            self._requests.answered(self._sent.pop(stream))
            self._send(out)

    def connection_lost(self, exc: Exception | None) -> None:
        self._requests.fail(f"connection lost: {exc}")


class _Http(asyncio.Protocol):
    """Requests one after the other on one HTTP/1.1 connection."""

    def __init__(self, requests: _Requests, request: bytes, containing: bytes) -> None:
        self._requests = requests
        self._request = request
        self._containing = containing
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        if (now := self._requests.next()) is not None:
            self._sent = now
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(head)
        if not found or (len(body) < int(length[1]) if length else not body.endswith(_LAST_CHUNK)):
            return
        if not re.match(rb"HTTP/1\.1 2\d\d ", head) or self._containing not in body:
            self._requests.fail(self._received[:500].decode())
            return
        self._received = b""
        self._requests.length = int(length[1]) if length else None
        self._requests.answered(self._sent)
        self._send()
        self._requests.end_if_done()

    def connection_lost(self, exc: Exception | None) -> None:
        self._requests.fail(f"connection lost: {exc}")


async def _drive(address: str, make: Callable[[_Requests], asyncio.Protocol], connections: int,
                 seconds: float, calls: int | None) -> Load:  # fmt: skip
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    requests = _Requests(seconds, calls)
    opened = await asyncio.gather(
        *(loop.create_connection(lambda: make(requests), host, int(port)) for _ in range(connections))
    )
    try:
        return await requests.all()
    finally:
        for transport, _ in opened:
            transport.abort()


async def grpc_load(
    address: str,
    method: str,
    bodies: Sequence[bytes],
    token: str,
    in_flight: int,
    *,
    seconds: float = _SECONDS,
    calls: int | None = None,
    connections: int = 1,
) -> Load:
    """Calls of `method` (`package.Service/Method`) with encoded requests in turn, for `seconds` or `calls`
    of them. Raises Refused when one fails.
    """
    sent = {
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "runengine-bench",
        "authorization": f"Bearer {token}",
    }
    headers = {":method": "POST", ":scheme": "http", ":path": f"/{method}", ":authority": address, **sent}
    on_each = in_flight // connections

    async def alone(calls: int | None, connections: int, on_each: int) -> Load:
        return await _drive(
            address, lambda load: _Grpc(load, headers, bodies, on_each), connections, seconds, calls
        )

    if not Generator.with_h2load or len(bodies) > 1:
        return await alone(calls, connections, on_each)
    first = await alone(1, 1, 1)
    message = struct.pack(">BI", 0, len(bodies[0])) + bodies[0]
    return await _h2load(
        f"http://{address}/{method}", sent, message, connections, on_each, False, seconds, calls, first
    )


async def http_load(
    address: str,
    method: str,
    path: str,
    in_flight: int,
    *,
    body: bytes = b"",
    containing: bytes = b"",
    token: str | None = None,
    seconds: float = _SECONDS,
    calls: int | None = None,
) -> Load:
    """The same request on `in_flight` connections that are kept alive. Raises Refused unless all succeed,
    with `containing` in the answer; h2load sees that all have the length of the first.
    """
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    if body:
        headers["content-type"] = "application/json"
    lines = [f"{method} {path} HTTP/1.1", f"host: {address}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"content-length: {len(body)}")
    request = "\r\n".join([*lines, "", ""]).encode() + body

    async def alone(calls: int | None, connections: int) -> Load:
        return await _drive(
            address, lambda load: _Http(load, request, containing), connections, seconds, calls
        )

    # It sends GET, or POST with a body.
    if not Generator.with_h2load or method != ("POST" if body else "GET"):
        return await alone(calls, in_flight)
    first = await alone(1, 1)
    return await _h2load(f"http://{address}{path}", headers, body, in_flight, 1, True, seconds, calls, first)


async def _h2load(
    url: str, headers: dict[str, str], body: bytes, clients: int, streams: int, http1: bool, seconds: float,
    calls: int | None, first: Load,
) -> Load:  # fmt: skip
    """By h2load after the first call, which is one of the calls."""
    try:
        latencies, taken = await h2load.run(
            url, headers, body, clients, streams, http1=http1, seconds=seconds,
            calls=None if calls is None else calls - 1, length=first.length,
        )  # fmt: skip
    except h2load.Unanswered as unanswered:
        raise Refused(str(unanswered)) from unanswered
    Generator.answered += len(latencies)
    return Load(latencies, taken, first.length)
