"""Clerk's public keys, fetched from its JWKS URL without blocking the loop. Source: RFC 7517."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import ssl
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from typing import Protocol, cast
from urllib.parse import urlsplit

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import RSAAlgorithm

from runengine_server.auth.clerk import MIN_RSA_BITS

# A key that Clerk withdraws is honoured for this long, and for a fetch.
_SECONDS_BETWEEN_REFRESHES = 60.0
# A token with an unknown kid asks for the keys again, but no more often than this.
_MIN_SECONDS_BETWEEN_FETCHES = 10.0
_MAX_BYTES = 256 * 1024

_log = structlog.get_logger()


class Timer(Protocol):
    """What has been put off."""

    def cancel(self) -> None:
        """It does not happen."""


class Clock(Protocol):
    """The two methods of an event loop that tell time."""

    def time(self) -> float:
        """Seconds since some moment."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Has the callback called in so many seconds."""


class JwksKeys:
    """The keys of a URL by their kid.

    From the first use on they are fetched once a minute, and also when a token has a kid that is not
    among them. One fetch is under way at a time, and only callers with such a kid wait for it. While
    the URL does not answer, or not with keys, the last good ones stay in use.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 3.0, clock: Clock | None = None) -> None:
        """Raises ValueError for a URL that is not http(s). Without a `clock`, needs a running loop."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("not an http(s) URL")
        if not re.fullmatch(r"[\x21-\x7e]+", url):
            raise ValueError("the URL has characters that need escaping")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.hostname
        self._port = parts.port or (443 if self._tls else 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._request = (
            f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: application/json\r\n"
            "Accept-Encoding: identity\r\nUser-Agent: runengine\r\nConnection: close\r\n\r\n"
        ).encode()
        self._timeout_seconds = timeout_seconds
        self._clock: Clock = clock or asyncio.get_running_loop()
        self._keys: dict[str, RSAPublicKey] = {}
        self._tried_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self._next_refresh: Timer | None = None

    async def find(self, kid: str | None) -> RSAPublicKey | None:
        """The key, or None when the JWKS has none of that id. Raises nothing, and waits for a fetch only
        when the kid is unknown.
        """
        if kid is None:
            return None
        if kid not in self._keys:
            if self._clock.time() - self._tried_at >= _MIN_SECONDS_BETWEEN_FETCHES:
                self._start_refresh()
            if self._refreshing is not None:
                # wait() and not await: a caller that goes away must not end it for the others.
                await asyncio.wait([self._refreshing])
        return self._keys.get(kid)

    def _start_refresh(self) -> None:
        if self._refreshing is None:
            self._tried_at = self._clock.time()
            self._refreshing = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        seconds = _MIN_SECONDS_BETWEEN_FETCHES
        try:
            self._keys = _parse(await self._fetch())
            seconds = _SECONDS_BETWEEN_REFRESHES
        except (OSError, ValueError, HTTPException) as error:
            _log.warning("JWKS cannot be fetched; keeping the last good keys", error=type(error).__name__)
        finally:
            self._refreshing = None
            if self._next_refresh is not None:
                self._next_refresh.cancel()
            self._next_refresh = self._clock.call_later(seconds, self._start_refresh)

    async def _fetch(self) -> bytes:
        """The body of the answer. Raises OSError, ValueError or HTTPException.

        By hand, because urllib blocks a thread for as long as the other side lets a byte drip, follows
        redirects, and reads files. A proxy of the environment is not used.
        """
        received = bytearray()
        async with asyncio.timeout(self._timeout_seconds):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
            try:
                writer.write(self._request)
                while chunk := await reader.read(64 * 1024):
                    received += chunk
                    if len(received) > _MAX_BYTES:
                        raise ValueError("too large")
            finally:
                writer.transport.abort()
        response = HTTPResponse(cast(socket.socket, _Received(bytes(received))))
        response.begin()
        if response.status != 200:
            raise ValueError("not a 200")
        return response.read()


class _Received:
    """Lets HTTPResponse read what has arrived already."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._received)


def _parse(body: bytes) -> dict[str, RSAPublicKey]:
    """The usable keys of a JWKS by their kid. Raises ValueError when it is none, or has none."""
    try:
        jwks = json.loads(body)
    except RecursionError as error:
        raise ValueError("not a JWKS") from error
    entries = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JWKS")
    keys: dict[str, RSAPublicKey] = {}
    ambiguous: set[str] = set()
    for entry in entries:
        if (key := _signing_key(entry)) is not None and keys.setdefault(entry["kid"], key) != key:
            ambiguous.add(entry["kid"])
    keys = {kid: key for kid, key in keys.items() if kid not in ambiguous}
    if not keys:
        raise ValueError("no usable key in the JWKS")
    return keys


def _signing_key(entry: object) -> RSAPublicKey | None:
    """The key of a JWK, None when it is not for RS256, too short or malformed: others may be good."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str):
        return None
    if entry.get("use", "sig") != "sig" or entry.get("alg", "RS256") != "RS256":
        return None
    try:
        key = RSAAlgorithm.from_jwk(entry)
    except (jwt.InvalidKeyError, ValueError, TypeError):
        return None
    return key if isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS else None
