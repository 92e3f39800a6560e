"""The one place that builds and joins everything: a function for each process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import structlog
from runengine_client.channel import CHANNEL_OPTIONS

from runengine_server import logs
from runengine_server.auth.clerk import ClerkVerifier, PemKey
from runengine_server.auth.jwks import JwksKeys
from runengine_server.domain.errors import Unavailable
from runengine_server.lifecycle import Lifetime, let_go_of_the_rest
from runengine_server.processes.children import Child
from runengine_server.processes.forks import release_forked_children
from runengine_server.processes.start_database import (
    cannot_connect,
    database_urls,
    ensure_hearing,
    note_use,
    open_database,
    watch,
)
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.settings import Settings, SettingsError

# A proxy of the environment is not for this hop; and a download is taken as slowly as its caller reads it,
# and not in the jumps of 2 MiB that gRPC finds best by itself.
GATEWAY_CHANNEL = [
    *CHANNEL_OPTIONS,
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 * 1024),
]

# How long calls under way may take once the process has been told to stop.
_GRACE_SECONDS = 3.0

_log = structlog.get_logger()


def _verifier(settings: Settings) -> ClerkVerifier:
    if settings.clerk_issuer is None:
        raise SettingsError(
            "RUNENGINE_CLERK_ISSUER is required, with RUNENGINE_CLERK_JWT_KEY or RUNENGINE_CLERK_JWKS_URL; "
            "for development, `runengine-server up` brings its own"
        )
    if (settings.clerk_jwt_key is None) == (settings.clerk_jwks_url is None):
        raise SettingsError("set one of RUNENGINE_CLERK_JWT_KEY (PEM) and RUNENGINE_CLERK_JWKS_URL")
    keys: PemKey | JwksKeys
    try:
        if settings.clerk_jwt_key is not None:
            keys = PemKey(settings.clerk_jwt_key)
        else:
            keys = JwksKeys(str(settings.clerk_jwks_url))
    except ValueError:
        if settings.clerk_jwt_key is None:
            raise SettingsError("RUNENGINE_CLERK_JWKS_URL must be an http:// or https:// URL") from None
        raise SettingsError(
            "RUNENGINE_CLERK_JWT_KEY must be an RSA public key in PEM, of at least 2048 bits"
        ) from None
    return ClerkVerifier(
        keys, settings.clerk_issuer, settings.clerk_authorized_parties, machines=settings.machines
    )


def _artifact_store(settings: Settings) -> ArtifactStore:
    try:
        return ArtifactStore(settings.artifact_directory)
    except Exception as error:
        raise SettingsError(
            f"RUNENGINE_STATE_DIR: cannot write {settings.artifact_directory}: {error}"
        ) from None


async def serve_processes(settings: Settings, processes: int) -> None:
    """So many gRPC servers on one port, until this process is told to stop. Raises ChildFailed when one ends
    before it is ready.
    """
    lifetime = Lifetime()
    # For them all it is free; that another has it is for this process to find out.
    bind("RUNENGINE_GRPC_ADDRESS", settings.grpc_address).close()
    children: list[Child] = []
    with lifetime.watch():
        stopping = asyncio.create_task(lifetime.stopping.wait())
        try:
            for _ in range(processes):
                # One at a time, so that those that did start are stopped.
                children += [Child("serve --shares-port", dict(os.environ))]
            ready: asyncio.Future[Any] = asyncio.gather(*(child.until_ready() for child in children))
            await asyncio.wait({ready, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
                lifetime.ready("serving gRPC", address=settings.grpc_address, processes=processes)
                keeping = asyncio.gather(*(child.keep() for child in children))
                await stopping
                keeping.cancel()
            else:
                ready.cancel()
        finally:
            stopping.cancel()
            await asyncio.gather(*(child.stop() for child in children))


async def serve(settings: Settings, shares_port: bool = False) -> None:
    """The gRPC server, until it is told to stop."""
    from runengine_server.repositories.workflow_repository import WorkflowRepository
    from runengine_server.rpc.served_workflows import ServedWorkflows
    from runengine_server.rpc.server import create_server

    verifier, artifacts = _verifier(settings), _artifact_store(settings)
    lifetime = Lifetime()
    database = await open_database(settings, "serve", connections=16, kept_for_reads=4)
    served = ServedWorkflows(WorkflowRepository(database))
    server, health = create_server(
        database, artifacts, verifier, served, settings.tenant_queued_limit, shares_port
    )
    try:
        server.add_insecure_port(settings.grpc_address)
    except RuntimeError:
        raise address_taken("RUNENGINE_GRPC_ADDRESS", settings.grpc_address) from None
    with lifetime.watch():
        await served.look()
        following = asyncio.create_task(served.follow())
        await server.start()
        health.set_serving(True)
        lifetime.ready("serving gRPC", address=settings.grpc_address)
        watching = [
            asyncio.create_task(each) for each in (watch(database, health.set_serving), note_use(database))
        ]
        await lifetime.stopping.wait()
        for task in watching:
            task.cancel()
        following.cancel()
        health.stop()
        await server.stop(_GRACE_SECONDS)
        await database.close()


async def gateway(settings: Settings) -> None:
    """The REST gateway, until it is told to stop."""
    import grpc
    import uvicorn
    from runengine_gateway.app import create_gateway
    from runengine_gateway.http_protocol import BoundedHttp

    lifetime = Lifetime()

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:  # ours are in Lifetime
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            lifetime.ready("serving REST", address=settings.rest_address)

    listening = bind("RUNENGINE_REST_ADDRESS", settings.rest_address)
    async with grpc.aio.insecure_channel(settings.grpc_address, GATEWAY_CHANNEL) as channel:
        server = Server(
            uvicorn.Config(
                create_gateway(channel),
                http=BoundedHttp,
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="warning",
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=int(_GRACE_SECONDS),
            )
        )
        with lifetime.watch():
            serving = asyncio.create_task(server.serve([listening]))
            stopping = asyncio.create_task(lifetime.stopping.wait())
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            stopping.cancel()
            await serving


async def worker(settings: Settings) -> None:
    """One worker, until it is told to stop; what it was executing goes on elsewhere."""
    from runengine_server.repositories.queue_repository import QueueRepository
    from runengine_server.worker.artifact_sweep import ArtifactSweep
    from runengine_server.worker.graph.load import Timeouts, load_workflows
    from runengine_server.worker.node_threads import NodeThreads
    from runengine_server.worker.processor import LangGraphRunProcessor
    from runengine_server.worker.worker import Worker

    artifacts = _artifact_store(settings)
    workflows = load_workflows(
        settings.workflows, Timeouts(settings.run_timeout_seconds, settings.step_timeout_seconds)
    )
    lifetime = Lifetime()
    release_forked_children(database_urls(settings)[1], lifetime.close)
    name = f"worker:{socket.gethostname()}:{os.getpid()}"
    database = await open_database(
        settings, "worker", connections=settings.worker_concurrency + 2, kept_for_reads=1
    )
    await ensure_hearing(settings, database)
    queue = QueueRepository(
        database, name, list(workflows), settings.lease_seconds, settings.tenant_running_limit
    )
    processor = LangGraphRunProcessor(
        database, artifacts, workflows, settings.artifact_url_base, name, settings.max_state_bytes
    )
    worker = Worker(
        queue,
        processor.process,
        processor.drain,
        concurrency=settings.worker_concurrency,
        lease_seconds=settings.lease_seconds,
        drain_seconds=settings.drain_seconds,
        blocked_seconds=settings.blocked_seconds,
        end_process=_end_at_once,
        is_stop_requested=lifetime.told.is_set,
        sweep=ArtifactSweep(database, artifacts, queue).sweep_when_due,
    )
    loop = asyncio.get_running_loop()

    def renew() -> None:
        _log.error("too many sync nodes left threads behind; the worker ends, to be started anew")
        loop.call_soon_threadsafe(lifetime.stopping.set)

    # As many sync nodes at once as there may be runs; the default is four more than there are cores.
    loop.set_default_executor(NodeThreads(settings.worker_concurrency, renew))
    with lifetime.watch():
        try:
            await queue.register_workflows()
        except Unavailable as error:
            raise cannot_connect("RUNENGINE_DATABASE_URL", database_urls(settings)[1], error) from None
        watching = [asyncio.create_task(each) for each in (watch(database), note_use(database))]
        working = asyncio.create_task(worker.work())
        lifetime.ready("working", workflows=sorted(workflows))
        stopping = asyncio.create_task(lifetime.stopping.wait())
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        worker.stop()
        stopping.cancel()
        await working
        for task in watching:
            task.cancel()
        await database.close()
    # What cannot be stopped must not keep the process alive: its run is handed back, and another worker may
    # be executing it.
    if left := let_go_of_the_rest():
        _log.warning("the worker ends, whatever nodes have left behind", left_behind=left)
    if left or worker.has_uncancellable or processor.abandoned:
        logs.flush()
        os._exit(0)


async def list_workflows(settings: Settings) -> None:
    """Prints each workflow, how many workers are there for it, and how many runs of it are queued."""
    from runengine_server.repositories.workflow_repository import WorkflowRepository

    database = await open_database(settings, "workflows", connections=1)
    try:
        found = await WorkflowRepository(database).list()
    except Unavailable as error:
        raise cannot_connect("RUNENGINE_DATABASE_URL", database_urls(settings)[1], error) from None
    finally:
        await database.close()
    width = max([len("workflow"), *(len(each.name) for each in found)])
    sys.stdout.write(f"{'workflow':{width}}  {'workers':>7}  {'queued':>7}\n")
    for each in found:
        sys.stdout.write(f"{each.name:{width}}  {each.workers:7}  {each.queued:7}\n")


def _end_at_once() -> None:
    logs.flush()
    os._exit(1)


async def clear_cache(settings: Settings, workflow: str | None, tenant: str | None) -> None:
    """Deletes what steps have cached, and prints how many entries that were."""
    from runengine_server.repositories import purges

    database = await open_database(settings, "cache", connections=1)
    try:
        cleared = await purges.clear_cache(database.dispatch(), workflow, tenant)
    except Unavailable as error:
        raise cannot_connect("RUNENGINE_DATABASE_URL", database_urls(settings)[1], error) from None
    finally:
        await database.close()
    sys.stdout.write(f"{cleared} cleared\n")


def address_taken(variable: str, address: str) -> SettingsError:
    """One line for a port that another process has."""
    return SettingsError(f"{variable}: {address} cannot be used, most likely it is taken; choose another")


def bind(variable: str, address: str) -> socket.socket:
    """A listening socket on HOST:PORT. Raises SettingsError when it cannot be had."""
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=1024)
    except OSError:
        raise address_taken(variable, address) from None
