"""Verifies the JWTs that Clerk signs: session tokens of users, and M2M tokens of machines.

Sources: the contract, section Codes; Clerk's "Session tokens" (claims of versions 1 and 2), "Manual JWT
verification" and "Using M2M tokens"; RFC 7515, 7519 and 8725.

A user's token names its organisation in `org_id` (version 1) or `o.id` (version 2), and in `azp` the origin
of the page that asked for it. An M2M token (`sub` is `mch_…`) has neither: Clerk puts `iss, sub, exp, nbf,
iat, jti` into it, and the rest of its claims are whatever the machine asked for. So nothing that it says of
an organisation counts; our settings list the tenants of each machine, and each call chooses one of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeGuard

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from runengine_server.domain.caller import Caller
from runengine_server.domain.errors import NoOrganisation, Unauthenticated

MIN_RSA_BITS = 2048  # RFC 7518, section 3.3

_SKEW_SECONDS = 5
# How deep the parser goes before it gives up depends on the Python; no honest token gets near this.
_MAX_BRACKETS = 500
_MAX_TOKEN_LENGTH = 8 * 1024
_CACHED_TOKENS = 10_000
# The end of the year 9999: a later time is no time, most likely it is in milliseconds.
_LAST_SECOND = 253_402_300_799

# Unpadded base64url, three times: RFC 7515, section 7.1.
_COMPACT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
# What a subject or a tenant may be. Clerk's ids are shorter; PostgreSQL and the log take these as they are.
_ID = re.compile(r"[\x21-\x7e]{1,255}")
_MACHINE = "mch_"

# Headers that would let a token bring its own key or its own rules.
_FORBIDDEN_HEADERS = {"crit", "b64", "zip", "enc", "jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256"}

_jws = jwt.PyJWS(algorithms=["RS256"])


class Keys(Protocol):
    """Our own public keys; a token's `kid` only looks one of them up."""

    async def find(self, kid: str | None) -> RSAPublicKey | None:
        """The key, or None when we have none of that id."""


class PemKey:
    """The one key that the settings give; every `kid` finds it."""

    def __init__(self, pem: str) -> None:
        """Raises ValueError unless it is an RSA public key of at least 2048 bits."""
        try:
            key = load_pem_public_key(pem.encode())
        except UnsupportedAlgorithm as error:
            raise ValueError("not a key that we know") from error
        if not isinstance(key, RSAPublicKey) or key.key_size < MIN_RSA_BITS:
            raise ValueError("not an RSA key, or too short")
        self._key = key

    async def find(self, kid: str | None) -> RSAPublicKey | None:
        """The key."""
        return self._key


@dataclass(frozen=True, slots=True)
class _Verified:
    """What a good token says, the key that it was good with, and until when."""

    subject: str
    organisation: str | None
    kid: str | None
    key: RSAPublicKey
    expires: float


class ClerkVerifier:
    """Tokens to callers.

    A good token is remembered, so that its signature is checked once: until it expires, or until its key
    is no longer among `keys`. With a JWKS that is a minute after Clerk has withdrawn it.
    """

    def __init__(
        self,
        keys: Keys,
        issuer: str,
        authorized_parties: Collection[str],
        machines: Mapping[str, Collection[str]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`authorized_parties`: the `azp` to accept, any when empty. `machines`: `mch_…` → its tenants."""
        self._keys = keys
        self._issuer = issuer
        self._authorized_parties = frozenset(authorized_parties)
        self._machines = {machine: frozenset(tenants) for machine, tenants in (machines or {}).items()}
        self._clock = clock
        # By digest, because 10,000 tokens of 8 KiB are 80 MB, and none of them lies about in memory.
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    async def verify(self, token: str, tenant: str | None = None) -> Caller:
        """Who the token speaks for. `tenant` is what the call asks for; only a machine has a choice.

        Raises Unauthenticated, the same for every flaw, and for a machine that is not listed: it learns
        no more than that it is not let in. Raises NoOrganisation for a user without an active
        organisation, and for a listed machine that asks for no tenant, or for one that is not its own.
        """
        if len(token) > _MAX_TOKEN_LENGTH or not token.isascii():
            raise Unauthenticated
        digest = hashlib.sha256(token.encode()).digest()
        verified = self._verified.get(digest)
        if verified is None or not await self._holds(verified):
            self._verified.pop(digest, None)
            verified = self._verified[digest] = await self._check(token)
            if len(self._verified) > _CACHED_TOKENS:
                self._verified.popitem(last=False)
        return self._caller(verified, tenant)

    def _caller(self, verified: _Verified, tenant: str | None) -> Caller:
        if not verified.subject.startswith(_MACHINE):
            tenant = verified.organisation
            if tenant is None:
                raise NoOrganisation
        elif (tenants := self._machines.get(verified.subject)) is None:
            raise Unauthenticated
        elif tenant is None or tenant not in tenants:
            raise NoOrganisation
        return Caller(tenant_id=tenant, subject=verified.subject)

    async def _holds(self, verified: _Verified) -> bool:
        return self._clock() < verified.expires and await self._keys.find(verified.kid) == verified.key

    async def _check(self, token: str) -> _Verified:
        if not _COMPACT.fullmatch(token):
            raise Unauthenticated
        header = _object(_decoded(token.partition(".")[0]))
        kid = header.get("kid")
        if (
            header.get("alg") != "RS256"
            # Clerk signs the tokens of its OAuth applications with the same key; their type is at+jwt.
            or header.get("typ", "JWT") != "JWT"
            or _FORBIDDEN_HEADERS & header.keys()
            or not isinstance(kid, str | None)
        ):
            raise Unauthenticated
        key = await self._keys.find(kid)
        if key is None:
            raise Unauthenticated
        try:
            payload: bytes = _jws.decode(token, key, algorithms=["RS256"])
        except jwt.InvalidTokenError:
            raise Unauthenticated from None
        claims = _object(payload)
        expires = self._judge_times(claims)
        subject = claims.get("sub")
        if claims.get("iss") != self._issuer or not _is_id(subject):
            raise Unauthenticated
        # Clerk's other status is "pending": the user has yet to choose an organisation, or a second factor.
        if claims.get("sts", "active") != "active":
            raise Unauthenticated
        machine = subject.startswith(_MACHINE)
        self._judge_party(claims.get("azp"), machine)
        organisation = None if machine else _organisation(claims)
        return _Verified(subject, organisation, kid, key, expires)

    def _judge_times(self, claims: dict[str, Any]) -> float:
        """When the token ends. Raises Unauthenticated when it has, has not begun, or does not say."""
        ends = _time(claims, "exp") + _SKEW_SECONDS
        begins = max(_time(claims, "nbf"), _time(claims, "iat")) - _SKEW_SECONDS
        if not begins <= self._clock() < ends:
            raise Unauthenticated
        return ends

    def _judge_party(self, party: object, machine: bool) -> None:
        if not self._authorized_parties or (machine and party is None):
            return
        if not isinstance(party, str) or party not in self._authorized_parties:
            raise Unauthenticated


def _decoded(part: str) -> bytes:
    """The bytes of a part. Raises Unauthenticated when no base64url has this length."""
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise Unauthenticated from None


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object. Raises Unauthenticated when it is none, is not UTF-8, or repeats a name anywhere:
    of two parsers, one may read the first and one the last (RFC 7519, section 4).
    """
    if text.count(b"[") + text.count(b"{") > _MAX_BRACKETS:
        raise Unauthenticated
    try:
        found = json.loads(text.decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Unauthenticated from None
    if not isinstance(found, dict):
        raise Unauthenticated
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("repeated name")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _time(claims: dict[str, Any], name: str) -> float:
    """The NumericDate (RFC 7519, section 2). Raises Unauthenticated when it is missing or none."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_SECOND:
        raise Unauthenticated
    return float(value)


def _is_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _organisation(claims: dict[str, Any]) -> str | None:
    """The active organisation, None when the token has none.

    Raises Unauthenticated when it is malformed, or when the two versions of the claims, both in one
    token, say different things. A role is `org:admin` in version 1 and `admin` in version 2.
    """
    compact = {} if (given := claims.get("o")) is None else given
    if not isinstance(compact, dict):
        raise Unauthenticated

    def agreed(old: str, new: str, prefix: str = "") -> str | None:
        values = [value for value in (claims.get(old), compact.get(new)) if value is not None]
        if not all(isinstance(value, str) for value in values):
            raise Unauthenticated
        if len({value.removeprefix(prefix) for value in values}) > 1:
            raise Unauthenticated
        return values[0] if values else None

    agreed("org_role", "rol", prefix="org:")
    agreed("org_slug", "slg")
    organisation = agreed("org_id", "id")
    if organisation is None and given is None:
        return None
    if not _is_id(organisation):
        raise Unauthenticated
    return organisation
