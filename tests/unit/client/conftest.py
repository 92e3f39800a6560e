"""A server in this process that answers what each test tells it to, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from runengine.v1.artifact_service_pb2_grpc import add_ArtifactServiceServicer_to_server
from runengine.v1.campaign_service_pb2_grpc import add_CampaignServiceServicer_to_server
from runengine.v1.run_service_pb2_grpc import add_RunServiceServicer_to_server
from runengine_client import RunEngineClient

from tests.support.answering_server import Engine


@pytest.fixture
async def engine() -> Engine:
    return Engine()


@pytest.fixture
async def address(engine: Engine) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_RunServiceServicer_to_server(engine, server)
    add_CampaignServiceServicer_to_server(engine, server)
    add_ArtifactServiceServicer_to_server(engine, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def client(address: str) -> AsyncIterator[RunEngineClient]:
    async with RunEngineClient(address, "the-token") as client:
        yield client
