"""A verifier of tokens, and what signs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from runengine_server.auth import development
from runengine_server.auth.clerk import ClerkVerifier, PemKey

from tests.support.standing_clock import Clock
from tests.support.token_forge import MACHINES, PARTY, Forge, pem_of


@pytest.fixture(scope="module")
def forge(state_dir: Path) -> Forge:
    return Forge(development.private_key(state_dir))


@pytest.fixture(scope="module")
def key(forge: Forge) -> PemKey:
    return PemKey(pem_of(forge.key))


@pytest.fixture
def verifier(key: PemKey) -> ClerkVerifier:
    return ClerkVerifier(key, development.ISSUER, [PARTY], MACHINES)


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)
