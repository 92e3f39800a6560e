"""Calls of gRPC and REST, measured beside the same calls of a bare server."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc.aio
from runengine.v1.run_service_pb2 import ListCampaignRunsRequest, TriggerRunResponse

from tests.bench import data
from tests.bench.goals import Measurement, Pair
from tests.bench.load import Load, grpc_load, http_load
from tests.bench.servers import BIG, GET, LIST, TRIGGER, UNSERVED, Bench, Script, Served, list_runs
from tests.support.stack import Stack, free_address

# How long a rate is measured in one round, and a peer whose calls are slow.
SECONDS = 2.0
IN_FLIGHT = 16

# How often a latency is measured in one round.
CALLS = 300


def list_calls(served: Served, address: str | None = None, connections: int = 1) -> Measurement:
    return lambda: _rate(grpc_load(
        address or served.address, LIST, [served.list_request], served.token, IN_FLIGHT, seconds=SECONDS,
        connections=connections,
    ))  # fmt: skip


async def _rate(load: Awaitable[Load]) -> float:
    return (await load).rate


async def _p50(load: Awaitable[Load]) -> float:
    return (await load).p50


@asynccontextmanager
async def _against_bare(bench: Bench, method: str, request: Callable[[Served], bytes]) -> AsyncIterator[Pair]:
    """A read, and a bare server that answers it from memory."""
    served = await bench.served()
    body = request(served)
    address = free_address()
    with tempfile.TemporaryDirectory(dir=bench.directory) as directory:
        answer = await _call(served.address, method, body, served.token)
        (Path(directory) / method.rpartition("/")[2]).write_bytes(answer)
        async with Script.started("bare_grpc", address, directory):

            def rate_at(address: str) -> Measurement:
                return lambda: _rate(
                    grpc_load(address, method, [body], served.token, IN_FLIGHT, seconds=SECONDS)
                )

            yield rate_at(served.address), rate_at(address)


def list_rate(bench: Bench) -> AbstractAsyncContextManager[Pair]:
    return _against_bare(bench, LIST, lambda served: served.list_request)


def get_rate(bench: Bench) -> AbstractAsyncContextManager[Pair]:
    return _against_bare(bench, GET, lambda served: served.get_request)


def _rest(served: Served, address: str) -> Measurement:
    return lambda: _rate(http_load(
        address, "GET", served.list_path, IN_FLIGHT, token=served.token, seconds=SECONDS,
        containing=b'"total":1000',
    ))  # fmt: skip


@asynccontextmanager
async def rest_rate(bench: Bench) -> AsyncIterator[Pair]:
    served = await bench.served()
    yield _rest(served, served.stack.rest_address), list_calls(served)


@asynccontextmanager
async def rest_against_bare(bench: Bench) -> AsyncIterator[Pair]:
    served = await bench.served()
    async with list_rate(bench) as (_, bare):
        yield _rest(served, served.stack.rest_address), bare


@asynccontextmanager
async def rest_against_gateway(bench: Bench) -> AsyncIterator[Pair]:
    served = await bench.served()
    yield _rest(served, served.stack.rest_address), _rest(served, served.stack.gateway_address)


@asynccontextmanager
async def bare_rest_rate(bench: Bench) -> AsyncIterator[Pair]:
    served, address = await bench.served(), free_address()
    async with served.stack.rest(served.token) as rest:
        answer = (await rest.get(served.list_path)).content
    with tempfile.NamedTemporaryFile(dir=bench.directory) as file:
        file.write(answer)
        file.flush()
        async with Script.started("bare_gateway", address, served.address, file.name):
            yield _rest(served, address), list_calls(served)


def _page_p50(served: Served, request: ListCampaignRunsRequest) -> Measurement:
    body = request.SerializeToString()
    return lambda: _p50(grpc_load(served.address, LIST, [body], served.token, 1, calls=CALLS))


@asynccontextmanager
async def big_campaign_p50(bench: Bench) -> AsyncIterator[Pair]:
    served = await bench.served()
    big = await bench.big_campaign()
    first, reference = (ListCampaignRunsRequest(campaign_id=str(each)) for each in (big, served.campaign_id))
    listed = await list_runs(served.stack, served.token, big)
    assert listed.total == BIG
    yield _page_p50(served, first), _page_p50(served, reference)


@asynccontextmanager
async def deep_page_p50(bench: Bench) -> AsyncIterator[Pair]:
    served = await bench.served()
    big = await bench.big_campaign()
    deep = await list_runs(served.stack, served.token, big, limit=100, offset=BIG // 2)
    first = ListCampaignRunsRequest(campaign_id=str(big))
    after = ListCampaignRunsRequest(campaign_id=str(big), page_token=deep.next_page_token)
    yield _page_p50(served, after), _page_p50(served, first)


def _trigger(served: Served, campaigns: list[UUID], in_flight: int = IN_FLIGHT) -> Measurement:
    bodies = [data.trigger_request(UNSERVED, each) for each in campaigns]
    return lambda: _rate(grpc_load(served.address, TRIGGER, bodies, served.token, in_flight, seconds=SECONDS))


@asynccontextmanager
async def trigger_rate(bench: Bench, in_flight: int = IN_FLIGHT) -> AsyncIterator[Pair]:
    served = await bench.served()
    answer = await _call(served.address, TRIGGER, data.trigger_request(UNSERVED, uuid4()), served.token)
    run_id = TriggerRunResponse.FromString(answer).run.id
    async with Script.started("raw_inserts", bench.url(served.database), run_id, str(in_flight)) as inserts:
        yield _trigger(served, [uuid4()], in_flight), lambda: inserts.ask(SECONDS)
    async with bench.admin(served.database) as admin:
        # A table of tenants without row-level security: no server would start beside it.
        await admin.execute("DROP TABLE raw_runs")
        await data.settle(admin)


@asynccontextmanager
async def one_campaign_rate(bench: Bench) -> AsyncIterator[Pair]:
    served = await bench.served()
    yield _trigger(served, [uuid4()]), _trigger(served, [uuid4() for _ in range(1000)])
    async with bench.admin(served.database) as admin:
        await data.settle(admin)


@asynccontextmanager
async def notified_later(
    bench: Bench, served: Callable[[Bench], AbstractAsyncContextManager[tuple[Stack, str]]]
) -> AsyncIterator[Pair]:
    """Triggers of which workers are notified after the commit, and in its transaction."""
    async with served(bench) as (stack, notifying):
        body, token = data.trigger_request(UNSERVED, uuid4()), stack.token("org_bench")

        def rate_at(address: str) -> Measurement:
            return lambda: _rate(
                grpc_load(address, TRIGGER, [body], token, IN_FLIGHT, seconds=SECONDS, connections=IN_FLIGHT)
            )

        yield rate_at(stack.grpc_address), rate_at(notifying)


@asynccontextmanager
async def two_servers(bench: Bench) -> AsyncIterator[Pair]:
    """Two processes on both cores, where the load and PostgreSQL are too, and one on one. In either case each
    call that is in flight has a connection of its own.
    """
    served, address = await bench.served(), free_address()
    (two,) = await bench.start(served.stack, None, "serve --processes 2", GRPC_ADDRESS=address)
    yield list_calls(served, address, IN_FLIGHT), list_calls(served, connections=IN_FLIGHT)
    await two.stop()


async def _call(address: str, method: str, request: bytes, token: str) -> bytes:
    """The response to one call."""
    async with grpc.aio.insecure_channel(address) as channel:
        unary: Any = channel.unary_unary(f"/{method}")
        return bytes(await unary(request, metadata=[("authorization", f"Bearer {token}")]))
