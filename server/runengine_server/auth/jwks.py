"""Clerk's public keys, fetched from its JWKS URL without blocking the loop. Source: RFC 7517."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

import httpx
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import RSAAlgorithm

from runengine_server.auth.clerk import MIN_RSA_BITS

# A key that Clerk withdraws is honoured for this long, and for a fetch.
_SECONDS_BETWEEN_REFRESHES = 60.0
# A token with an unknown kid asks for the keys again, but no more often than this.
_MIN_SECONDS_BETWEEN_FETCHES = 10.0
MAX_BYTES = 256 * 1024
_MAX_HEAD_BYTES = 64 * 1024
_HEADERS = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "runengine"}

_log = structlog.get_logger()


class Timer(Protocol):
    """What `call_later` returns."""

    def cancel(self) -> None:
        """The callback is not called."""


class Clock(Protocol):
    """The two methods of an event loop that tell time."""

    def time(self) -> float:
        """Seconds since some moment."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Calls the callback after `delay` seconds."""


class JwksKeys:
    """The keys of a URL by their kid.

    From the first use on they are fetched once a minute, and also when a token has a kid that is not
    among them. One fetch is under way at a time, and only callers with such a kid wait for it. While
    the URL does not respond, or not with keys, the last good ones stay in use.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 3.0, clock: Clock | None = None) -> None:
        """Raises ValueError for a URL that is not http(s). Without a `clock`, needs a running loop."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("not an http(s) URL")
        if not re.fullmatch(r"[\x21-\x7e]+", url):
            raise ValueError("the URL has characters that need escaping")
        _ = parts.port  # raises ValueError unless it is a port
        self._url = url
        self._tls = ssl.create_default_context() if parts.scheme == "https" else False
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
            await self.wait_for_fetch()
        return self._keys.get(kid)

    async def wait_for_fetch(self) -> bool:
        """Waits until the fetch that is under way has ended. Returns whether there was one."""
        if self._refreshing is None:
            return False
        # wait() and not await: a caller that goes away must not end it for the others.
        await asyncio.wait([self._refreshing])
        return True

    @property
    def kids(self) -> frozenset[str]:
        """The ids of the keys of the last good fetch."""
        return frozenset(self._keys)

    def _start_refresh(self) -> None:
        if self._refreshing is None:
            self._tried_at = self._clock.time()
            self._refreshing = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        seconds = _MIN_SECONDS_BETWEEN_FETCHES
        try:
            self._keys = _parse(await self._fetch())
            seconds = _SECONDS_BETWEEN_REFRESHES
        except (OSError, ValueError, httpx.HTTPError) as error:
            _log.warning("JWKS cannot be fetched; keeping the last good keys", error=type(error).__name__)
        finally:
            self._refreshing = None
            if self._next_refresh is not None:
                self._next_refresh.cancel()
            self._next_refresh = self._clock.call_later(seconds, self._start_refresh)

    async def _fetch(self) -> bytes:
        """The body of the response. Raises OSError (TimeoutError too), ValueError or httpx.HTTPError."""
        body = bytearray()
        async with (
            # In all: httpx's own time-outs are for each read, and a byte may drip for ever.
            asyncio.timeout(self._timeout_seconds),
            # No proxy and no .netrc of the environment; the system's certificates, and not certifi's.
            httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=None) as client,
            client.stream("GET", self._url, headers=_HEADERS) as response,
        ):
            head = sum(len(name) + len(value) for name, value in response.headers.raw)
            if response.status_code != 200 or head > _MAX_HEAD_BYTES:
                raise ValueError("not a 200, or too large")
            # As it was sent: a compressed body is refused, as no JSON.
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError("too large")
        return bytes(body)


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
