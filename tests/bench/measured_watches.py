"""Streams of what becomes of runs: how late it arrives, and what it takes from those who work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import quantiles
from time import perf_counter
from typing import Any
from uuid import UUID, uuid4

import grpc
from runengine.v1.run_service_pb2 import WatchRunRequest
from runengine.v1.run_service_pb2_grpc import RunServiceStub
from runengine.v1.watch_runs_pb2 import WatchRunsRequest
from runengine_client import RunEngineClient
from runengine_server.auth import development
from runengine_server.domain.caller import Actor
from runengine_server.repositories.run_repository import RunRepository

from tests.bench.goals import Measurement, Pair
from tests.bench.measured_runs import RUNS, notifications
from tests.bench.servers import SERVER_CORE, UNSERVED, Bench, Working, list_runs, trigger, until_completed
from tests.support.stack import Stack

TRANSITIONS = 200
_WATCHERS = 20


def _watch(stack: Stack, channel: grpc.aio.Channel, token: str, request: Any) -> Any:
    stub = RunServiceStub(channel)
    method = stub.WatchRun if isinstance(request, WatchRunRequest) else stub.WatchRuns
    return method(request, metadata=(("authorization", f"Bearer {token}"),))


@asynccontextmanager
async def arrival(bench: Bench, percentile: int) -> AsyncIterator[Pair]:
    """From the commit of a transition to its arrival at one who watches all runs, with nothing else to do."""
    name = await bench.create_database()
    await bench.register(name, UNSERVED)
    async with bench.stack(name) as stack, bench.database(name) as database:
        await bench.start(stack, SERVER_CORE, "serve")
        token, runs = stack.token("org_bench"), RunRepository(database.tenant("org_bench"))
        async with (
            RunEngineClient(stack.grpc_address, token) as client,
            grpc.aio.insecure_channel(stack.grpc_address) as channel,
            notifications(bench, name) as notified,
        ):
            watched = _watch(stack, channel, token, WatchRunsRequest(snapshot_limit=0))
            await watched.read()

            async def delay() -> float:
                run = await client.trigger_run(UNSERVED)
                await watched.read()
                await runs.cancel(UUID(run.id), Actor("bench", None), None)
                committed = perf_counter()
                await watched.read()
                taken = (perf_counter() - committed) * 1000
                await asyncio.sleep(0.02)
                return taken

            async def delays() -> float:
                taken = [await delay() for _ in range(TRANSITIONS)]
                return quantiles(taken, n=100, method="inclusive")[percentile - 1]

            yield delays, notified


@asynccontextmanager
async def watched_work(bench: Bench) -> AsyncIterator[Pair]:
    """Four-node runs a second of a campaign, with twenty of them watched and with none."""
    working = await bench.one_working()
    yield _work(working, _WATCHERS), _work(working, 0)


def _work(working: Working, watchers: int) -> Measurement:
    stack = working.stack

    async def rate() -> float:
        campaign_id = uuid4()
        working.pause()
        try:
            await trigger(stack, working.token, campaign_id, "four-steps", RUNS)
            listed = await list_runs(stack, working.token, campaign_id, limit=_WATCHERS)
            async with AsyncExitStack() as exits:
                reading = []
                for number, run in enumerate(listed.runs[:watchers]):
                    # As different people: one may watch sixteen times.
                    token = development.sign(stack.state_dir, "org_bench", f"user_{number}", 3600)
                    channel = await exits.enter_async_context(grpc.aio.insecure_channel(stack.grpc_address))
                    call = _watch(stack, channel, token, WatchRunRequest(run_id=run.id))
                    await call.read()
                    reading.append(asyncio.create_task(_read_all(call)))
                begin = working.go_on()
                await until_completed(stack, working.token, campaign_id, RUNS)
                taken = perf_counter() - begin
                await asyncio.gather(*reading)
        finally:
            working.go_on()
        return RUNS / taken

    return rate


async def _read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
