"""Verifies Clerk's session tokens. Source: the contract, and Clerk's "Manual JWT verification"."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from runengine_server.domain.caller import Caller
from runengine_server.domain.errors import NoOrganisation, Unauthenticated

_SKEW_SECONDS = 5
_MAX_TOKEN_BYTES = 8 * 1024
_REQUIRED = ["exp", "nbf", "iat", "iss", "sub"]
# Headers that would let a token bring its own key or its own rules.
_FORBIDDEN_HEADERS = {"crit", "jku", "jwk", "x5u", "x5c", "x5t", "b64", "zip"}
_CACHED_TOKENS = 10_000


class Keys(Protocol):
    """Our own public keys; a token's `kid` only looks one of them up."""

    async def find(self, kid: str | None) -> RSAPublicKey | None:
        """The key, or None when we have none of that id."""


class PemKey:
    """The one key that the settings give; every `kid` finds it."""

    def __init__(self, pem: str) -> None:
        key = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).prepare_key(pem)
        if not isinstance(key, RSAPublicKey):
            raise TypeError("not a public key")
        self._key = key

    async def find(self, kid: str | None) -> RSAPublicKey | None:
        """The key."""
        return self._key


class ClerkVerifier:
    """Tokens to callers. A good token is remembered until it expires, so that it is checked once."""

    def __init__(self, keys: Keys, issuer: str, authorized_parties: Sequence[str]) -> None:
        self._keys = keys
        self._issuer = issuer
        self._authorized_parties = frozenset(authorized_parties)
        self._verified: OrderedDict[str, tuple[Caller, float]] = OrderedDict()

    async def verify(self, token: str) -> Caller:
        """Who the token speaks for. Raises Unauthenticated, the same for every flaw, or NoOrganisation."""
        if remembered := self._verified.get(token):
            caller, expires = remembered
            if time.time() < expires:
                return caller
            del self._verified[token]
        claims = await self._claims(token)
        organisation = _organisation(claims)
        if organisation is None:
            raise NoOrganisation
        caller = Caller(tenant_id=organisation, subject=claims["sub"])
        self._verified[token] = (caller, claims["exp"] + _SKEW_SECONDS)
        if len(self._verified) > _CACHED_TOKENS:
            self._verified.popitem(last=False)
        return caller

    async def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > _MAX_TOKEN_BYTES or token.count(".") != 2:
            raise Unauthenticated
        header = _json_part(token, 0)
        _json_part(token, 1)
        if header.get("alg") != "RS256" or _FORBIDDEN_HEADERS & header.keys():
            raise Unauthenticated
        kid = header.get("kid")
        if kid is not None and not isinstance(kid, str):
            raise Unauthenticated
        key = await self._keys.find(kid)
        if key is None:
            raise Unauthenticated
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                issuer=self._issuer,
                leeway=_SKEW_SECONDS,
                options={"require": _REQUIRED, "verify_aud": False},
            )
        except (jwt.InvalidTokenError, ValueError, OverflowError):
            raise Unauthenticated from None
        if not isinstance(claims["sub"], str) or not claims["sub"] or claims.get("sts") == "pending":
            raise Unauthenticated
        if self._authorized_parties and claims.get("azp") not in self._authorized_parties:
            raise Unauthenticated
        return claims


def _json_part(token: str, index: int) -> dict[str, Any]:
    """A part of the token as an object; Unauthenticated when it is none or repeats a name."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("repeated name")
        return found

    part = token.split(".")[index]
    try:
        decoded = base64.b64decode(part + "=" * (-len(part) % 4), altchars="-_", validate=True)
        parsed = json.loads(decoded, object_pairs_hook=once)
    except (ValueError, binascii.Error, RecursionError):
        raise Unauthenticated from None
    if not isinstance(parsed, dict):
        raise Unauthenticated
    return parsed


def _organisation(claims: dict[str, Any]) -> str | None:
    """The active organisation, from version 1 (`org_id`) or version 2 (`o.id`) of Clerk's claims."""
    compact = claims.get("o")
    if compact is not None and not isinstance(compact, dict):
        raise Unauthenticated
    given = [value for value in (claims.get("org_id"), (compact or {}).get("id")) if value is not None]
    if not given:
        return None
    if not all(isinstance(value, str) and value for value in given) or len(set(given)) > 1:
        raise Unauthenticated
    return str(given[0])
