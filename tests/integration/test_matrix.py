"""Every method for every kind of caller, generated from the descriptors, so that no method is forgotten."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import grpc
import httpx
import jwt
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Value
from runengine.v1 import (
    artifact_service_pb2,
    bulk_operation_service_pb2,
    campaign_service_pb2,
    run_service_pb2,
    schedule_service_pb2,
    webhook_service_pb2,
    workflow_service_pb2,
)
from runengine_client import RunEngineClient
from runengine_server.auth import development

from tests.support.patience import SECONDS
from tests.support.stack import Stack

SERVICES = [
    run_service_pb2.DESCRIPTOR.services_by_name["RunService"],
    campaign_service_pb2.DESCRIPTOR.services_by_name["CampaignService"],
    artifact_service_pb2.DESCRIPTOR.services_by_name["ArtifactService"],
    workflow_service_pb2.DESCRIPTOR.services_by_name["WorkflowService"],
    bulk_operation_service_pb2.DESCRIPTOR.services_by_name["BulkOperationService"],
    webhook_service_pb2.DESCRIPTOR.services_by_name["WebhookService"],
    schedule_service_pb2.DESCRIPTOR.services_by_name["ScheduleService"],
]
METHODS: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]
BY = ("run_id", "campaign_id", "artifact_id", "operation_id", "endpoint_id", "schedule_id")
# Those that look up one thing by its id; the others answer anyone's question about their own things.
BY_ID = [
    method
    for method in METHODS
    if set(BY) & set(method.input_type.fields_by_name)
    and method.name not in ("ListCampaignRuns", "WatchCampaignRuns", "ListRuns")
]


NO_RUN = str(uuid.uuid4())
HOOK, CRON = "https://hooks.example.com", "0 0 1 1 *"
DELIVER = """
INSERT INTO webhook_deliveries (tenant_id, endpoint_id, id, seq, event, run_id, payload, status, expires_at)
VALUES ($1, $2, $2, 1, 'run.queued', $2, '{}', 'dead', 'infinity') RETURNING id"""

# What a request needs besides the id, in gRPC and in REST, to be judged by it.
VALUES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ResumeRun": ({"value": Value(bool_value=True)}, {"value": True}),
    "CreateBulkOperation": ({"action": 2, "ids": [NO_RUN]}, {"action": "cancel", "ids": [NO_RUN]}),
    "CreateWebhookEndpoint": ({"url": HOOK}, {"url": HOOK}),
    "CreateSchedule": (
        {"cron": CRON, "workflow_name": "none"},
        {"cron": CRON, "workflowName": "none"},
    ),
}


def name_of(method: MethodDescriptor) -> str:
    return str(method.name)


class Caller:
    """Calls any method over gRPC and over REST, and answers all that comes back."""

    def __init__(self, stack: Stack, channel: grpc.aio.Channel, token: str | None) -> None:
        self._channel = channel
        self._authorization = () if token is None else (("authorization", f"Bearer {token}"),)
        base = f"http://{stack.rest_address}"
        self.rest = httpx.AsyncClient(base_url=base, headers=self._authorization, timeout=SECONDS)

    async def over_grpc(self, method: MethodDescriptor, ids: dict[str, str]) -> tuple[Any, ...]:
        of_method = {name: value for name, value in ids.items() if name in method.input_type.fields_by_name}
        values, _ = VALUES.get(method.name, ({}, {}))
        request = GetMessageClass(method.input_type)(**of_method, **values)
        path = f"/{method.containing_service.full_name}/{method.name}"
        make: Any = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        call = make(path, type(request).SerializeToString, GetMessageClass(method.output_type).FromString)
        answer = call(request, metadata=grpc.aio.Metadata(*self._authorization), timeout=SECONDS)
        try:
            if method.server_streaming:
                async for _ in answer:
                    pass
            else:
                await answer
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details(), tuple(error.trailing_metadata() or ())
        return (grpc.StatusCode.OK,)

    async def over_rest(self, method: MethodDescriptor, ids: dict[str, str]) -> tuple[Any, ...]:
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        verb = rule.WhichOneof("pattern")
        path = getattr(rule, verb).format(**ids)
        _, values = VALUES.get(method.name, ({}, {}))
        response = await self.rest.request(verb.upper(), path, json=values if rule.body else None)
        return response.status_code, response.content, tuple(response.headers.items())


Make = Callable[[str | None], Caller]


@pytest.fixture
async def caller_with(stack: Stack) -> AsyncIterator[Make]:
    made: list[Caller] = []
    async with grpc.aio.insecure_channel(stack.grpc_address) as channel:

        def make(token: str | None) -> Caller:
            made.append(Caller(stack, channel, token))
            return made[-1]

        yield make
        for caller in made:
            await caller.rest.aclose()


@pytest.fixture
async def own(client: RunEngineClient, organisation: str, database_url: str) -> dict[str, str]:
    campaign = await client.create_campaign()
    run = await client.trigger_run("two-artifacts", campaign_id=campaign.id)
    await client.wait(run.id)
    (step,) = await client.list_run_steps(run.id)
    operation = await client.create_bulk_operation("cancel", ids=[NO_RUN], pace=1)
    endpoint = await client.create_webhook_endpoint(HOOK, disabled=True)
    admin = await asyncpg.connect(database_url.replace("runengine_app@", "postgres@"))
    delivery_id = await admin.fetchval(DELIVER, organisation, endpoint.id)
    await admin.close()
    return {
        "run_id": run.id,
        "id": step.id,
        "campaign_id": campaign.id,
        "artifact_id": step.output_artifact_ids[0],
        "operation_id": operation.id,
        "endpoint_id": endpoint.id,
        "delivery_id": str(delivery_id),
        "schedule_id": (await client.create_schedule(CRON, "none")).id,
    }


@pytest.fixture
def absent() -> dict[str, str]:
    return {name: str(uuid.uuid4()) for name in (*BY, "id", "delivery_id")}


@pytest.mark.parametrize("method", METHODS, ids=name_of)
async def test_nobody_gets_in_without_a_token(
    caller_with: Make, absent: dict[str, str], method: MethodDescriptor
) -> None:
    caller = caller_with(None)
    code, *_ = await caller.over_grpc(method, absent)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    status, body, _ = await caller.over_rest(method, absent)
    assert status == 401
    assert b'"reason":"UNAUTHENTICATED"' in body


@pytest.mark.parametrize("method", METHODS, ids=name_of)
async def test_nobody_gets_in_without_an_organisation(
    stack: Stack, caller_with: Make, absent: dict[str, str], method: MethodDescriptor
) -> None:
    claims = jwt.decode(stack.token("org"), options={"verify_signature": False})
    del claims["o"]
    token = jwt.encode(claims, development.private_key(stack.state_dir), algorithm="RS256")
    caller = caller_with(token)
    code, *_ = await caller.over_grpc(method, absent)
    assert code is grpc.StatusCode.PERMISSION_DENIED
    status, body, _ = await caller.over_rest(method, absent)
    assert status == 403
    assert b'"reason":"NO_ORGANISATION"' in body


@pytest.mark.parametrize("method", BY_ID, ids=name_of)
async def test_an_id_of_another_tenant_looks_like_an_absent_one_to_the_byte(
    stack: Stack,
    caller_with: Make,
    own: dict[str, str],
    absent: dict[str, str],
    token: str,
    client: RunEngineClient,
    method: MethodDescriptor,
) -> None:
    owner = caller_with(token)
    stranger = caller_with(stack.token(f"org_{uuid.uuid4().hex}"))
    hidden = await stranger.over_grpc(method, own)
    assert hidden[0] is grpc.StatusCode.NOT_FOUND
    assert hidden == await stranger.over_grpc(method, absent) == await owner.over_grpc(method, absent)
    assert (await owner.over_grpc(method, own))[0] is not grpc.StatusCode.NOT_FOUND
    if method.name.startswith("Delete"):
        endpoint = await client.create_webhook_endpoint(HOOK, disabled=True)
        own = {**own, "endpoint_id": endpoint.id}
        own["schedule_id"] = (await client.create_schedule(CRON, "none")).id
    hidden = await stranger.over_rest(method, own)
    assert hidden[0] == 404
    assert hidden == await stranger.over_rest(method, absent) == await owner.over_rest(method, absent)
    assert (await owner.over_rest(method, own))[0] != 404


def test_the_matrix_knows_every_method_that_the_server_has() -> None:
    assert {method.name for method in METHODS} - {method.name for method in BY_ID} == {
        "TriggerRun", "ListRuns", "ListCampaignRuns", "WatchCampaignRuns", "WatchRuns", "CreateCampaign",
        "ListWorkflows",
        "CreateBulkOperation", "ListBulkOperations", "CreateWebhookEndpoint", "ListWebhookEndpoints",
        "CreateSchedule", "ListSchedules",
    }  # fmt: skip
