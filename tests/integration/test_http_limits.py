"""The limits of a connection, each set so low that its end comes at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import uvicorn
from runengine_gateway import calls
from runengine_gateway.app import create_gateway
from runengine_gateway.http_protocol import BoundedHttp, Limits
from runengine_gateway.http_request import RequestReader
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.bad_input.exchanges import exchange, told, until_closed
from tests.support.patience import SECONDS
from tests.support.stack import Stack

_SOON = 0.2

TIMED_OUT = (408, "REQUEST_TIMEOUT")
OVERLOADED = (429, "OVERLOADED")
HELLO = (200, "")

GET = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


class Served:
    """Where an app is served, and what has become of its connections."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.lost: asyncio.Queue[BoundedHttp] = asyncio.Queue()
        self.ran_out = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that lasts until the end of the test at most."""
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        self._writers.append(writer)
        return reader, writer

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, *, patient_at_first: bool = False, **given: Any) -> AsyncIterator[Served]:
    """`patient_at_first`: the first head of a connection may take as long as it likes."""
    started = asyncio.Event()
    given = {"linger_seconds": SECONDS, **given}

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        served = Served(f"127.0.0.1:{listening.getsockname()[1]}")

        class Http(BoundedHttp):
            limits = Limits(**given)

            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                if patient_at_first:
                    self.clear_deadline()
                    self.set_deadline(SECONDS)

            def on_deadline(self) -> None:
                super().on_deadline()
                served.ran_out.set()

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                served.lost.put_nowait(self)

        server = Server(
            uvicorn.Config(
                app,
                http=Http,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        running = asyncio.create_task(server.serve([listening]))
        try:
            async with asyncio.timeout(SECONDS):
                await started.wait()
                yield served
        finally:
            served.hang_up()
            server.should_exit = True
            await running


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without a look at the body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


async def patient(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the whole body, then answers."""
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] != "http.disconnect":
        await hello(scope, receive, send)


class Held:
    """Answers once it is let go; /healthz at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/healthz":
            self.asked.set()
            await self.may_answer.wait()
        await hello(scope, receive, send)


async def test_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    async with serving(hello, head_seconds=_SOON) as served:
        assert await until_closed(served.address) == b""


@pytest.mark.parametrize("begun", [b"G", b"GET /", b"GET /hello HTTP/1.1\r\n", GET[:-2], GET[:-1]])
async def test_a_head_that_does_not_end_is_refused(begun: bytes) -> None:
    async with serving(hello, head_seconds=_SOON) as served:
        [answer] = await exchange(served.address, begun)
        assert told(answer) == TIMED_OUT
        assert answer.headers["connection"] == "close"


async def test_a_head_gets_no_more_time_for_coming_byte_by_byte() -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /hello HTTP/1.1\r\nhost: x\r\nx: ")
        while True:
            writer.write(b"y")
            await asyncio.sleep(_SOON / 20)

    async with serving(hello, head_seconds=_SOON) as served:
        reader, writer = await served.connect()
        dripping = asyncio.create_task(drip(writer))
        assert b"HTTP/1.1 408 " in await reader.read()
        dripping.cancel()


async def test_empty_lines_do_not_keep_a_connection() -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"\r\n")
            await asyncio.sleep(_SOON / 20)

    async with serving(hello, patient_at_first=True, head_seconds=_SOON) as served:
        reader, writer = await served.connect()
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        dripping = asyncio.create_task(drip(writer))
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        dripping.cancel()


async def test_the_head_of_a_further_request_has_its_time_too() -> None:
    async with serving(hello, patient_at_first=True, head_seconds=_SOON) as served:
        assert [told(answer) for answer in await exchange(served.address, GET + b"GET /")] == [
            HELLO,
            TIMED_OUT,
        ]


@pytest.mark.parametrize("begun", [b"GET /", b"\r\n"])
async def test_a_slow_head_does_not_cost_the_response_before_it(begun: bytes) -> None:
    app = Held()
    async with serving(app, patient_at_first=True, head_seconds=_SOON) as served:
        reader, writer = await served.connect()
        writer.write(GET)
        await app.asked.wait()
        writer.write(begun)
        await served.ran_out.wait()
        app.may_answer.set()
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close\r\n" in answer
        assert b"408" not in answer


async def test_the_rest_of_a_body_whose_response_is_out_has_its_time() -> None:
    unfinished = b"POST /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc"
    async with serving(hello, rest_seconds=_SOON) as served:
        assert [told(answer) for answer in await exchange(served.address, unfinished)] == [HELLO]


async def test_a_body_may_end_after_its_response_and_the_connection_serves_on() -> None:
    async with serving(hello) as served:
        reader, writer = await served.connect()
        writer.write(b"POST /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\na")
        assert b"HTTP/1.1 200 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"bc" + LAST)
        assert b"HTTP/1.1 200 " in await reader.read()


async def test_a_connection_that_idles_after_such_a_body_is_closed() -> None:
    async with serving(hello, patient_at_first=True, head_seconds=_SOON) as served:
        reader, writer = await served.connect()
        writer.write(b"POST /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\na")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"bc")
        assert await reader.read() == b""


async def test_no_more_than_its_share_of_an_endless_body_is_read() -> None:
    endless = b"POST /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000000\r\n\r\n"
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536

    async with serving(hello, rest_bytes=1_000_000) as served:
        _, writer = await served.connect()
        writer.write(endless)
        with pytest.raises(ConnectionError):
            await flood(writer)
        await served.lost.get()
    assert sent < 50_000_000


@pytest.mark.parametrize("broken", [b"x\r\n", b"2\r\nabc\r\n", b"-1\r\n", b"2;" + b"x" * 100_000])
async def test_a_body_that_breaks_off_is_refused_while_the_app_waits_for_it(broken: bytes) -> None:
    head = b"POST /hello HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    async with serving(patient) as served:
        [answer] = await exchange(served.address, head, b"1\r\na\r\n" + broken)
        assert answer.status in (400, 431)


async def test_a_connection_too_many_is_turned_away_at_once_and_the_next_is_served() -> None:
    async with serving(hello, connections=4) as served:
        for _ in range(4):
            await served.connect()
        [answer] = await exchange(served.address)
        assert told(answer) == OVERLOADED
        assert answer.headers["retry-after"] == "1"
        served.hang_up()
        for _ in range(5):
            await served.lost.get()
        assert [told(answer) for answer in await exchange(served.address, LAST)] == [HELLO]


async def test_connections_far_too_many_are_cut_off() -> None:
    async with serving(hello, connections=4) as served:
        for _ in range(5):
            await served.connect()
        assert await until_closed(served.address, GET) == b""


async def test_a_request_too_many_is_turned_away_at_once_but_not_the_question_for_health() -> None:
    app = Held()
    async with serving(app, requests=1) as served:
        first = asyncio.create_task(exchange(served.address, LAST))
        await app.asked.wait()
        [answer] = await exchange(served.address, LAST)
        assert told(answer) == OVERLOADED
        assert answer.headers["retry-after"] == "1"
        healthy = await exchange(served.address, LAST.replace(b"/hello", b"/healthz"))
        assert [told(answer) for answer in healthy] == [HELLO]
        app.may_answer.set()
        assert [told(answer) for answer in await first] == [HELLO]
        assert [told(answer) for answer in await exchange(served.address, LAST)] == [HELLO]


async def test_requests_sent_ahead_are_served_up_to_a_number() -> None:
    async with serving(hello, pipelined=5) as served:
        answers = await exchange(served.address, GET * 1000)
        assert len(answers) == 6
        assert answers[-1].headers["connection"] == "close"


async def test_a_caller_that_reads_nothing_of_its_response_is_cut_off() -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not cut_off.is_set():
            await send(piece)
            await asyncio.sleep(0)

    piece = {"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True}
    cut_off = asyncio.Event()
    async with serving(endless, stalled_seconds=_SOON) as served:
        _, writer = await served.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET)
        await served.lost.get()
        cut_off.set()


@contextlib.asynccontextmanager
async def before(stack: Stack, **given: Any) -> AsyncIterator[Served]:
    """A gateway before the real server."""
    async with (
        grpc.aio.insecure_channel(stack.grpc_address) as channel,
        serving(create_gateway(channel), **given) as served,
    ):
        await channel.channel_ready()
        yield served


@pytest.fixture
async def gateway(stack: Stack) -> AsyncIterator[Served]:
    async with before(stack) as served:
        yield served


@pytest.fixture
async def hasty_gateway(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """One that does not wait long for a body; for the answer to a call it does."""
    monkeypatch.setattr(calls, "RequestReader", lambda binding, _: RequestReader(binding, 5 * _SOON))
    async with before(stack, rest_seconds=_SOON) as served:
        yield served


def posting(token: str, *fields: str) -> bytes:
    lines = ["POST /runs HTTP/1.1", "host: x", f"authorization: Bearer {token}", *fields]
    return "\r\n".join([*lines, "content-type: application/json", "", ""]).encode()


async def test_a_body_that_does_not_come_is_refused_after_its_token(
    hasty_gateway: Served, token: str
) -> None:
    async def ask(given: str, announced: str) -> bytes:
        reader, writer = await hasty_gateway.connect()
        writer.write(posting(given, announced))
        return await reader.readuntil(b"}") + await reader.read()

    announcements = ("content-length: 100", "content-length: 100000", "transfer-encoding: chunked")
    for given, (status, reason) in ((token, TIMED_OUT), ("bad", (401, "UNAUTHENTICATED"))):
        for answer in await asyncio.gather(*(ask(given, announced) for announced in announcements)):
            assert answer.startswith(f"HTTP/1.1 {status} ".encode())
            assert f'"reason":"{reason}"'.encode() in answer
            assert (b"connection: close\r\n" in answer) is (given == token)


async def test_a_large_body_is_asked_for_once_its_token_is_good(gateway: Served, token: str) -> None:
    expecting = ["content-length: 20000", "expect: 100-continue", "connection: close"]
    assert (await until_closed(gateway.address, posting("bad", *expecting))).startswith(b"HTTP/1.1 401 ")
    reader, writer = await gateway.connect()
    writer.write(posting(token, *expecting))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"[" + b" " * 19_998 + b"]")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.transport.abort()
