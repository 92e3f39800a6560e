"""Connections that die without a word are found dead, and others take their place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from runengine_client import DeadlineExceeded, InvalidArgument, RunEngineClient, Unavailable
from runengine_client.channel import PING_SECONDS, PING_TIMEOUT_SECONDS

from tests.faults.wire import Wire
from tests.support.patience import SECONDS
from tests.support.stack import Stack, free_address

_PING_BYTES = 17


@pytest.fixture
async def wire(stack: Stack) -> AsyncIterator[Wire]:
    async with Wire(stack.grpc_address) as wire:
        yield wire


@pytest.fixture
async def rest(stack: Stack, wire: Wire, token: str) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway that reaches the server by the wire alone."""
    address = free_address()
    children = await stack.start("gateway", GRPC_ADDRESS=wire.address, REST_ADDRESS=address)
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=f"http://{address}", headers=headers, timeout=SECONDS) as rest:
        yield rest
    await asyncio.gather(*(child.stop() for child in children))


@pytest.fixture
async def client(wire: Wire, token: str) -> AsyncIterator[RunEngineClient]:
    async with RunEngineClient(wire.address, token) as client:
        yield client


async def is_served(door: httpx.AsyncClient | RunEngineClient) -> bool:
    """Whether a call gets as far as the server, which refuses it."""
    if isinstance(door, httpx.AsyncClient):
        response = await door.get("/runs/x")
        assert response.status_code in (400, 503, 504)
        return response.status_code == 400
    try:
        await door.get_run("x")
    except InvalidArgument:
        return True
    except (Unavailable, DeadlineExceeded):
        return False
    raise AssertionError("there is no such run")


@pytest.fixture(params=["gateway", "client"])
def door(request: pytest.FixtureRequest) -> httpx.AsyncClient | RunEngineClient:
    name = {"gateway": "rest", "client": "client"}[request.param]
    found: httpx.AsyncClient | RunEngineClient = request.getfixturevalue(name)
    return found


def test_a_dead_connection_is_found_within_ten_seconds() -> None:
    assert PING_SECONDS + PING_TIMEOUT_SECONDS < 10


async def test_calls_on_a_connection_that_is_forgotten_get_another(
    wire: Wire, door: httpx.AsyncClient | RunEngineClient
) -> None:
    assert await is_served(door)
    wire.forget()
    async with asyncio.timeout(SECONDS):
        while not await is_served(door):
            pass
    assert (wire.connections, wire.given_up) == (2, 1)


async def test_a_connection_that_is_forgotten_in_the_night_fails_no_call(
    wire: Wire, door: httpx.AsyncClient | RunEngineClient
) -> None:
    """Nobody calls while it is found dead."""
    assert await is_served(door)
    wire.forget()
    async with asyncio.timeout(SECONDS):
        await wire.until(lambda wire: wire.given_up == 1)
    assert await is_served(door)
    assert wire.connections == 2


async def test_a_network_that_was_frozen_is_used_again(
    wire: Wire, door: httpx.AsyncClient | RunEngineClient
) -> None:
    assert await is_served(door)
    wire.freeze()
    assert not await is_served(door)

    async def ask_until_served() -> None:
        # Without a call there is no second connection: a channel whose connection has ended waits for one.
        while not await is_served(door):
            pass

    asking = asyncio.create_task(ask_until_served())
    async with asyncio.timeout(SECONDS):
        await wire.until(lambda wire: wire.connections >= 2)
        wire.thaw()
        await asking


@pytest.mark.parametrize("calls", [True, False])
async def test_a_client_that_pings_often_is_not_sent_away(wire: Wire, calls: bool) -> None:
    """By default a server takes two pings in five minutes, without calls in two hours."""
    options = [
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with grpc.aio.insecure_channel(wire.address, options) as channel, asyncio.timeout(SECONDS):
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest())
        watching = stub.Watch(health_pb2.HealthCheckRequest())
        await watching.read()
        if not calls:
            watching.cancel()
        received = wire.received + 6 * _PING_BYTES
        await wire.until(lambda wire: wire.received > received or wire.connections > 1)
        assert watching.done() is not calls
        await stub.Check(health_pb2.HealthCheckRequest())
        assert wire.connections == 1


async def test_a_flood_of_pings_is_sent_away_and_nobody_else(stack: Stack, client: RunEngineClient) -> None:
    assert await is_served(client)
    reader, writer = await asyncio.open_connection(*stack.grpc_address.split(":"))
    settings, ping = b"\0\0\0\4\0\0\0\0\0", b"\0\0\x08\6\0\0\0\0\0" + bytes(8)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + ping * 1000)
    async with asyncio.timeout(SECONDS):
        received = await reader.read(-1)
    writer.close()
    assert b"too_many_pings" in received
    assert await is_served(client)
