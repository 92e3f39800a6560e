"""Builds the gRPC server: one process, or several that share its port."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from runengine_server.lifecycle import ProcessLifecycle
from runengine_server.processes.addresses import address_taken, bind
from runengine_server.processes.children import Child
from runengine_server.processes.open_database import open_database
from runengine_server.processes.state_directory import open_artifact_store
from runengine_server.processes.token_verifier import create_verifier
from runengine_server.processes.watch_database import record_use, watch_database
from runengine_server.repositories.workflow_repository import WorkflowRepository
from runengine_server.rpc.bulk_runner import BulkRunner
from runengine_server.rpc.run_watches import RunWatches
from runengine_server.rpc.served_workflows import ServedWorkflows
from runengine_server.rpc.server import create_server
from runengine_server.settings import Settings

# How long calls under way may take once the process has been told to stop.
_GRACE_SECONDS = 3.0


async def serve(settings: Settings, shares_port: bool = False) -> None:
    """The gRPC server, until it is told to stop."""
    verifier, artifacts = create_verifier(settings), open_artifact_store(settings)
    lifecycle = ProcessLifecycle()
    database = await open_database(settings, "serve", connections=16, kept_for_reads=4)
    served = ServedWorkflows(WorkflowRepository(database))
    watches = RunWatches(database)
    queued_limit = settings.tenant_queued_limit
    bulk_runner = BulkRunner(database, queued_limit)
    server, health = create_server(
        database, artifacts, verifier, served, watches, bulk_runner, queued_limit, shares_port
    )
    try:
        server.add_insecure_port(settings.grpc_address)
    except RuntimeError:
        raise address_taken("RUNENGINE_GRPC_ADDRESS", settings.grpc_address) from None
    with lifecycle.handle_signals():
        await served.refresh()
        following = asyncio.create_task(served.keep_current())
        await server.start()
        health.set_serving(True)
        lifecycle.announce_ready("serving gRPC", address=settings.grpc_address)
        watching = [
            asyncio.create_task(watch_database(database, health.set_serving)),
            asyncio.create_task(record_use(database)),
            asyncio.create_task(bulk_runner.run()),
        ]
        await lifecycle.stopping.wait()
        for task in (*watching, following):
            task.cancel()
        health.stop()
        watches.stop()
        await server.stop(_GRACE_SECONDS)
        await database.close()


async def serve_processes(settings: Settings, processes: int) -> None:
    """Runs `processes` gRPC servers on one port, until this process is told to stop. Raises ChildFailed when
    one of them ends before it is ready.
    """
    lifecycle = ProcessLifecycle()
    # The servers share the port, so only this process can notice that another program has it.
    bind("RUNENGINE_GRPC_ADDRESS", settings.grpc_address).close()
    children: list[Child] = []
    with lifecycle.handle_signals():
        stopping = asyncio.create_task(lifecycle.stopping.wait())
        try:
            for _ in range(processes):
                # One at a time: when one fails to start, the ones before it are in `children` and are
                # stopped.
                children += [Child("serve --shares-port", dict(os.environ))]
            ready: asyncio.Future[Any] = asyncio.gather(*(child.until_ready() for child in children))
            await asyncio.wait({ready, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
                lifecycle.announce_ready("serving gRPC", address=settings.grpc_address, processes=processes)
                supervising = asyncio.gather(*(child.supervise() for child in children))
                await stopping
                supervising.cancel()
            else:
                ready.cancel()
        finally:
            stopping.cancel()
            await asyncio.gather(*(child.stop() for child in children))
