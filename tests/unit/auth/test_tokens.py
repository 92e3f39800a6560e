"""Which tokens are let in, as whom, and that every other one is told the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from runengine.v1 import campaign_service_pb2, campaign_service_pb2_grpc
from runengine_server.auth import development
from runengine_server.auth.clerk import ClerkVerifier, PemKey
from runengine_server.auth.refusals import RefusalCause, RefusalLog, TenantRefused, TokenRefused
from runengine_server.domain.caller import Caller
from runengine_server.domain.errors import NoOrganisation, RunEngineError, Unauthenticated
from structlog.testing import capture_logs

from tests.support.refusals import Answer, grpc_answer, rest_answer
from tests.support.stack import Stack
from tests.support.token_forge import MACHINES, MISSING, PARTY, Forge, Make, machine
from tests.support.token_table import BAD, GOOD, GOOD_MACHINES, IMPERSONATED, NO_TENANT


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


async def refuses(verifier: ClerkVerifier, token: str, tenant: str | None = None) -> bool:
    try:
        await verifier.verify(token, tenant)
    except Unauthenticated:
        return True
    return False


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
