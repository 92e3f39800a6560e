"""A server of signing keys that says what the test wants, when it wants it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.token_forge import generated, part

ONE, TWO = generated(), generated()


def jwk(key: rsa.RSAPrivateKey, kid: object, **changes: object) -> dict[str, object]:
    numbers = key.public_key().public_numbers()
    n = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")
    return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": part(n), "e": "AQAB", **changes}


def jwks(*entries: object) -> bytes:
    return json.dumps({"keys": entries}).encode()


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class JwksServer:
    """Answers what the test says, when it says so."""

    def __init__(self) -> None:
        self.answer = http(jwks(jwk(ONE, "one")))
        self.requests: list[bytes] = []
        self.asked = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self.url = ""

    async def start(self, tls: ssl.SSLContext | None = None) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}/.well-known/jwks.json?v=1"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            self.asked.set()
            await self.answering.wait()
            writer.write(self.answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class Clock:
    """The time of an event loop that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self, self.now + delay, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for timer in [each for each in self.timers if each.due <= self.now]:
            timer.cancel()
            timer.callback()


class Timer:
    def __init__(self, clock: Clock, due: float, callback: Callable[[], None]) -> None:
        self._clock = clock
        self.due = due
        self.callback = callback

    def cancel(self) -> None:
        if self in self._clock.timers:
            self._clock.timers.remove(self)
