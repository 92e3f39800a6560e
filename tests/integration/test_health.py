"""Standard clients ask the standard services: health by name, reflection in both its versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from runengine_server.rpc.health import HealthServicer

from tests.faults.proxy import Proxy
from tests.support.patience import SECONDS
from tests.support.stack import Stack

SERVICES = [
    f"runengine.v1.{name}Service"
    for name in ("Artifact", "BulkOperation", "Campaign", "Run", "Schedule", "Webhook", "Workflow")
]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
async def channel(stack: Stack) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(stack.grpc_address) as channel:
        yield channel


@pytest.fixture
def health(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize("name", ["", *SERVICES])
async def test_each_service_has_a_health(health: Any, name: str) -> None:
    assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING


async def test_the_health_of_all_is_listed(health: Any) -> None:
    statuses = (await health.List(health_pb2.HealthListRequest())).statuses
    assert {name: each.status for name, each in statuses.items()} == dict.fromkeys(["", *SERVICES], SERVING)


@pytest.mark.parametrize("name", ["runengine.v1.Runs", "RunService", "runengine.v1.RunService/GetRun", " "])
async def test_the_health_of_a_service_that_there_is_not_is_not_found(health: Any, name: str) -> None:
    request = health_pb2.HealthCheckRequest(service=name)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await health.Check(request)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    watching = health.Watch(request)
    assert (await watching.read()).status == SERVICE_UNKNOWN
    watching.cancel()


async def test_health_follows_the_database_and_ends_with_the_server(
    database_url: str, state_dir: Path
) -> None:
    async with Proxy(database_url) as proxy:
        stack = Stack(proxy.url, state_dir)
        try:
            await stack.start("serve")
            async with grpc.aio.insecure_channel(stack.grpc_address) as channel, asyncio.timeout(SECONDS):
                stub = health_pb2_grpc.HealthStub(channel)
                watched = [
                    stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ["", *SERVICES]
                ]
                assert [(await each.read()).status for each in watched] == [SERVING] * len(watched)
                proxy.refuse()
                assert [(await each.read()).status for each in watched] == [NOT_SERVING] * len(watched)
                proxy.heal()
                assert [(await each.read()).status for each in watched] == [SERVING] * len(watched)
                stopping = asyncio.create_task(stack.stop())
                assert [(await each.read()).status for each in watched] == [NOT_SERVING] * len(watched)
                assert [await each.read() for each in watched] == [grpc.aio.EOF] * len(watched)
                await stopping
        finally:
            await stack.stop()


async def test_a_watcher_that_does_not_read_keeps_no_one_waiting() -> None:
    health = HealthServicer(SERVICES)
    request = health_pb2.HealthCheckRequest()
    stuck, reading = (health.Watch(request, None) for _ in range(2))  # type: ignore[arg-type]
    assert [(await anext(each)).status for each in (stuck, reading)] == [NOT_SERVING] * 2
    health.set_serving(True)
    assert (await anext(reading)).status == SERVING
    health.stop()
    assert [each.status async for each in reading] == [NOT_SERVING]
    # What it was told last is true again; of what was between it has missed nothing that matters.
    assert [each.status async for each in stuck] == []


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_describes_every_service_in_both_versions(
    channel: grpc.aio.Channel, version: str
) -> None:
    """The versions differ in their name alone, so one's messages read the other's."""
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    async def answer(**question: Any) -> Any:
        return await ask(iter([reflection_pb2.ServerReflectionRequest(**question)])).read()

    names = {each.name for each in (await answer(list_services="*")).list_services_response.service}
    assert names == {
        *SERVICES,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    for name in names:
        found = (await answer(file_containing_symbol=name)).file_descriptor_response.file_descriptor_proto
        files = [descriptor_pb2.FileDescriptorProto.FromString(each) for each in found]
        described = {f"{file.package}.{service.name}" for file in files for service in file.service}
        assert name in described
    unknown = await answer(file_containing_symbol="runengine.v1.Nothing")
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
