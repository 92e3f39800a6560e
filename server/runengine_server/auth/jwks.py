"""Clerk's public keys, fetched from its JWKS URL without blocking the loop."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

_FRESH_SECONDS = 3600.0
# A token with an unknown kid asks for the keys again, but no more often than this.
_MIN_SECONDS_BETWEEN_FETCHES = 10.0
_TIMEOUT_SECONDS = 5.0
_MAX_BYTES = 256 * 1024

_log = structlog.get_logger()


class JwksKeys:
    """The keys of `url` by their kid. The last good ones stay in use while the URL does not answer."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, RSAPublicKey] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def find(self, kid: str | None) -> RSAPublicKey | None:
        """The key, or None when the JWKS has none of that id."""
        if kid is None:
            return None
        if kid not in self._keys or time.monotonic() - self._fetched_at > _FRESH_SECONDS:
            await self._refresh(kid)
        return self._keys.get(kid)

    async def _refresh(self, kid: str) -> None:
        async with self._fetching:
            now = time.monotonic()
            fresh = now - self._fetched_at <= _FRESH_SECONDS
            if (fresh and kid in self._keys) or now - self._tried_at < _MIN_SECONDS_BETWEEN_FETCHES:
                return
            self._tried_at = now
            try:
                self._keys = _parse(await asyncio.to_thread(self._fetch))
                self._fetched_at = now
            except (OSError, ValueError) as error:
                _log.warning("JWKS cannot be fetched; keeping the last good keys", error=type(error).__name__)

    def _fetch(self) -> bytes:
        with urllib.request.urlopen(self._url, timeout=_TIMEOUT_SECONDS) as response:
            body: bytes = response.read(_MAX_BYTES)
            return body


def _parse(body: bytes) -> dict[str, RSAPublicKey]:
    """The RSA signing keys of a JWKS. Raises ValueError when it is none, or has none."""
    keys: dict[str, RSAPublicKey] = {}
    try:
        for each in json.loads(body)["keys"]:
            if each.get("kty") == "RSA" and each.get("use", "sig") == "sig" and each.get("kid"):
                key = jwt.PyJWK(each, algorithm="RS256").key
                if isinstance(key, RSAPublicKey):
                    keys[each["kid"]] = key
    except (KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise ValueError("not a JWKS") from error
    if not keys:
        raise ValueError("no RSA key in the JWKS")
    return keys
