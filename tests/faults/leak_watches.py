"""Clients that watch runs to their end, and that go away in the middle of it."""

from __future__ import annotations

import grpc
from runengine.v1.run_service_pb2 import WatchRunRequest
from runengine.v1.run_service_pb2_grpc import RunServiceStub

from tests.faults.leak_load import Load, bearer


async def runs_are_watched(load: Load) -> None:
    """Over gRPC and over REST, each to its end."""
    run = await load.client.trigger_run("leaks-bundling")
    async with load.stack.client(load.token) as client:
        async for message in client.watch_run(run.id):
            last = message
    assert last.transition.reason == "COMPLETED" or last.HasField("snapshot_end"), last
    run = await load.client.trigger_run("leaks-bundling")
    async with load.rest.stream("GET", f"/runs/{run.id}/watch") as answer:
        assert answer.status_code in (200, 429)
        async for _ in answer.aiter_lines():
            pass


async def watches_are_abandoned(load: Load) -> None:
    """At once, after the snapshot, and with the connection."""
    run = await load.client.trigger_run("leaks-unserved")
    for way in ("cancelled", "forgotten", "channel closed"):
        async with grpc.aio.insecure_channel(load.stack.grpc_address) as channel:
            request = WatchRunRequest(run_id=run.id)
            call = RunServiceStub(channel).WatchRun(request, metadata=bearer(load.token))
            for _ in range(2):
                await call.read()
            if way == "cancelled":
                call.cancel()
            elif way == "forgotten":
                del call
    async with load.rest.stream("GET", f"/runs/{run.id}/watch") as answer:
        await anext(answer.aiter_raw())
    for is_read in (True, False):
        reader, writer = await load.connect()
        writer.write(load.head("GET", f"/runs/{run.id}/watch"))
        if is_read:
            await reader.readexactly(100)
        writer.transport.abort()
    await load.client.cancel_run(run.id)
