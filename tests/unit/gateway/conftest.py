"""The gateway before a server whose responses each test writes: over the network, and in the same process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health, health_pb2_grpc
from runengine_gateway.app import create_gateway
from runengine_server.rpc.in_process import InProcessChannel

from tests.support.scripted_server import TOKEN, Running, Server

_MAX_REQUEST_BYTES = 320 * 1024


class _Passing(grpc.aio.ServerInterceptor):
    """Leaves each call as it is."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return await continuation(handler_call_details)


@pytest.fixture(scope="module", params=["over the network", "in process"])
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    server, health_servicer = Server(), health.aio.HealthServicer()
    if request.param == "in process":
        in_process: Any = InProcessChannel(_Passing(), _MAX_REQUEST_BYTES)
        server.serve(in_process)
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, in_process)
        yield Running(server, health_servicer, create_gateway(in_process, deadline_seconds=2.0))
        await in_process.stop(0)
        return
    grpc_server = grpc.aio.server(options=[("grpc.max_receive_message_length", _MAX_REQUEST_BYTES)])
    server.serve(grpc_server)
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
