"""Machines and the tenants that the settings give them, and keys and machines that are refused at start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from runengine_server.auth import development
from runengine_server.auth.clerk import ClerkVerifier
from runengine_server.domain.errors import NoOrganisation
from runengine_server.processes.token_verifier import create_verifier
from runengine_server.settings import Settings, SettingsError, read_settings

from tests.support.token_forge import ANOTHER_KEY, MACHINES, MISSING, PARTY, Forge, generated, machine, pem_of
from tests.unit.auth.test_tokens import refuses


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


async def test_an_organisation_in_the_token_of_a_machine_does_not_count(
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
        pytest.param(lambda: pem_of(ANOTHER_KEY).replace("M", "\udc80", 1), id="not UTF-8"),
        pytest.param(
            lambda: ANOTHER_KEY.private_bytes(
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
        create_verifier(Settings(clerk_issuer="https://clerk.example", clerk_jwt_key=pem()))


async def test_the_settings_reach_the_verifier(forge: Forge, state_dir: Path) -> None:
    settings = Settings(
        clerk_issuer=development.ISSUER,
        clerk_jwt_key=development.public_pem(state_dir),
        clerk_authorized_parties=(PARTY,),
        machines={"mch_1": ("org_a",)},
    )
    verifier = create_verifier(settings)
    assert (await verifier.verify(machine()(forge), "org_a")).subject == "mch_1"
    assert await refuses(verifier, forge.token(azp="https://evil.example"))
