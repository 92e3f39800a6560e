"""What a caller sees when the server fails, is late or away."""

from __future__ import annotations

import asyncio
import json

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2
from runengine.v1 import (
    run_pb2,
    run_service_pb2,
)
from runengine_gateway.app import create_gateway

from tests.support.patience import SECONDS
from tests.support.scripted_server import RUN_ID, TOKEN, Context, Running, Server, ask, problem


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "RUN_ACTIVE", 409),
        (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED", 409),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", 429),
        (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", 503),
    ],
)
async def test_an_error_of_the_server_is_a_problem(
    client: httpx.AsyncClient, server: Server, code: grpc.StatusCode, reason: str, status: int
) -> None:
    server.aborts(code, reason, attempt="2", allowed="completed")
    body = problem(await client.post(f"/runs/{RUN_ID}/retry"), status, reason)
    assert body["metadata"] == {"attempt": "2", "allowed": "completed"}
    assert body["detail"] == f"words about {reason}"


async def test_an_exception_in_the_server_shows_nothing(client: httpx.AsyncClient, server: Server) -> None:
    async def answer(request: Message, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNKNOWN, "Unexpected: postgresql://user:secret@db")

    server.answer = answer
    response = await client.get(f"/runs/{RUN_ID}")
    problem(response, 500, "INTERNAL")
    assert "secret" not in response.text


async def test_an_exception_in_the_gateway_shows_nothing(client: httpx.AsyncClient, server: Server) -> None:
    far_away = Timestamp(seconds=2**60)  # no datetime goes so far
    server.replies(run_service_pb2.GetRunResponse(run=run_pb2.Run(created_at=far_away)))
    response = await client.get(f"/runs/{RUN_ID}")
    body = problem(response, 500, "INTERNAL")
    assert body["detail"] == "The server failed to respond. The fault is its own."


async def test_a_call_over_its_deadline_is_504(running: Running, server: Server) -> None:
    async def answer(request: Message, context: Context) -> None:
        await asyncio.sleep(60)

    server.answer = answer
    response = await asyncio.wait_for(ask(running.app, "GET", b"/runs/x"), SECONDS)
    assert response[0] == 504
    assert json.loads(response[2])["reason"] == "DEADLINE_EXCEEDED"


async def test_a_server_that_is_away_is_503_without_its_address() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        transport = httpx.ASGITransport(create_gateway(channel))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=TOKEN) as client:
            good, bad = await client.get("/runs/x"), await client.post("/runs", content=b"{")
            ready, alive = await client.get("/readyz"), await client.get("/healthz")
    for response in (good, bad, ready):
        problem(response, 503, "UNAVAILABLE")
        assert "127.0.0.1" not in response.text
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})


async def test_readiness_follows_the_health_of_the_server(
    running: Running, client: httpx.AsyncClient
) -> None:
    del client.headers["authorization"]
    await running.health.set("", health_pb2.HealthCheckResponse.SERVING)
    assert (await client.get("/readyz")).status_code == 200
    await running.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    problem(await client.get("/readyz"), 503, "UNAVAILABLE")
