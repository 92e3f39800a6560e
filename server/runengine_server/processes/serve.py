"""Builds the gRPC server, with REST where that has an address: one process, or several that share ports."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Any

from runengine_server.background.bulk_runner import BulkRunner
from runengine_server.background.schedule_runner import ScheduleRunner
from runengine_server.background.webhook_sender import WebhookSender
from runengine_server.lifecycle import ProcessLifecycle
from runengine_server.processes.addresses import address_taken, bind
from runengine_server.processes.children import Child
from runengine_server.processes.metrics_server import metrics_environment, serve_metrics
from runengine_server.processes.open_artifacts import open_artifact_store
from runengine_server.processes.open_database import open_database
from runengine_server.processes.rest_server import RestServer
from runengine_server.processes.token_verifier import create_verifier
from runengine_server.processes.tracing_sdk import export_traces
from runengine_server.processes.watch_database import record_use, watch_database
from runengine_server.repositories.workflow_repository import WorkflowRepository
from runengine_server.rpc.run_watches import RunWatches
from runengine_server.rpc.served_workflows import ServedWorkflows
from runengine_server.rpc.server import create_server
from runengine_server.settings import Settings

# How long calls under way may take once the process has been told to stop.
_GRACE_SECONDS = 3.0


async def serve(settings: Settings, shares_port: bool = False) -> None:
    """The gRPC server, with REST where that has an address, until it is told to stop."""
    verifier, artifacts = create_verifier(settings), await open_artifact_store(settings)
    lifecycle = ProcessLifecycle()
    database = await open_database(settings, "serve", connections=16, kept_for_reads=4)
    served = ServedWorkflows(WorkflowRepository(database))
    watches = RunWatches(database)
    queued_limit = settings.tenant_queued_limit
    bulk_runner = BulkRunner(database, queued_limit)
    webhooks = WebhookSender(database, settings.url_rules, settings.webhook_timeout_seconds)
    is_counting, is_tracing = serve_metrics(settings, database), export_traces("serve")
    server, health, channel = create_server(
        database,
        artifacts,
        verifier,
        served,
        watches,
        bulk_runner.wake,
        queued_limit,
        settings.url_rules,
        shares_port,
        is_counting or is_tracing,
    )
    try:
        server.add_insecure_port(settings.grpc_address)
    except RuntimeError:
        raise address_taken("RUNENGINE_GRPC_ADDRESS", settings.grpc_address) from None
    rest = None
    if settings.serves_rest:
        listening = bind("RUNENGINE_REST_ADDRESS", settings.rest_address, shares_port)
        rest = RestServer(channel, listening, settings.cors_origins, counts_responses=is_counting)
    with lifecycle.handle_signals():
        await served.refresh()
        following = asyncio.create_task(served.keep_current())
        await server.start()
        health.set_serving(True)
        serving_rest: list[asyncio.Task[None]] = []
        if rest is None:
            _announce(lifecycle, settings)
        else:
            running = rest.serve_until(lifecycle.stopping, partial(_announce, lifecycle, settings))
            serving_rest.append(asyncio.create_task(running))
            serving_rest[0].add_done_callback(lambda _: lifecycle.stopping.set())
        watching = [
            asyncio.create_task(watch_database(database, health.set_serving)),
            asyncio.create_task(record_use(database)),
            asyncio.create_task(bulk_runner.run()),
            asyncio.create_task(ScheduleRunner(database, queued_limit, lambda: served.names).run()),
        ]
        sending = asyncio.create_task(webhooks.run())
        await lifecycle.stopping.wait()
        for task in (*watching, following):
            task.cancel()
        webhooks.stop()
        health.stop()
        watches.stop()
        # REST ends first: until then its requests may make calls.
        await asyncio.gather(server.stop(_GRACE_SECONDS), *serving_rest, _end(sending))
        await channel.stop(0)
        await database.close()


async def _end(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task], timeout=_GRACE_SECONDS)
    task.cancel()
    await asyncio.wait([task])


def _announce(lifecycle: ProcessLifecycle, settings: Settings, **details: int) -> None:
    event, addresses = "serving gRPC", {"address": settings.grpc_address}
    if settings.serves_rest:
        event, addresses["rest_address"] = "serving gRPC and REST", settings.rest_address
    lifecycle.announce_ready(event, **addresses, **details)


async def serve_processes(settings: Settings, processes: int) -> None:
    """Runs `processes` servers on the same addresses, until this process is told to stop. Raises ChildFailed
    when one of them ends before it is ready.
    """
    lifecycle = ProcessLifecycle()
    # The servers share the ports, so only this process can notice that another program has one.
    bind("RUNENGINE_GRPC_ADDRESS", settings.grpc_address).close()
    if settings.serves_rest:
        bind("RUNENGINE_REST_ADDRESS", settings.rest_address).close()
    children: list[Child] = []
    with lifecycle.handle_signals():
        stopping = asyncio.create_task(lifecycle.stopping.wait())
        try:
            for place in range(processes):
                # One at a time: when one fails to start, the ones before it are in `children` and are
                # stopped.
                children += [
                    Child("serve --shares-port", {**os.environ, **metrics_environment(settings, place)})
                ]
            ready: asyncio.Future[Any] = asyncio.gather(*(child.until_ready() for child in children))
            await asyncio.wait({ready, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
                _announce(lifecycle, settings, processes=processes)
                supervising = asyncio.gather(*(child.supervise() for child in children))
                await stopping
                supervising.cancel()
            else:
                ready.cancel()
        finally:
            stopping.cancel()
            await asyncio.gather(*(child.stop() for child in children))
