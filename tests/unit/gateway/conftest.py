"""The gateway before a real gRPC server whose responses each test writes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from grpc_health.v1 import health, health_pb2_grpc
from runengine_gateway.app import create_gateway

from tests.support.scripted_server import TOKEN, Running, Server


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Running]:
    server = Server()
    grpc_server = grpc.aio.server(options=[("grpc.max_receive_message_length", 320 * 1024)])
    server.serve(grpc_server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, grpc_server)
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Running(server, health_servicer, create_gateway(channel, deadline_seconds=2.0))
    await grpc_server.stop(None)


@pytest.fixture
def server(running: Running) -> Server:
    running.server.forget()
    return running.server


@pytest.fixture
async def client(running: Running, server: Server) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(running.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=TOKEN) as client:
        yield client
