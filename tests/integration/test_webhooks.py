"""Transitions are sent to the endpoints of their tenant: signed, at least once, whichever servers end."""

from __future__ import annotations

import os
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import pytest
from langgraph.types import interrupt
from runengine_server.commands.webhooks import rotate_secret
from runengine_server.domain.webhook import DeliveryStatus, UrlRules
from standardwebhooks import Webhook, WebhookVerificationError

from tests.support.certificates import self_signed
from tests.support.own_worker import Ran, State, alone, chain, serving, until
from tests.support.webhook_place import ONCE, Place
from tests.support.webhook_receiver import NEVER, OK, Received, Receiver, receiving, status


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    host = os.environ["RUNENGINE_TEST_POSTGRES"]
    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(f"postgresql://postgres@/postgres?host={host}")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE runengine")
    superuser = await asyncpg.connect(f"postgresql://postgres@/{name}?host={host}")
    url = f"postgresql://runengine_app@/{name}?host={quote(host, safe='%')}"
    async with serving(url, chain(one=Ran().node("one"))) as engine:
        yield Place(url, superuser, engine)
    await superuser.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def test_each_transition_is_sent_signed_and_once(place: Place, receiver: Receiver) -> None:
    endpoint = await place.endpoint(receiver.url())
    campaign = await place.engine.campaigns.insert(uuid4())
    async with place.sending(place.sender(), place.sender(), place.sender()):
        run_id = await place.engine.trigger({"seen": ["secret"]}, campaign_id=campaign.id)
        await place.engine.process(await place.engine.claim())
        await place.until_ended(endpoint, 4)
    webhook = Webhook(endpoint.secret)
    for each in receiver.received:
        assert webhook.verify(each.body, each.headers) == each.payload
        assert each.headers["content-type"] == "application/json"
        assert b"secret" not in each.body
    sent = {each.event: each.payload["data"] for each in receiver.received}
    assert Counter(each.event for each in receiver.received) == {
        "run.queued": 1, "run.running": 1, "run.completed": 1, "campaign.live": 1,
    }  # fmt: skip
    run = await place.engine.get(run_id)
    at = run.updated_at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    assert sent["run.completed"] == {
        "runId": str(run_id), "workflowName": place.engine.workflow, "campaignId": str(campaign.id),
        "fromStatus": "running", "status": "completed", "attempt": 1, "reason": "COMPLETED",
        "errorCode": None, "at": at,
    }  # fmt: skip
    moved = await place.engine.campaign(campaign.id)
    at = moved.updated_at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    assert sent["campaign.live"] == {
        "campaignId": str(campaign.id), "status": "live", "runId": str(run_id), "at": at,
    }  # fmt: skip
    assert {str(each.id) for each in await place.deliveries(endpoint)} == {
        each.id for each in receiver.received
    }


async def test_secrets_from_before_a_rotation_sign_until_their_time_is_over(
    place: Place, receiver: Receiver
) -> None:
    first = await place.endpoint(receiver.url())
    second = await rotate_secret(place.webhooks, first.id, None)
    third = await rotate_secret(place.webhooks, first.id, 3600)
    assert third.old_secrets_until is not None is not second.old_secrets_until
    assert third.old_secrets_until < second.old_secrets_until
    known = [third.secret, second.secret, first.secret]

    async def signed_by(number: int) -> list[bytes]:
        await place.engine.trigger()
        sent = (await receiver.until_received(number, "/hook"))[-1]
        assert len(sent.headers["webhook-signature"].split()) <= 5
        return [each for each in known if is_verified(each, sent)]

    async with place.sending():
        assert await signed_by(1) == known
        await place.superuser.execute("UPDATE webhook_endpoints SET old_until[2] = now()")
        assert await signed_by(2) == known[:2]
        for _ in range(5):
            known.insert(0, (await rotate_secret(place.webhooks, first.id, None)).secret)
        assert await signed_by(3) == known[:5]
        known.insert(0, (await rotate_secret(place.webhooks, first.id, 0)).secret)
        assert await signed_by(4) == known[:1]


def is_verified(secret: bytes, sent: Received) -> bool:
    with suppress(WebhookVerificationError):
        Webhook(secret).verify(sent.body, sent.headers)
        return True
    return False


async def test_an_endpoint_gets_what_it_wants_of_its_tenant_alone(place: Place, receiver: Receiver) -> None:
    other = await place.other()
    await place.endpoint(receiver.url("/some"), "run.waiting", "run.failed")
    await other.endpoint(receiver.url("/other"))

    async def ask(state: State) -> None:
        if interrupt("Go on?") != "yes":
            raise ValueError

    place.engine.deploy(alone("ask", ask))
    async with place.sending():
        run = await place.engine.execute()
        await place.engine.go_on(run.id, {run.gate: "no"})
        received = await receiver.until_received(2, "/some")
        await other.engine.trigger()
        (of_other,) = await receiver.until_received(1, "/other")
    assert [each.event for each in received] == ["run.waiting", "run.failed"]
    assert [each.payload["data"]["errorCode"] for each in received] == [None, "STEP_FAILED"]
    assert of_other.event == "run.queued"


async def test_a_transition_that_commits_late_is_sent(place: Place, receiver: Receiver) -> None:
    endpoint = await place.endpoint(receiver.url())
    late = uuid4()
    async with place.sending():
        async with place.superuser.transaction():
            await place.superuser.execute(
                "INSERT INTO run_events (tenant_id, run_id, at, to_status, attempt, actor, reason) "
                "VALUES ($1, $2, now(), 'queued', 1, 'user_test', 'TRIGGERED')",
                place.engine.tenant_id,
                late,
            )
            await place.engine.trigger()
            await place.until_ended(endpoint, 1)
        await place.until_ended(endpoint, 2)
    assert {each.payload["data"]["runId"] for each in receiver.received} >= {str(late)}


async def test_many_transitions_are_read_in_parts(
    place: Place, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runengine_server.background.webhook_sender._MOST_READ", 3)
    endpoint = await place.endpoint(receiver.url())
    runs = [await place.engine.trigger() for _ in range(9)]
    async with place.sending():
        await place.until_ended(endpoint, 9)
        runs += [await place.engine.trigger() for _ in range(2)]
        await place.until_ended(endpoint, 11)
    assert Counter(each.payload["data"]["runId"] for each in receiver.received) == Counter(map(str, runs))


async def test_a_delivery_that_fails_comes_again_and_is_dead_in_the_end(
    place: Place, receiver: Receiver
) -> None:
    endpoint = await place.endpoint(receiver.url())
    receiver.respond = lambda request: status(503)
    await place.engine.trigger()
    async with place.sending(place.sender(retry_seconds=lambda attempts: 0 if attempts < 3 else None)):
        (dead,) = await place.until_ended(endpoint, 1)
        assert (dead.status, dead.attempts, dead.response_status) == (DeliveryStatus.DEAD, 3, 503)
        assert dead.error == "It responded with 503."
        receiver.respond = lambda request: OK
        again = await place.webhooks.retry_delivery(endpoint.id, dead.id)
        assert again is not None
        assert (again.status, again.attempts) == (DeliveryStatus.PENDING, 0)
        (delivered,) = await place.until_ended(endpoint, 1)
    assert (delivered.status, delivered.response_status, delivered.error) == (
        DeliveryStatus.DELIVERED,
        204,
        None,
    )
    assert [each.id for each in receiver.received] == [str(dead.id)] * 4


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (NEVER, "There was no response within 0.3 s."),
        (b"HTTP/1.1 200 OK\r\n", "There was no response within 0.3 s."),
        (b"\x00\x01", "The connection ended before the response."),
        (status(302, "location: /elsewhere"), "It responded with 302; no redirect is followed."),
        (status(200), None),
    ],
    ids=["silence", "half a head", "no HTTP", "a redirect", "a body without end"],
)
async def test_no_response_is_waited_for_or_followed_or_read(
    place: Place, receiver: Receiver, response: bytes, error: str | None
) -> None:
    endpoint = await place.endpoint(receiver.url())
    receiver.respond = lambda request: response
    await place.engine.trigger()
    async with place.sending(place.sender(timeout=0.3, retry_seconds=ONCE)):
        (delivery,) = await place.until_ended(endpoint, 1)
    assert (delivery.error, len(receiver.received)) == (error, 1)


async def test_a_url_that_cannot_be_sent_to_is_an_attempt_that_failed(place: Place) -> None:
    endpoint = await place.endpoint("http://127.0.0.1:99999999999999999999/")
    await place.engine.trigger()
    async with place.sending(place.sender(retry_seconds=ONCE)):
        (delivery,) = await place.until_ended(endpoint, 1)
    assert (delivery.status, delivery.error) == (DeliveryStatus.DEAD, "It could not be sent.")


async def test_an_endpoint_that_is_gone_is_disabled(place: Place, receiver: Receiver) -> None:
    created = await place.endpoint(receiver.url())
    receiver.respond = lambda request: status(410)
    await place.engine.trigger()
    async with place.sending():
        await place.until_ended(created, 1)
        (endpoint,) = await until(place.webhooks.list, lambda found: found[0].is_disabled)
        assert endpoint.note == "The endpoint has responded with 410 Gone, by which it wants no more."
        await place.engine.trigger()
        receiver.respond = lambda request: OK
        enabled = await place.webhooks.update(created.id, None, None, False)
        assert enabled is not None
        assert (enabled.is_disabled, enabled.note) == (False, None)
        run_id = await place.engine.trigger()
        await place.until_ended(created, 2)
    assert receiver.received[-1].payload["data"]["runId"] == str(run_id)


async def test_slow_endpoints_of_others_delay_nobody(
    place: Place, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runengine_server.background.webhook_sender._LANE", 2)
    slow = [await place.other() for _ in range(4)]
    endpoints = [await each.endpoint(receiver.url("/slow")) for each in slow]
    for each in slow:
        await each.engine.trigger()
    receiver.respond = lambda request: status(500) if request.path == "/slow" else OK
    async with place.sending(place.sender()):
        await receiver.until(lambda: len({each.id for each in receiver.of("/slow")}) == len(endpoints))
        hanging = len(receiver.of("/slow"))
        receiver.respond = lambda request: NEVER if request.path == "/slow" else OK
        await receiver.until(lambda: len(receiver.of("/slow")) >= hanging + 2)
        await place.endpoint(receiver.url("/fast"))
        for number in range(3):
            await place.engine.trigger()
            await receiver.until_received(number + 1, "/fast")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "2130706433", "0"])
async def test_nothing_is_sent_to_addresses_that_are_not_public(
    place: Place, receiver: Receiver, host: str
) -> None:
    endpoint = await place.endpoint(receiver.url(host=host))
    await place.engine.trigger()
    async with place.sending(place.sender(UrlRules(allows_http=True), retry_seconds=ONCE)):
        (delivery,) = await place.until_ended(endpoint, 1)
    assert (delivery.status, receiver.connections) == (DeliveryStatus.DEAD, 0)
    assert delivery.error == "The host has no address that may be sent to."


async def test_nothing_is_sent_without_https(place: Place, receiver: Receiver) -> None:
    endpoint = await place.endpoint(receiver.url())
    await place.engine.trigger()
    async with place.sending(place.sender(UrlRules(allows_private=True), retry_seconds=ONCE)):
        (delivery,) = await place.until_ended(endpoint, 1)
    assert (delivery.error, receiver.connections) == ("The URL has no https.", 0)


async def test_https_needs_a_certificate_for_the_name_of_the_host(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    async with receiving(context) as receiver:
        good = await place.endpoint(receiver.url("/good", "localhost", "https"))
        bad = await place.endpoint(receiver.url("/bad", "127.0.0.1", "https"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        await place.engine.trigger()
        async with place.sending(place.sender(UrlRules(allows_private=True), retry_seconds=ONCE)):
            (delivered,) = await place.until_ended(good, 1)
            (dead,) = await place.until_ended(bad, 1)
    assert (delivered.status, dead.status) == (DeliveryStatus.DELIVERED, DeliveryStatus.DEAD)
    assert dead.error == "The host has no certificate that is valid for its name."
    assert receiver.received[0].headers["host"] == f"localhost:{receiver.port}"


async def test_a_delivery_of_a_lost_server_is_sent_by_another(place: Place, receiver: Receiver) -> None:
    endpoint = await place.endpoint(receiver.url())
    receiver.respond = lambda request: NEVER
    run_id = await place.engine.trigger()
    async with place.sending(place.sender(timeout=0.3, spare_seconds=0.2)):
        await receiver.until_received(1)
    receiver.respond = lambda request: OK
    async with place.sending():
        (delivered,) = await place.until_ended(endpoint, 1)
    assert delivered.attempts == 2
    assert {(each.id, each.payload["data"]["runId"]) for each in receiver.received} == {
        (str(delivered.id), str(run_id))
    }


async def test_a_restored_database_goes_on_where_its_dump_ends(place: Place, receiver: Receiver) -> None:
    endpoint = await place.endpoint(receiver.url())
    async with place.sending():
        await place.engine.trigger()
        await place.until_ended(endpoint, 1)
    await place.engine.trigger()
    of_another_server = "999999999999:999999999999:"
    await place.superuser.execute("UPDATE webhook_endpoints SET since = $1", of_another_server)
    async with place.sending():
        await place.until_ended(endpoint, 2)
        await place.engine.trigger()
        await place.until_ended(endpoint, 3)
    assert len({each.id for each in receiver.received}) == len(receiver.received) == 3


async def test_a_delivery_that_takes_too_long_is_dead_and_deleted_in_the_end(
    place: Place, receiver: Receiver
) -> None:
    endpoint = await place.endpoint(receiver.url())
    await place.engine.trigger()
    async with place.sending(place.sender(retry_seconds=lambda attempts: 3600)):
        receiver.respond = lambda request: status(500)
        await receiver.until_received(1)
        await until(partial(place.deliveries, endpoint), lambda found: found[0].error is not None)
        await place.superuser.execute(
            "UPDATE webhook_deliveries SET expires_at = now(), next_attempt_at = now()"
        )
        (dead,) = await place.until_ended(endpoint, 1)
    assert (dead.status, dead.error, len(receiver.received)) == (
        DeliveryStatus.DEAD,
        "It responded with 500.",
        1,
    )
    await place.engine.queue.purge_expired()
    assert len(await place.deliveries(endpoint)) == 1
    await place.superuser.execute("UPDATE webhook_deliveries SET expires_at = now()")
    await place.engine.queue.purge_expired()
    assert await place.deliveries(endpoint) == []


async def test_deliveries_to_a_disabled_endpoint_are_not_kept_for_ever(place: Place) -> None:
    endpoint = await place.endpoint("https://hooks.example.com")
    await place.engine.trigger()
    await place.webhooks.read_events(endpoint.id, 10)
    await place.webhooks.update(endpoint.id, None, None, True)
    for days, kept in ((29, 1), (31, 0)):
        await place.superuser.execute(
            "UPDATE webhook_deliveries SET (next_attempt_at, expires_at) = (at, at)"
            " FROM (SELECT now() - make_interval(days => $1)) AS long_ago(at)",
            days,
        )
        await place.engine.queue.purge_expired()
        assert len(await place.deliveries(endpoint)) == kept


async def test_transitions_of_campaigns_are_logged_for_endpoints_alone(place: Place) -> None:
    for expected in (0, 1):
        campaign: UUID = (await place.engine.campaigns.insert(uuid4())).id
        await place.engine.trigger(campaign_id=campaign)
        await place.engine.process(await place.engine.claim())
        assert await place.superuser.fetchval("SELECT count(*) FROM campaign_events") == expected
        await place.endpoint("https://hooks.example.com")


async def test_a_deleted_endpoint_leaves_nothing(place: Place, receiver: Receiver) -> None:
    endpoint = await place.endpoint(receiver.url())
    await place.engine.trigger()
    async with place.sending():
        await place.until_ended(endpoint, 1)
    assert await place.webhooks.delete(endpoint.id) is not None
    assert await place.webhooks.get(endpoint.id) is None
    assert await place.superuser.fetchval("SELECT count(*) FROM webhook_deliveries") == 0
