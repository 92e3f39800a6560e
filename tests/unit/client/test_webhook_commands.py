"""The commands on endpoints of webhooks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1 import webhook_service_pb2 as pb

from tests.support.answering_server import Engine
from tests.support.client_command import Command, uuid

AT = Timestamp(seconds=1_769_851_800)
ENDPOINT = pb.WebhookEndpoint(
    id=uuid(1), url="https://hooks.example.com/\x1b[31m", events=["run.failed"], created_at=AT, updated_at=AT
)
CREATED = pb.WebhookEndpoint(secret="whsec_c2VjcmV0")
CREATED.MergeFrom(ENDPOINT)
DISABLED = pb.WebhookEndpoint(disabled=True, note="The endpoint has responded with 410 Gone.")
DISABLED.MergeFrom(ENDPOINT)
ROTATED = pb.WebhookEndpoint(old_secrets_until=AT)
ROTATED.MergeFrom(CREATED)
DELIVERY = pb.WebhookDelivery(
    id=uuid(2),
    event="run.failed",
    run_id=uuid(3),
    status=pb.WEBHOOK_DELIVERY_STATUS_DEAD,
    attempts=11,
    attempted_at=AT,
    response_status=500,
    error="It responded with 500.",
    created_at=AT,
)


@pytest.fixture
async def engine() -> Engine:
    return Engine()


CALLS: list[tuple[list[str], Any, Any]] = [
    (
        ["create", ENDPOINT.url, "--event", "run.failed"],
        pb.CreateWebhookEndpointRequest(url=ENDPOINT.url, events=["run.failed"]),
        pb.CreateWebhookEndpointResponse(endpoint=CREATED),
    ),
    (
        ["show", uuid(1)],
        pb.GetWebhookEndpointRequest(endpoint_id=uuid(1)),
        pb.GetWebhookEndpointResponse(endpoint=DISABLED),
    ),
    (
        ["rotate", uuid(1), "--overlap", "60"],
        pb.RotateWebhookSecretRequest(endpoint_id=uuid(1), overlap_seconds=60),
        pb.RotateWebhookSecretResponse(endpoint=ROTATED),
    ),
    (
        ["deliveries", uuid(1), "--status", "dead", "--limit", "5"],
        pb.ListWebhookDeliveriesRequest(
            endpoint_id=uuid(1), status=[pb.WEBHOOK_DELIVERY_STATUS_DEAD], limit=5
        ),
        pb.ListWebhookDeliveriesResponse(deliveries=[DELIVERY], limit=5),
    ),
    (
        ["retry", uuid(1), uuid(2)],
        pb.RetryWebhookDeliveryRequest(endpoint_id=uuid(1), delivery_id=uuid(2)),
        pb.RetryWebhookDeliveryResponse(delivery=DELIVERY),
    ),
]


@pytest.mark.parametrize(("arguments", "request_", "answer"), CALLS, ids=[each[0][0] for each in CALLS])
async def test_a_command_is_one_call_and_shows_what_it_returns(
    engine: Engine, runengine: Command, arguments: list[str], request_: Any, answer: Any
) -> None:
    engine.answers = [answer]
    ended = await runengine("webhooks", *arguments)
    assert engine.requests == [request_]
    assert "\x1b" not in ended.out
    shown = {
        "create": CREATED.secret,
        "show": DISABLED.note,
        "rotate": "earlier  sign until 2026-01-31 09:30:00 UTC",
        "deliveries": "✗ dead",
        "retry": DELIVERY.error,
    }
    assert shown.get(arguments[0], ENDPOINT.id) in ended.out


async def test_an_option_changes_what_it_names(engine: Engine, runengine: Command) -> None:
    engine.answers = [pb.UpdateWebhookEndpointResponse(endpoint=ENDPOINT)]
    ended = await runengine("--json", "webhooks", "update", uuid(1), "--disable")
    assert engine.requests == [pb.UpdateWebhookEndpointRequest(endpoint_id=uuid(1), disabled=True)]
    assert json.loads(ended.out)["secret"] is None
