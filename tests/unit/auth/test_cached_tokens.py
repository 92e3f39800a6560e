"""Tokens whose signature was checked before: when they end, and that none is taken for another."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from runengine_server.auth import development
from runengine_server.auth.clerk import ClerkVerifier, PemKey

from tests.support.standing_clock import Clock
from tests.support.token_forge import ANOTHER_KEY, MACHINES, PARTY, Forge, In, header
from tests.unit.auth.test_tokens import refuses


@pytest.fixture
def timed(key: PemKey, clock: Clock) -> ClerkVerifier:
    return ClerkVerifier(key, development.ISSUER, [PARTY], MACHINES, clock)


@pytest.fixture
def timed_forge(forge: Forge, clock: Clock) -> Forge:
    return Forge(forge.key, clock)


async def test_clocks_may_differ_by_five_seconds(
    timed: ClerkVerifier, timed_forge: Forge, clock: Clock
) -> None:
    assert not await refuses(timed, timed_forge.token(exp=In(-4)))
    assert await refuses(timed, timed_forge.token(exp=In(-5)))
    for begin in ("nbf", "iat"):
        assert not await refuses(timed, timed_forge.token(**{begin: In(5)}))
        assert await refuses(timed, timed_forge.token(**{begin: In(6)}))


async def test_a_cached_token_ends_with_its_lifetime(
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


@pytest.mark.parametrize("successor", [None, ANOTHER_KEY.public_key()], ids=["none", "another"])
async def test_a_cached_token_ends_with_its_key(forge: Forge, successor: rsa.RSAPublicKey | None) -> None:
    keys = OneKey(forge.key)
    verifier = ClerkVerifier(keys, development.ISSUER, [PARTY])
    token = forge.token()
    await verifier.verify(token)
    keys.key = successor
    assert await refuses(verifier, token)
    assert verifier.cached_tokens == 0


async def test_a_signature_is_checked_once(
    forge: Forge, verifier: ClerkVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = forge.token()
    await verifier.verify(token)
    monkeypatch.setattr(jwt.PyJWS, "decode", None)
    assert (await verifier.verify(token)).subject == "user_1"


async def test_a_cached_token_is_not_taken_for_another(forge: Forge, verifier: ClerkVerifier) -> None:
    token, other = forge.token(), forge.token(sub="user_2", o={"id": "org_b"})
    assert (await verifier.verify(token)).tenant_id == "org_a"
    assert (await verifier.verify(other)).tenant_id == "org_b"
    assert (await verifier.verify(token)).tenant_id == "org_a"
    signed, _, signature = token.rpartition(".")
    assert await refuses(verifier, f"{signed}.{signature[::-1]}")


async def test_no_more_tokens_are_cached_than_there_is_room_for(forge: Forge) -> None:
    verifier = ClerkVerifier(OneKey(forge.key), development.ISSUER, [PARTY], max_cached=3)
    for number in range(5):
        await verifier.verify(forge.token(sub=f"user_{number}"))
    assert verifier.cached_tokens == 3
