"""Makes tokens of every kind, well and badly formed, with a key of the tests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from runengine_server.auth import development

PARTY = "https://app.example.com"
MACHINES = {"mch_1": ["org_a", "org_b"], "mch_2": ["org_b"]}
MAX_LENGTH = 8 * 1024


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


def machine_header(**changes: object) -> Make:
    """A good M2M token but for its header."""

    def make(forge: Forge) -> str:
        session = dict.fromkeys(("azp", "o", "v", "sts"), MISSING)
        return forge.sign(forge.header(**changes), forge.claims(**{**session, "sub": "mch_1"}))

    return make


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
    return rs256(ANOTHER_KEY, message)


def elliptic(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).sign(message, ec.ECDSA(hashes.SHA256()))


ANOTHER_KEY = generated()
_ANOTHER_NUMBERS = ANOTHER_KEY.public_key().public_numbers()
ITS_JWK = {
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
