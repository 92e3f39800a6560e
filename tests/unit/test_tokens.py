"""Which tokens are let in, as whom, and that every other one is told the same."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from google.rpc import error_details_pb2, status_pb2
from runengine.v1 import (
    campaign_service_pb2,
    campaign_service_pb2_grpc,
    run_service_pb2,
    run_service_pb2_grpc,
)
from runengine_server import app
from runengine_server.auth import clerk, development
from runengine_server.auth.clerk import ClerkVerifier, PemKey
from runengine_server.domain.errors import NoOrganisation, RunEngineError, Unauthenticated
from runengine_server.settings import Settings, SettingsError, read_settings

from tests.stack import Stack

PARTY = "https://app.example.com"
MACHINES = {"mch_1": ["org_a", "org_b"], "mch_2": ["org_b"]}
MAX_LENGTH = 8 * 1024
_NO_RUN = str(uuid.uuid4())


class In(float):
    """A claim's time, in so many seconds from the moment at which the token is made."""


MISSING = object()


def part(value: object) -> str:
    """A part of a token. Bytes are taken as they are, anything else as JSON."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def generated(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def rs256(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
    return key.sign(message, padding.PKCS1v15(), hashes.SHA256())


Signing = Callable[[rsa.RSAPrivateKey, bytes], bytes]


class Forge:
    """Signs anything at all with one key."""

    def __init__(self, key: rsa.RSAPrivateKey, now: Callable[[], float] = time.time) -> None:
        self.key = key
        self._now = now

    def header(self, **changes: object) -> dict[str, object]:
        return _changed({"alg": "RS256", "typ": "JWT", "kid": "development"}, changes)

    def claims(self, **changes: object) -> dict[str, object]:
        """A session token's of version 2, with changes."""
        now = int(self._now())
        claims = {
            "iss": development.ISSUER,
            "sub": "user_1",
            "azp": PARTY,
            "sts": "active",
            "v": 2,
            "o": {"id": "org_a", "rol": "admin", "slg": "acme"},
            "iat": now,
            "nbf": now - 10,
            "exp": now + 60,
        }
        at = {key: now + int(value) if isinstance(value, In) else value for key, value in changes.items()}
        return _changed(claims, at)

    def sign(self, header: object, payload: object, signing: Signing = rs256) -> str:
        signed = f"{part(header)}.{part(payload)}"
        return f"{signed}.{part(signing(self.key, signed.encode()))}"

    def token(self, **claims: object) -> str:
        return self.sign(self.header(), self.claims(**claims))


def _changed(values: dict[str, Any], changes: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in {**values, **changes}.items() if value is not MISSING}


Make = Callable[[Forge], str]
Refusal = type[Unauthenticated] | type[NoOrganisation]


def claims(**changes: object) -> Make:
    return lambda forge: forge.token(**changes)


def header(signing: Signing = rs256, **changes: object) -> Make:
    return lambda forge: forge.sign(forge.header(**changes), forge.claims(), signing)


def payload(raw: bytes) -> Make:
    return lambda forge: forge.sign(forge.header(), raw)


def encoded(encode: Callable[[str], bytes]) -> Make:
    return lambda forge: forge.sign(forge.header(), encode(json.dumps(forge.claims())))


def raw_claim(name: str, text: str) -> Make:
    """A claim that json.dumps would not write."""

    def make(forge: Forge) -> str:
        others = json.dumps(forge.claims(**{name: MISSING}))
        return forge.sign(forge.header(), f'{others[:-1]}, "{name}": {text}}}'.encode())

    return make


def raw_header(text: str) -> Make:
    return lambda forge: forge.sign(text.encode(), forge.claims())


def edited(edit: Callable[[str], str]) -> Make:
    """A good token, changed after it was signed."""
    return lambda forge: edit(forge.token())


def repacked(index: int, **changes: object) -> Make:
    def edit(token: str) -> str:
        parts = token.split(".")
        values = json.loads(base64.urlsafe_b64decode(parts[index] + "=="))
        parts[index] = part({**values, **changes})
        return ".".join(parts)

    return edited(edit)


def version_1(**changes: object) -> Make:
    v1 = {"o": MISSING, "v": MISSING, "sts": MISSING, "org_id": "org_a", "org_role": "org:admin"}
    return claims(**{**v1, **changes})


def machine(**changes: object) -> Make:
    """As Clerk makes M2M tokens: no azp, no organisation, no session."""
    session = dict.fromkeys(("azp", "o", "v", "sts"), MISSING)
    return claims(**{**session, "sub": "mch_1", "jti": "mt_1", **changes})


def secret_is(encoding: Encoding) -> Signing:
    def signing(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
        secret = key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        return hmac.new(secret, message, hashlib.sha256).digest()

    return signing


def nothing(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
    return b""


def rsa_with(algorithm: hashes.HashAlgorithm) -> Signing:
    return lambda key, message: key.sign(message, padding.PKCS1v15(), algorithm)


def pss(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
    return key.sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


def another_keys(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
    return rs256(_ANOTHER_KEY, message)


def elliptic(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).sign(message, ec.ECDSA(hashes.SHA256()))


_ANOTHER_KEY = generated()
_ANOTHER_NUMBERS = _ANOTHER_KEY.public_key().public_numbers()
_ITS_JWK = {
    "kty": "RSA",
    "n": part(_ANOTHER_NUMBERS.n.to_bytes(256, "big")),
    "e": part(_ANOTHER_NUMBERS.e.to_bytes(3, "big")),
}


def of_length(forge: Forge, longest: bool) -> str:
    """The longest token that is accepted, or the shortest that is not."""
    filler = (MAX_LENGTH - len(forge.token())) * 3 // 4 - 50
    while len(forge.token(filler="x" * (filler + 1))) <= MAX_LENGTH:
        filler += 1
    return forge.token(filler="x" * (filler + (not longest)))


def with_loose_bits(token: str) -> str:
    """The last letter carries two bits; these are four more, which decoders drop."""
    return token[:-1] + {"A": "B", "Q": "R", "g": "h", "w": "x"}[token[-1]]


def with_impossible_length(token: str) -> str:
    """No bytes have a base64 of 4 n + 1 letters."""
    header, _, rest = token.partition(".")
    return f"{header}{'A' * ((1 - len(header)) % 4)}.{rest}"


def with_the_signature_of_another(forge: Forge) -> str:
    signed, _, _ = forge.token().rpartition(".")
    _, _, signature = forge.token(sub="user_2").rpartition(".")
    return f"{signed}.{signature}"


NO_TOKEN_OF_OURS: list[tuple[str, Make]] = [
    # The shape
    ("nothing", lambda forge: ""),
    ("two parts", edited(lambda token: token.rpartition(".")[0])),
    ("four parts", edited(lambda token: f"{token}.{token[-8:]}")),
    ("no header", edited(lambda token: token[token.index(".") :])),
    ("no payload", edited(lambda token: token.split(".")[0] + ".." + token.split(".")[2])),
    ("no signature", edited(lambda token: token[: token.rindex(".") + 1])),
    ("padding", edited(lambda token: token + "==")),
    ("padding of the header", edited(lambda token: token.replace(".", "=.", 1))),
    ("the other base64", edited(lambda token: token[:-1] + "+")),
    ("a space within", edited(lambda token: token.replace(".", ". ", 1))),
    ("a line break at the end", edited(lambda token: token + "\n")),
    ("a letter that is not ASCII", edited(lambda token: token[:-1] + "é")),
    ("a digit that is not ASCII", edited(lambda token: token[:-1] + "١")),
    ("a lone surrogate", edited(lambda token: token[:-1] + "\ud800")),
    ("a header of an impossible length", edited(with_impossible_length)),
    ("bits that no encoder leaves", edited(with_loose_bits)),
    ("too long by a letter", lambda forge: of_length(forge, longest=False)),
    # JSON
    ("a header that is no JSON", raw_header("alg=RS256")),
    ("a header that is a list", raw_header('["RS256"]')),
    ("a header nested too deeply", raw_header('{"alg": "RS256", "x": ' + "[" * 2000 + "]" * 2000 + "}")),
    ("a payload that is no JSON", payload(b"sub=user_1")),
    ("a payload that is a list", payload(b"[]")),
    ("a payload that is null", payload(b"null")),
    ("a payload nested too deeply", raw_claim("x", "[" * 2000 + "]" * 2000)),
    ("a payload in UTF-16", encoded(lambda text: text.encode("utf-16"))),
    ("a payload in Latin-1", encoded(lambda text: text.replace("acme", "acm\xe9").encode("latin-1"))),
    ("a payload with a byte order mark", encoded(lambda text: text.encode("utf-8-sig"))),
    ("a payload with more after it", encoded(lambda text: text.encode() + b"{}")),
    ("a name twice in the header", raw_header('{"alg": "none", "typ": "JWT", "alg": "RS256"}')),
    ("a kid twice", raw_header('{"alg": "RS256", "kid": "a", "kid": "development"}')),
    ("a name twice within the header", raw_header('{"alg": "RS256", "x": {"y": 1, "y": 2}}')),
    ("a claim twice", raw_claim("sub", '"user_2", "sub": "user_1"')),
    ("a claim twice, alike", raw_claim("sub", '"user_1", "sub": "user_1"')),
    ("a claim twice, once escaped", raw_claim("sub", '"user_2", "s\\u0075b": "user_1"')),
    ("an organisation's id twice", raw_claim("o", '{"id": "org_b", "id": "org_a"}')),
    # The signature
    ("another key", header(another_keys)),
    ("another key that it brings along", header(another_keys, jwk=_ITS_JWK)),
    ("another subject than was signed", repacked(1, sub="user_2")),
    ("another header than was signed", repacked(0, kid="other")),
    ("the signature of another token", with_the_signature_of_another),
    ("half a signature", edited(lambda token: token[:-170])),
    ("alg none", header(alg="none")),
    ("alg none and no signature", header(nothing, alg="none")),
    ("alg NONE", header(alg="NONE")),
    ("no alg", header(alg=MISSING)),
    ("alg null", header(alg=None)),
    ("a list of algs", header(alg=["RS256"])),
    ("alg in lower case", header(alg="rs256")),
    ("HS256 with our public key in PEM as the secret", header(secret_is(Encoding.PEM), alg="HS256")),
    ("HS256 with our public key in DER as the secret", header(secret_is(Encoding.DER), alg="HS256")),
    ("RS384", header(rsa_with(hashes.SHA384()), alg="RS384")),
    ("RS512", header(rsa_with(hashes.SHA512()), alg="RS512")),
    ("PS256", header(pss, alg="PS256")),
    ("PS256 that says RS256", header(pss)),
    ("RS384 that says RS256", header(rsa_with(hashes.SHA384()))),
    ("ES256", header(elliptic, alg="ES256")),
    # The header
    ("crit", header(crit=["exp"], exp=1)),
    ("crit of something that PyJWT knows", header(crit=["b64"], b64=True)),
    ("an empty crit", header(crit=[])),
    ("b64 false", header(b64=False)),
    ("b64 true", header(b64=True)),
    ("jku", header(jku="https://evil.example/jwks.json")),
    ("jwk", header(jwk=_ITS_JWK)),
    ("x5u", header(x5u="https://evil.example/cert.pem")),
    ("x5c", header(x5c=["MIIB"])),
    ("x5t", header(x5t="AAAA")),
    ("x5t#S256", raw_header('{"alg": "RS256", "x5t#S256": "AAAA"}')),
    ("zip", header(zip="DEF")),
    ("enc", header(enc="A256GCM")),
    ("a kid that is a number", header(kid=1)),
    ("a kid that is null", header(kid=None)),
    ("a kid that is a list", header(kid=["development"])),
    ("the type of an OAuth application's token", header(typ="at+jwt")),
    ("a type that is a number", header(typ=1)),
    ("a type that is null", header(typ=None)),
    # When
    ("no exp", claims(exp=MISSING)),
    ("no nbf", claims(nbf=MISSING)),
    ("no iat", claims(iat=MISSING)),
    ("expired six seconds ago", claims(exp=In(-6))),
    ("not before ten seconds from now", claims(nbf=In(10))),
    ("issued ten seconds from now", claims(iat=In(10))),
    ("exp null", claims(exp=None)),
    ("exp a string", claims(exp="4102444800")),
    ("exp true", claims(exp=True)),
    ("exp a list", claims(exp=[4102444800])),
    ("exp not a number", raw_claim("exp", "NaN")),
    ("exp infinite", raw_claim("exp", "Infinity")),
    ("exp infinite by overflow", raw_claim("exp", "1e400")),
    ("exp huge", raw_claim("exp", "1" + "0" * 400)),
    ("exp of more digits than Python reads", raw_claim("exp", "1" * 5000)),
    ("exp in milliseconds", claims(exp=4102444800000)),
    ("not a number, in a claim of no interest", raw_claim("x", "[NaN]")),
    ("nbf true", claims(nbf=True)),
    ("nbf a string", claims(nbf="0")),
    ("nbf negative", claims(nbf=-1)),
    ("nbf negative without end", raw_claim("nbf", "-Infinity")),
    ("iat a string", claims(iat="0")),
    ("iat false", claims(iat=False)),
    # Who
    ("no iss", claims(iss=MISSING)),
    ("another iss", claims(iss="https://evil.example")),
    ("iss with a slash", claims(iss=development.ISSUER + "/")),
    ("iss in capitals", claims(iss=development.ISSUER.upper())),
    ("iss in a list", claims(iss=[development.ISSUER])),
    ("no sub", claims(sub=MISSING)),
    ("sub empty", claims(sub="")),
    ("sub null", claims(sub=None)),
    ("sub a number", claims(sub=1)),
    ("sub in a list", claims(sub=["user_1"])),
    ("sub with a NUL", claims(sub="user_1\0")),
    ("sub with a line break", claims(sub="user_1\n")),
    ("sub with a lone surrogate", claims(sub="user_\ud800")),
    ("sub too long", claims(sub="u" * 256)),
    ("no azp", claims(azp=MISSING)),
    ("azp null", claims(azp=None)),
    ("azp empty", claims(azp="")),
    ("another azp", claims(azp="https://evil.example")),
    ("azp that begins like ours", claims(azp=PARTY + ".evil.example")),
    ("azp in a list", claims(azp=[PARTY])),
    ("a pending session", claims(sts="pending")),
    ("a session of an unknown status", claims(sts="ended")),
    ("a session of no status", claims(sts=None)),
    # For which organisation
    ("o a string", claims(o="org_a")),
    ("o a list", claims(o=["org_a"])),
    ("o false", claims(o=False)),
    ("o without an id", claims(o={"rol": "admin"})),
    ("o with an empty id", claims(o={"id": ""})),
    ("o with a null id", claims(o={"id": None})),
    ("o with a number for an id", claims(o={"id": 1})),
    ("o with a list for an id", claims(o={"id": ["org_a"]})),
    ("o with a NUL in its id", claims(o={"id": "org_a\0"})),
    ("o with a number for a role", claims(o={"id": "org_a", "rol": 1})),
    ("o with a list for a slug", claims(o={"id": "org_a", "slg": ["acme"]})),
    ("org_id empty", version_1(org_id="")),
    ("org_id a number", version_1(org_id=0)),
    ("org_id false", version_1(org_id=False)),
    ("org_id a list", version_1(org_id=["org_a"])),
    ("org_id too long", version_1(org_id="o" * 256)),
    ("org_id not ASCII", version_1(org_id="örg")),
    ("org_role an object", version_1(org_role={})),
    ("org_slug a number", version_1(org_slug=1)),
    ("two organisations", claims(org_id="org_b")),
    ("two roles", claims(org_id="org_a", org_role="org:member")),
    ("two slugs", claims(org_id="org_a", org_slug="other")),
    # Machines
    ("a machine that is not listed", machine(sub="mch_9")),
    ("a machine that is not listed, with an organisation", claims(sub="mch_9")),
    ("a machine of another azp", machine(azp="https://evil.example")),
    ("a machine's expired token", machine(exp=In(-6))),
]  # fmt: skip
NO_TENANT: list[tuple[str, Make]] = [
    ("no organisation", claims(o=MISSING)),
    ("no organisation in version 1", version_1(org_id=MISSING, org_role=MISSING)),
    ("null for an organisation, as templates write it", claims(o=None, org_id=None, org_role=None)),
    ("a machine that asks for no tenant", machine()),
    ("a machine that brings its organisation", claims(sub="mch_1", org_id="org_a")),
]
BAD: list[tuple[str, Make, Refusal]] = [
    *((name, make, Unauthenticated) for name, make in NO_TOKEN_OF_OURS),
    *((name, make, NoOrganisation) for name, make in NO_TENANT),
]
GOOD: list[tuple[str, Make]] = [
    ("version 2", claims()),
    ("version 1", version_1()),
    ("version 1 without a role", version_1(org_role=MISSING)),
    ("both versions, in agreement", claims(org_id="org_a", org_role="org:admin", org_slug="acme")),
    ("no type", header(typ=MISSING)),
    ("no kid", header(kid=MISSING)),
    ("a header that we do not know", header(cat="cl_B7d4PD111AAA")),
    ("a time with a fraction", claims(exp=4102444800.5, nbf=0)),
    ("an audience", claims(aud="convex")),
    ("the longest", lambda forge: of_length(forge, longest=True)),
]


@pytest.fixture(scope="module")
def forge(state_dir: Path) -> Forge:
    return Forge(development.private_key(state_dir))


@pytest.fixture(scope="module")
def key(forge: Forge) -> PemKey:
    return PemKey(pem_of(forge.key))


@pytest.fixture
def verifier(key: PemKey) -> ClerkVerifier:
    return ClerkVerifier(key, development.ISSUER, [PARTY], MACHINES)


def names(rows: list[Any]) -> list[str]:
    return [row[0] for row in rows]


@pytest.mark.parametrize(("name", "make", "expected"), BAD, ids=names(BAD))
async def test_a_bad_token_is_refused_however_often_it_comes(
    forge: Forge, verifier: ClerkVerifier, name: str, make: Make, expected: Refusal
) -> None:
    token = make(forge)
    for _ in range(2):
        with pytest.raises(expected) as refused:
            await verifier.verify(token)
        assert str(refused.value) == str(expected())


@pytest.mark.parametrize(("name", "make"), GOOD, ids=names(GOOD))
async def test_a_good_token_speaks_for_its_user_and_organisation(
    forge: Forge, verifier: ClerkVerifier, name: str, make: Make
) -> None:
    token = make(forge)
    for _ in range(2):
        caller = await verifier.verify(token)
        assert (caller.tenant_id, caller.subject) == ("org_a", "user_1")


async def test_a_development_token_is_good(state_dir: Path) -> None:
    verifier = ClerkVerifier(PemKey(development.public_pem(state_dir)), development.ISSUER, [])
    caller = await verifier.verify(development.sign(state_dir, "org_x", "user_x", ttl_seconds=60))
    assert (caller.tenant_id, caller.subject) == ("org_x", "user_x")


async def test_without_a_list_of_parties_any_will_do(forge: Forge, key: PemKey) -> None:
    verifier = ClerkVerifier(key, development.ISSUER, [])
    for party in (MISSING, None, "https://anywhere.example"):
        assert (await verifier.verify(forge.token(azp=party))).tenant_id == "org_a"


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(key: PemKey, clock: Clock) -> ClerkVerifier:
    return ClerkVerifier(key, development.ISSUER, [PARTY], MACHINES, clock)


@pytest.fixture
def timed_forge(forge: Forge, clock: Clock) -> Forge:
    return Forge(forge.key, clock)


async def refuses(verifier: ClerkVerifier, token: str, tenant: str | None = None) -> bool:
    try:
        await verifier.verify(token, tenant)
    except Unauthenticated:
        return True
    return False


async def test_clocks_may_differ_by_five_seconds(
    timed: ClerkVerifier, timed_forge: Forge, clock: Clock
) -> None:
    assert not await refuses(timed, timed_forge.token(exp=In(-4)))
    assert await refuses(timed, timed_forge.token(exp=In(-5)))
    for begin in ("nbf", "iat"):
        assert not await refuses(timed, timed_forge.token(**{begin: In(5)}))
        assert await refuses(timed, timed_forge.token(**{begin: In(6)}))


async def test_a_remembered_token_ends_with_its_lifetime(
    timed: ClerkVerifier, timed_forge: Forge, clock: Clock
) -> None:
    token = timed_forge.token(exp=In(60))
    await timed.verify(token)
    clock.now += 64.9
    await timed.verify(token)
    clock.now += 0.1
    assert await refuses(timed, token)
    assert await refuses(timed, token)


class OneKey:
    """What every kid finds; None when it was withdrawn."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self.key: rsa.RSAPublicKey | None = key.public_key()
        self.looked_up: list[object] = []

    async def find(self, kid: str | None) -> rsa.RSAPublicKey | None:
        self.looked_up.append(kid)
        return self.key


@pytest.mark.parametrize(
    "wrong", [{"alg": "HS256"}, {"typ": "at+jwt"}, {"crit": ["x"]}, {"kid": ["development"]}]
)
async def test_no_key_is_looked_up_for_a_token_whose_header_is_wrong(
    forge: Forge, wrong: dict[str, Any]
) -> None:
    keys = OneKey(forge.key)
    assert await refuses(ClerkVerifier(keys, development.ISSUER, []), header(**wrong)(forge))
    assert keys.looked_up == []


@pytest.mark.parametrize("successor", [None, _ANOTHER_KEY.public_key()], ids=["none", "another"])
async def test_a_remembered_token_ends_with_its_key(forge: Forge, successor: rsa.RSAPublicKey | None) -> None:
    keys = OneKey(forge.key)
    verifier = ClerkVerifier(keys, development.ISSUER, [PARTY])
    token = forge.token()
    await verifier.verify(token)
    keys.key = successor
    assert await refuses(verifier, token)
    assert not verifier._verified


async def test_a_signature_is_checked_once(
    forge: Forge, verifier: ClerkVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = forge.token()
    await verifier.verify(token)
    monkeypatch.setattr(clerk, "_jws", None)
    assert (await verifier.verify(token)).subject == "user_1"


async def test_a_remembered_token_is_not_taken_for_another(forge: Forge, verifier: ClerkVerifier) -> None:
    token, other = forge.token(), forge.token(sub="user_2", o={"id": "org_b"})
    assert (await verifier.verify(token)).tenant_id == "org_a"
    assert (await verifier.verify(other)).tenant_id == "org_b"
    assert (await verifier.verify(token)).tenant_id == "org_a"
    signed, _, signature = token.rpartition(".")
    assert await refuses(verifier, f"{signed}.{signature[::-1]}")


async def test_no_more_tokens_are_remembered_than_there_is_room_for(
    forge: Forge, verifier: ClerkVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clerk, "_CACHED_TOKENS", 3)
    for number in range(5):
        await verifier.verify(forge.token(sub=f"user_{number}"))
    assert len(verifier._verified) == 3


async def test_a_machine_has_the_tenants_that_the_settings_give_it(
    forge: Forge, verifier: ClerkVerifier
) -> None:
    token = machine()(forge)
    for tenant in ("org_a", "org_b"):
        caller = await verifier.verify(token, tenant)
        assert (caller.tenant_id, caller.subject) == (tenant, "mch_1")
    for foreign in (None, "", "org_c", "ORG_A", "org_a ", "org_a,org_b", "org_a\0", "o" * 1000):
        with pytest.raises(NoOrganisation):
            await verifier.verify(token, foreign)
    with pytest.raises(NoOrganisation):
        await verifier.verify(machine(sub="mch_2")(forge), "org_a")
    assert (await verifier.verify(machine(azp=PARTY)(forge), "org_a")).tenant_id == "org_a"
    for tenant in ("org_a", "org_z"):
        assert await refuses(verifier, machine(sub="mch_9")(forge), tenant)


async def test_what_a_machines_token_says_of_an_organisation_does_not_count(
    forge: Forge, verifier: ClerkVerifier
) -> None:
    for organisation in ({"id": "org_a"}, ["org_a"], "org_a"):
        token = machine(sub="mch_2", o=organisation, org_id="org_a")(forge)
        assert (await verifier.verify(token, "org_b")).tenant_id == "org_b"
        with pytest.raises(NoOrganisation):
            await verifier.verify(token, "org_a")


async def test_a_user_does_not_choose_a_tenant(forge: Forge, verifier: ClerkVerifier) -> None:
    for asked in (None, "org_b", "", "\0"):
        assert (await verifier.verify(forge.token(), asked)).tenant_id == "org_a"
        with pytest.raises(NoOrganisation):
            await verifier.verify(forge.token(o=MISSING), asked)


# A SubjectPublicKeyInfo of the algorithm 1.2.3.4.
_PEM_OF_NO_ALGORITHM = "-----BEGIN PUBLIC KEY-----\nMAswBQYDKgMEAwIAAA==\n-----END PUBLIC KEY-----\n"
_EXAMPLE = 'must be JSON such as {"mch_1": ["org_a", "org_b"]}: a machine and its tenants'


@pytest.mark.parametrize(
    "given",
    [
        "mch_1",
        "[]",
        "null",
        "1",
        '[["mch_1", ["org_a"]]]',
        '{"mch_1": "org_a"}',
        '{"mch_1": null}',
        '{"mch_1": {"org_a": true}}',
        '{"mch_1": [1]}',
        '{"mch_1": [""]}',
        '{"mch_1": ["org a"]}',
        '{"mch_1": ["org_\\u00e4"]}',
        '{"mch_1": ["' + "o" * 256 + '"]}',
        '{"user_1": ["org_a"]}',
        '{"mch_": ["org_a"]}',
        '{"mch_1": ["org_a"], "mch_1": ["org_b"]}',
        "[" * 100_000,
    ],
)
def test_malformed_machines_are_refused_at_start_in_one_line(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("RUNENGINE_MACHINES", given)
    with pytest.raises(SettingsError) as refused:
        read_settings()
    assert str(refused.value) == f"RUNENGINE_MACHINES {_EXAMPLE}"


def test_machines_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in (("", {}), ("{}", {}), (json.dumps(MACHINES), MACHINES)):
        monkeypatch.setenv("RUNENGINE_MACHINES", given)
        assert {key: list(value) for key, value in read_settings().machines.items()} == expected


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param(lambda: "", id="empty"),
        pytest.param(lambda: "MIIB", id="no PEM"),
        pytest.param(lambda: pem_of(generated(1024)), id="too short"),
        pytest.param(lambda: pem_of(ec.generate_private_key(ec.SECP256R1())), id="elliptic"),
        pytest.param(lambda: pem_of(ed25519.Ed25519PrivateKey.generate()), id="Edwards"),
        pytest.param(lambda: _PEM_OF_NO_ALGORITHM, id="of an unknown algorithm"),
        pytest.param(lambda: pem_of(_ANOTHER_KEY).replace("M", "\udc80", 1), id="not UTF-8"),
        pytest.param(
            lambda: _ANOTHER_KEY.private_bytes(
                Encoding.PEM,
                PrivateFormat.PKCS8,
                NoEncryption(),
            ).decode(),
            id="private",
        ),
    ],
)
def test_a_key_that_is_no_rsa_public_key_is_refused_at_start_in_one_line(pem: Callable[[], str]) -> None:
    with pytest.raises(SettingsError, match=r"^RUNENGINE_CLERK_JWT_KEY must be .+ 2048 bits$"):
        app._verifier(Settings(clerk_issuer="https://clerk.example", clerk_jwt_key=pem()))


async def test_the_settings_reach_the_verifier(forge: Forge, state_dir: Path) -> None:
    settings = Settings(
        clerk_issuer=development.ISSUER,
        clerk_jwt_key=development.public_pem(state_dir),
        clerk_authorized_parties=(PARTY,),
        machines={"mch_1": ("org_a",)},
    )
    verifier = app._verifier(settings)
    assert (await verifier.verify(machine()(forge), "org_a")).subject == "mch_1"
    assert await refuses(verifier, forge.token(azp="https://evil.example"))


def leaks(text: str, token: str) -> bool:
    """Whether the text has the token or a piece of it: a header is the same for all, and tells nothing."""
    return any(len(piece) > 16 and piece in text for piece in token.split(".")[1:])


async def test_no_token_reaches_a_log(
    forge: Forge,
    verifier: ClerkVerifier,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    tokens = [make(forge) for _, make, _ in BAD] + [make(forge) for _, make in GOOD]
    for token in tokens:
        with contextlib.suppress(RunEngineError):
            await verifier.verify(token)
    written = caplog.text + "".join(capfd.readouterr())
    assert not any(leaks(written, token) for token in tokens)


async def test_every_refusal_is_the_same_over_grpc_and_rest(
    database_url: str, state_dir: Path, forge: Forge, capfd: pytest.CaptureFixture[str]
) -> None:
    stack = Stack(database_url, state_dir)
    settings = {"CLERK_AUTHORIZED_PARTIES": PARTY, "MACHINES": json.dumps(MACHINES)}
    sent: list[str] = []
    try:
        serve, _ = await stack.start("serve", "gateway", **settings)
        async with (
            grpc.aio.insecure_channel(stack.grpc_address) as channel,
            httpx.AsyncClient(base_url=f"http://{stack.rest_address}") as rest,
        ):
            answers: dict[str, set[Answer]] = {"UNAUTHENTICATED": set(), "NO_ORGANISATION": set()}
            for name, make, expected in BAD:
                token = make(forge)
                # The others no header can carry.
                if token and token.isascii() and token.isprintable():
                    sent.append(token)
                    over_grpc = await grpc_answer(channel, [("authorization", f"Bearer {token}")])
                    over_rest = await rest_answer(rest, {"authorization": f"Bearer {token}"})
                    assert (over_grpc.reason, over_rest.reason) == (expected.reason, expected.reason), name
                    answers[expected.reason] |= {over_grpc, over_rest}
            good = forge.token()
            for other in (None, good, f"Basic {good}", "Bearer", f"Bearer  {good}", f"Bearer {good} {good}"):
                over_grpc = await grpc_answer(channel, [("authorization", other)] if other else [])
                over_rest = await rest_answer(rest, {"authorization": other} if other else {})
                answers["UNAUTHENTICATED"] |= {over_grpc, over_rest}
            twice = [("authorization", f"Bearer {good}")] * 2
            answers["UNAUTHENTICATED"] |= {await grpc_answer(channel, twice), await rest_answer(rest, twice)}
            assert len(sent) > 100
            assert {reason: {answer.code for answer in each} for reason, each in answers.items()} == {
                "UNAUTHENTICATED": {grpc.StatusCode.UNAUTHENTICATED, 401},
                "NO_ORGANISATION": {grpc.StatusCode.PERMISSION_DENIED, 403},
            }
            assert [len(each) for each in answers.values()] == [2, 2]
            for name, make in GOOD:
                sent.append(make(forge))
                answer = await grpc_answer(channel, [("authorization", f"Bearer {sent[-1]}")])
                assert answer.reason == "RUN_NOT_FOUND", name
            sent += await who_sees_what(channel, forge)
            await serve.stop()
            await rest_answer(rest, {"authorization": f"Bearer {sent[0]}"})
    finally:
        await stack.stop()
    written = "".join(capfd.readouterr())
    assert "UNAVAILABLE" in written, "the logs of the processes are elsewhere"
    assert not any(leaks(written, token) for token in sent)


class Answer(NamedTuple):
    """All of it that a caller may see. To a run that does not exist."""

    reason: str
    code: object
    rest: object


async def grpc_answer(channel: grpc.aio.Channel, metadata: list[tuple[str, str]]) -> Answer:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await run_service_pb2_grpc.RunServiceStub(channel).GetRun(
            run_service_pb2.GetRunRequest(run_id=_NO_RUN), metadata=metadata
        )
    trailers = tuple(failed.value.trailing_metadata())
    (status,) = (value for key, value in trailers if key == "grpc-status-details-bin")
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(status).details[0].Unpack(info)
    return Answer(info.reason, failed.value.code(), (failed.value.details(), trailers))


async def rest_answer(rest: httpx.AsyncClient, headers: Any) -> Answer:
    response = await rest.get(f"/runs/{_NO_RUN}", headers=headers)
    return Answer(
        response.json()["reason"], response.status_code, (response.content, tuple(response.headers.items()))
    )


async def who_sees_what(channel: grpc.aio.Channel, forge: Forge) -> list[str]:
    """A machine and users before one tenant's campaign. Answers the tokens."""
    campaigns = campaign_service_pb2_grpc.CampaignServiceStub(channel)
    owner, stranger = forge.token(), forge.token(o={"id": "org_b"})
    one, two = machine()(forge), machine(sub="mch_2")(forge)

    def metadata(token: str, *tenants: str) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {token}"), *(("x-tenant-id", tenant) for tenant in tenants)]

    created = await campaigns.CreateCampaign(
        campaign_service_pb2.CreateCampaignRequest(), metadata=metadata(one, "org_a")
    )

    async def status(token: str, *tenants: str) -> grpc.StatusCode:
        request = campaign_service_pb2.GetCampaignRequest(campaign_id=created.campaign.id)
        try:
            await campaigns.GetCampaign(request, metadata=metadata(token, *tenants))
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    assert await status(owner) is grpc.StatusCode.OK
    assert await status(owner, "org_b") is grpc.StatusCode.OK
    assert await status(stranger, "org_a") is grpc.StatusCode.NOT_FOUND
    assert await status(one, "org_a") is grpc.StatusCode.OK
    assert await status(one, "org_b") is grpc.StatusCode.NOT_FOUND
    assert await status(two, "org_b") is grpc.StatusCode.NOT_FOUND
    for tenants in ((), ("org_a",), ("org_z",), ("org_b", "org_b")):
        assert await status(two, *tenants) is grpc.StatusCode.PERMISSION_DENIED
    assert await status(machine(sub="mch_9")(forge), "org_a") is grpc.StatusCode.UNAUTHENTICATED
    return [owner, stranger, one, two]
