"""Which tokens are let in, as whom, and that every other one is told the same."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.rpc import error_details_pb2, status_pb2
from runengine.v1 import (
    campaign_service_pb2,
    campaign_service_pb2_grpc,
    run_service_pb2,
    run_service_pb2_grpc,
)
from runengine_server.auth import development
from runengine_server.auth.clerk import ClerkVerifier, PemKey
from runengine_server.auth.refusals import RefusalCause, RefusalLog, TenantRefused, TokenRefused
from runengine_server.domain.caller import Caller
from runengine_server.domain.errors import NoOrganisation, RunEngineError, Unauthenticated
from runengine_server.processes import app
from runengine_server.settings import Settings, SettingsError, read_settings
from structlog.testing import capture_logs

from tests.stack import Stack
from tests.token_forge import (
    ANOTHER_KEY,
    MACHINES,
    MISSING,
    PARTY,
    Forge,
    In,
    Make,
    generated,
    header,
    machine,
    pem_of,
)
from tests.token_table import BAD, GOOD, GOOD_MACHINES, IMPERSONATED, NO_TENANT

_NO_RUN = str(uuid.uuid4())


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


@pytest.mark.parametrize(("name", "word", "make"), BAD, ids=names(BAD))
async def test_a_bad_token_is_refused_however_often_it_comes(
    forge: Forge, verifier: ClerkVerifier, name: str, word: str, make: Make
) -> None:
    expected = NoOrganisation if (name, word, make) in NO_TENANT else Unauthenticated
    token = make(forge)
    for _ in range(2):
        with pytest.raises(expected) as refused:
            await verifier.verify(token)
        assert str(refused.value) == str(expected())
        assert word_of(refused.value) == word


def word_of(refused: RunEngineError) -> str:
    return refused.cause.word if isinstance(refused, TokenRefused | TenantRefused) else ""


def test_each_reason_of_a_bad_token_is_in_the_table() -> None:
    apart = {
        RefusalCause.NO_TOKEN,
        RefusalCause.UNKNOWN_KEY,
        RefusalCause.FOREIGN_TENANT,
    }  # of the call, of a JWKS, of the tenant asked for
    assert {word for _, word, _ in BAD if word} == {cause.word for cause in set(RefusalCause) - apart}


@pytest.mark.parametrize(("name", "make"), GOOD, ids=names(GOOD))
async def test_a_good_token_speaks_for_its_user_and_organisation(
    forge: Forge, verifier: ClerkVerifier, name: str, make: Make
) -> None:
    token = make(forge)
    for _ in range(2):
        assert await verifier.verify(token) == Caller("org_a", "user_1")


@pytest.mark.parametrize(("name", "make"), IMPERSONATED, ids=names(IMPERSONATED))
async def test_an_impersonator_acts_as_the_user(
    forge: Forge, verifier: ClerkVerifier, name: str, make: Make
) -> None:
    token = make(forge)
    for _ in range(2):
        assert await verifier.verify(token) == Caller("org_a", "user_1", impersonator="user_9")


@pytest.mark.parametrize(("name", "make"), GOOD_MACHINES, ids=names(GOOD_MACHINES))
async def test_custom_claims_of_a_machine_count_for_nothing(
    forge: Forge, verifier: ClerkVerifier, name: str, make: Make
) -> None:
    assert await verifier.verify(make(forge), "org_a") == Caller("org_a", "mch_1")


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


async def test_no_token_reaches_a_log(forge: Forge, verifier: ClerkVerifier) -> None:
    tokens = [make(forge) for _, _, make in BAD] + [make(forge) for _, make in GOOD]
    with capture_logs() as lines:
        for token in tokens:
            try:
                await verifier.verify(token)
            except (TokenRefused, TenantRefused) as refused:
                RefusalLog().note(refused)
            except NoOrganisation:
                pass
    assert len(lines) == sum(bool(word) for _, word, _ in BAD)
    written = json.dumps(lines)
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
            stack.rest() as rest,
        ):
            answers: dict[str, set[Answer]] = {"UNAUTHENTICATED": set(), "NO_ORGANISATION": set()}
            for name, word, make in BAD:
                expected = NoOrganisation if (name, word, make) in NO_TENANT else Unauthenticated
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
    refusals = [json.loads(line) for line in written.splitlines() if '"token refused"' in line]
    assert {"no_token", "foreign_tenant", *(word for _, word, _ in BAD if word)} == {
        line["reason"] for line in refusals
    }


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
