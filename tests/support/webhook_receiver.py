"""A server of HTTP that gets webhooks."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support.patience import SECONDS

NEVER = b""
OK = b"HTTP/1.1 204 No Content\r\n\r\n"


def status(code: int, *headers: str) -> bytes:
    """A response with that status and these header lines, and a body that never ends."""
    return "\r\n".join([f"HTTP/1.1 {code} x", *headers, "content-length: 1000000000", "", "x"]).encode()


@dataclass(frozen=True)
class Received:
    """A request: its path, its headers by their names in lower case, its body."""

    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def payload(self) -> dict[str, Any]:
        payload: dict[str, Any] = json.loads(self.body)
        return payload

    @property
    def event(self) -> str:
        return str(self.payload["type"])


class Receiver:
    """Keeps each request, and responds to it with what `respond` returns: all of a response, or NEVER."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.respond: Callable[[Received], bytes] = lambda request: OK
        self.port = 0
        self._changed = asyncio.Condition()

    def url(self, path: str = "/hook", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def of(self, path: str) -> list[Received]:
        return [each for each in self.received if each.path == path]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits for requests until it holds."""
        async with asyncio.timeout(SECONDS), self._changed:
            await self._changed.wait_for(holds)

    async def until_received(self, number: int, path: str = "/hook") -> list[Received]:
        await self.until(lambda: len(self.of(path)) >= number)
        return self.of(path)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(headers["content-length"]))
            request = Received(first.split(" ")[1], headers, body)
            response = self.respond(request)
            async with self._changed:
                self.received.append(request)
                self._changed.notify_all()
            if response is not NEVER:
                writer.write(response)
                await writer.drain()
            await reader.read()  # until the other side closes
        writer.close()


@asynccontextmanager
async def receiving(context: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver at work; with TLS where there is a context."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver._accept, "127.0.0.1", 0, ssl=context)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
