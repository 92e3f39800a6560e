"""Verifies the JWTs that Clerk signs: session tokens of users, and M2M tokens of machines.

Sources: the contract, section Codes; Clerk's "Session tokens" (claims of versions 1 and 2), "Manual JWT
verification" and "Using M2M tokens"; RFC 7515, 7519 and 8725.

A user's token names its organisation in `o.id` when it has `v: 2`, in `org_id` when it has no `v`, and in
`azp` the origin of the page that asked for it. An M2M token (`sub` is `mch_…`) has neither: Clerk puts
`iss, sub, exp, nbf, iat, jti` into it, and the rest of its claims are whatever the machine asked for. So
nothing that it says of an organisation, a session, a party or an impersonator counts; our settings list the
tenants of each machine, and each call chooses one of them.

Clerk signs several classes of JWT with one key and tells them apart by the header `cat`, which only the
source of @clerk/backend (3.25.0, src/tokens/jwtCategories.ts) describes. JWTs of templates are made for
third parties, live as long as the template says, and claim whatever it says: they are no session.
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

from runengine_server.auth.refusals import RefusalCause, TenantRefused, TokenRefused, shown
from runengine_server.domain.caller import Caller
from runengine_server.domain.errors import NoOrganisation

MIN_RSA_BITS = 2048  # RFC 7518, section 3.3

_SKEW_SECONDS = 5
# How deep the parser goes before it gives up depends on the Python; no honest token gets near this.
_MAX_BRACKETS = 500
_MAX_TOKEN_LENGTH = 8 * 1024
# The end of the year 9999: a later time is no time, most likely it is in milliseconds.
_LAST_SECOND = 253_402_300_799

# Unpadded base64url, three times: RFC 7515, section 7.1.
_COMPACT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
# What a subject or a tenant may be. Clerk's ids are shorter; PostgreSQL and the log take these as they are.
_ID = re.compile(r"[\x21-\x7e]{1,255}")
_MACHINE = "mch_"
# How Clerk's opaque tokens begin: of machines, of API keys, of OAuth applications.
_OPAQUE = ("mt_", "ak_", "oat_")
_SESSION_CATEGORY, _MACHINE_CATEGORY = "cl_B7d4PD111AAA", "cl_B7d4PD333AAA"

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
    impersonator: str | None
    kid: str | None
    key: RSAPublicKey
    expires: float


class ClerkVerifier:
    """Tokens to callers.

    A good token is cached, so that its signature is checked once: until it expires, or until its key is no
    longer among `keys`. With a JWKS that is a minute after Clerk has withdrawn it.
    """

    def __init__(
        self,
        keys: Keys,
        issuer: str,
        authorized_parties: Collection[str],
        machines: Mapping[str, Collection[str]] | None = None,
        clock: Callable[[], float] = time.time,
        max_cached: int = 10_000,
    ) -> None:
        """`authorized_parties`: the `azp` to accept, any when empty. `machines`: `mch_…` → its tenants.
        `max_cached`: how many tokens are cached at most.
        """
        self._keys = keys
        self._issuer = issuer
        self._authorized_parties = frozenset(authorized_parties)
        self._machines = {machine: frozenset(tenants) for machine, tenants in (machines or {}).items()}
        self._clock = clock
        self._max_cached = max_cached
        # By digest: 10,000 tokens of 8 KiB would be 80 MB, and no token is kept in memory.
        self._cached: OrderedDict[bytes, _Verified] = OrderedDict()

    async def verify(self, token: str, tenant: str | None = None) -> Caller:
        """Who the token speaks for. `tenant` is what the call asks for; only a machine has a choice.

        Raises TokenRefused, the same to the caller whatever is wrong with the token and for a machine that is
        not listed, which learns no more than that. Raises NoOrganisation for a user without an active
        organisation, and for a listed machine that asks for no tenant, or for one that is not its own.
        """
        if len(token) > _MAX_TOKEN_LENGTH:
            raise TokenRefused(RefusalCause.TOO_LONG)
        if not token.isascii():
            raise TokenRefused(RefusalCause.MALFORMED)
        digest = hashlib.sha256(token.encode()).digest()
        verified = self._cached.get(digest)
        if verified is None or not await self._is_valid(verified):
            self._cached.pop(digest, None)
            verified = self._cached[digest] = await self._verify(token)
            if len(self._cached) > self._max_cached:
                self._cached.popitem(last=False)
        return self._caller(verified, tenant)

    @property
    def cached_tokens(self) -> int:
        """How many tokens are cached."""
        return len(self._cached)

    def _caller(self, verified: _Verified, tenant: str | None) -> Caller:
        subject = verified.subject
        if not subject.startswith(_MACHINE):
            tenant = verified.organisation
            if tenant is None:
                raise NoOrganisation
        elif (tenants := self._machines.get(subject)) is None:
            raise TokenRefused(RefusalCause.UNKNOWN_MACHINE, machine=shown(subject))
        elif tenant is None:
            raise TenantRefused(RefusalCause.NO_TENANT, machine=shown(subject))
        elif tenant not in tenants:
            raise TenantRefused(RefusalCause.FOREIGN_TENANT, machine=shown(subject), tenant=shown(tenant))
        return Caller(tenant, subject, verified.impersonator, verified.expires)

    async def _is_valid(self, verified: _Verified) -> bool:
        return self._clock() < verified.expires and await self._keys.find(verified.kid) == verified.key

    async def _verify(self, token: str) -> _Verified:
        if not _COMPACT.fullmatch(token):
            raise TokenRefused(
                RefusalCause.OPAQUE_TOKEN if token.startswith(_OPAQUE) else RefusalCause.MALFORMED
            )
        header = _object(_decoded(token.partition(".")[0]))
        kid = _checked_kid(header)
        key = await self._keys.find(kid)
        if key is None:
            raise TokenRefused(RefusalCause.UNKNOWN_KEY)
        try:
            payload: bytes = _jws.decode(token, key, algorithms=["RS256"])
        except jwt.InvalidTokenError:
            raise TokenRefused(RefusalCause.BAD_SIGNATURE) from None
        claims = _object(payload)
        self._check_issuer(claims)
        expires = self._check_times(claims)
        if not _is_id(subject := claims.get("sub")):
            raise _invalid("sub")
        machine = subject.startswith(_MACHINE)
        check_category(header, machine)
        if machine:
            return _Verified(subject, None, None, kid, key, expires)
        self.check_party(claims.get("azp"))
        # Clerk's other status is "pending": the user has yet to choose an organisation, or a second factor.
        if claims.get("sts", "active") != "active":
            raise TokenRefused(RefusalCause.INACTIVE_SESSION)
        return _Verified(subject, _organisation(claims), _impersonator(claims), kid, key, expires)

    def _check_issuer(self, claims: dict[str, Any]) -> None:
        issuer = claims.get("iss")
        if not isinstance(issuer, str):
            raise _invalid("iss")
        if issuer != self._issuer:
            raise TokenRefused(RefusalCause.WRONG_ISSUER, issuer=shown(issuer), expected=shown(self._issuer))

    def _check_times(self, claims: dict[str, Any]) -> float:
        """When the token ends. Raises TokenRefused when it has, has not begun, or does not say."""
        ends = _time(claims, "exp") + _SKEW_SECONDS
        begins = max(_time(claims, "nbf"), _time(claims, "iat")) - _SKEW_SECONDS
        now = self._clock()
        if now >= ends:
            raise TokenRefused(RefusalCause.EXPIRED, seconds_ago=round(now - ends + _SKEW_SECONDS))
        if now < begins:
            raise TokenRefused(RefusalCause.NOT_YET_VALID, seconds_ahead=round(begins - now + _SKEW_SECONDS))
        return ends

    def check_party(self, party: object) -> None:
        """Raises TokenRefused for an `azp` that is none of the authorized parties, where there are any."""
        if not self._authorized_parties:
            return
        if not isinstance(party, str):
            raise TokenRefused(RefusalCause.WRONG_PARTY)
        if party not in self._authorized_parties:
            raise TokenRefused(RefusalCause.WRONG_PARTY, party=shown(party))


def _invalid(claim: str) -> TokenRefused:
    return TokenRefused(RefusalCause.INVALID_CLAIM, claim=claim)


def _checked_kid(header: dict[str, Any]) -> str | None:
    """The kid, None when there is none. Raises TokenRefused."""
    if header.get("alg") != "RS256":
        raise TokenRefused(RefusalCause.WRONG_ALGORITHM)
    # Clerk signs the tokens of its OAuth applications with the same key; their type is at+jwt.
    if header.get("typ", "JWT") != "JWT":
        raise TokenRefused(RefusalCause.WRONG_TYPE)
    if _FORBIDDEN_HEADERS & header.keys():
        raise TokenRefused(RefusalCause.FORBIDDEN_HEADER)
    kid: str | None = header.get("kid")
    if "kid" in header and not isinstance(kid, str):
        raise TokenRefused(RefusalCause.MALFORMED)
    return kid


def check_category(header: dict[str, Any], machine: bool) -> None:
    """Absent is good: tokens had no category once. Clerk's cl_I7d4PD111III, which an instance may write into
    all of its tokens alike, is refused: it would let templates in as sessions.
    """
    category = header.get("cat")
    if "cat" in header and category != (_MACHINE_CATEGORY if machine else _SESSION_CATEGORY):
        raise TokenRefused(
            RefusalCause.WRONG_CATEGORY,
            category=shown(category) if isinstance(category, str) else "no string",
        )


def _decoded(part: str) -> bytes:
    """The bytes of a part. Raises TokenRefused when no base64url has this length."""
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise TokenRefused(RefusalCause.MALFORMED) from None


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object. Raises TokenRefused when it is none, is not UTF-8, or repeats a name anywhere:
    of two parsers, one may read the first and one the last (RFC 7519, section 4).
    """
    if text.count(b"[") + text.count(b"{") > _MAX_BRACKETS:
        raise TokenRefused(RefusalCause.MALFORMED)
    try:
        found = json.loads(text.decode(), object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise TokenRefused(RefusalCause.MALFORMED) from None
    if not isinstance(found, dict):
        raise TokenRefused(RefusalCause.MALFORMED)
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("repeated name")
    return found


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _time(claims: dict[str, Any], name: str) -> float:
    """The NumericDate (RFC 7519, section 2). Raises TokenRefused when it is missing or none."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_SECOND:
        raise _invalid(name)
    return float(value)


def _is_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _organisation(claims: dict[str, Any]) -> str | None:
    """The active organisation, None when the token has none.

    The version says which claim counts, as in Clerk's own reader; the other may be a custom one. Raises
    TokenRefused when what counts is malformed, or the version is none that we know.
    """
    compact, plain = claims.get("o"), claims.get("org_id")
    if "v" not in claims:
        _check_texts(claims, "org_role", "org_slug")
        other = compact.get("id") if isinstance(compact, dict) else None
        return None if plain is None else _agreed("org_id", plain, other)
    if type(claims["v"]) is not int or claims["v"] != 2:
        raise TokenRefused(RefusalCause.UNKNOWN_VERSION)
    if compact is None:
        return None
    if not isinstance(compact, dict):
        raise _invalid("o")
    _check_texts(compact, "rol", "slg")
    return _agreed("o", compact.get("id"), plain)


def _agreed(name: str, organisation: object, other: object) -> str:
    """The organisation. Raises TokenRefused when the claim that does not count names another one: whoever
    made the token, or reads it elsewhere, may have meant that.
    """
    if not _is_id(organisation):
        raise _invalid(name)
    if other is not None and other != organisation:
        raise TokenRefused(RefusalCause.TWO_ORGANISATIONS)
    return organisation


def _check_texts(values: dict[str, Any], *names: str) -> None:
    for name in names:
        if not isinstance(values.get(name), str | None):
            raise _invalid(name)


def _impersonator(claims: dict[str, Any]) -> str | None:
    """Who acts for the subject (RFC 8693, section 4.1), None when it acts itself. An `act` within `act` is
    history, and is not read. Raises TokenRefused when it is malformed.
    """
    actor = claims.get("act")
    if actor is None:
        return None
    if not isinstance(actor, dict) or not _is_id(actor.get("sub")):
        raise _invalid("act")
    impersonator: str = actor["sub"]
    return impersonator
