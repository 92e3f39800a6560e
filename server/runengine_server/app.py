"""The one place that builds and joins everything: a function for each process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import orjson
import structlog

from runengine_server.auth.clerk import ClerkVerifier, PemKey
from runengine_server.auth.jwks import JwksKeys
from runengine_server.children import Child
from runengine_server.domain.errors import Unavailable
from runengine_server.embedded_postgres import running_urls
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.database import Database
from runengine_server.repositories.schema import FUNCTIONS
from runengine_server.settings import Settings, SettingsError

# A page of 100 runs with large payloads, and a status with many violations, must fit; a server that
# is back must be found within a second; and a proxy of the environment is not for this hop.
_GATEWAY_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 256 * 1024),
    ("grpc.absolute_max_metadata_size", 256 * 1024),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]

_NODE_THREADS = "node"

# How often the server looks whether the database is there, and how long that may take to answer.
_HEALTH_SECONDS = 1.5

# How long calls under way may take once the process has been told to stop.
_GRACE_SECONDS = 3.0

_log = structlog.get_logger()


def configure_logging() -> None:
    """One line an event on stderr: for people on a terminal, else JSON."""
    terminal = sys.stderr.isatty()
    renderer: tuple[Any, Any]
    if terminal:
        renderer = structlog.dev.ConsoleRenderer(), structlog.PrintLoggerFactory(sys.stderr)
    else:
        as_json = structlog.processors.JSONRenderer(serializer=orjson.dumps)
        renderer = as_json, structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(lambda info: _frames(info[1])),
            renderer[0],
        ],
        logger_factory=renderer[1],
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FramesFormatter(terminal))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def _frames(error: BaseException) -> str:
    """Where it was raised, and of which type, with its causes. Not what it says: the driver's errors
    quote values, and so payloads, and a refused connection quotes its URL.
    """
    lines = []
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        lines.append(f"{type(cause).__module__}.{type(cause).__qualname__}")
        frames = traceback.extract_tb(cause.__traceback__)
        lines.extend(f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join(lines)


def log_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's own words quote the exception, so only its type and place go to the log."""
    error = context.get("exception")
    _log.error("unhandled in the event loop", exc_info=error if isinstance(error, BaseException) else None)


class _FramesFormatter(logging.Formatter):
    """What libraries log, in the same form as our own."""

    def __init__(self, terminal: bool) -> None:
        super().__init__("%(levelname)s %(name)s %(message)s")
        self._terminal = terminal

    def format(self, record: logging.LogRecord) -> str:
        if self._terminal:
            return super().format(record)
        event = {"logger": record.name, "event": record.getMessage(), "level": record.levelname.lower()}
        if record.exc_info and record.exc_info[1]:
            event["exception"] = _frames(record.exc_info[1])
        at = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        return json.dumps({**event, "timestamp": at})

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return _frames(ei[1])


class Lifetime:
    """When this process has to stop, and how it tells `up`, if that started it, that it is ready.

    `RUNENGINE_PARENT_FD` is one end of a socket pair: "ready" is written to it, and its end of file
    means that the parent is gone, however it died.
    """

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        given = os.environ.get("RUNENGINE_PARENT_FD")
        self._parent = socket.socket(fileno=int(given)) if given else None

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Sets `stopping` on SIGINT, SIGTERM and the parent's death, while the block runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stopping.set)
        if self._parent is not None:
            loop.add_reader(self._parent, self._orphaned)
        try:
            yield
        finally:
            if self._parent is not None:
                loop.remove_reader(self._parent)
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _orphaned(self) -> None:
        assert self._parent is not None
        asyncio.get_running_loop().remove_reader(self._parent)
        self.stopping.set()

    def ready(self, event: str, **details: object) -> None:
        """Says that the process does its work now: to `up`, or else in the log."""
        # What has been made so far stays. The collector need not look at it again: 300,000 objects in a
        # worker, 4 % of its time.
        gc.collect()
        gc.freeze()
        if self._parent is not None:
            self._parent.sendall(b"ready")
        else:
            _log.info(event, **details)


def database_urls(settings: Settings) -> tuple[str, str]:
    """(owner's, application's) URL. Raises SettingsError when there is no database to be found."""
    if settings.database_url is not None:
        return settings.owner_database_url or settings.database_url, settings.database_url
    if (running := running_urls(settings.state_dir)) is not None:
        return running
    raise SettingsError(
        "there is no database: set RUNENGINE_DATABASE_URL, or run `runengine-server up`, which brings its own"
    )


def cannot_connect(variable: str, url: str, error: Exception) -> SettingsError:
    """One line that names the place, without the password."""
    parts = urlsplit(url)
    place = parts.hostname or parts.query or "localhost"
    if parts.hostname and parts.port:
        place += f":{parts.port}"
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return SettingsError(f"{variable}: cannot use the database at {place}: {reason}")


async def _open_database(settings: Settings, connections: int) -> Database:
    _, url = database_urls(settings)
    database = Database(url, connections)
    try:
        await database.open()
        flaw = await database.check()
        is_current = await database.has(FUNCTIONS)
    except asyncpg.UndefinedTableError:
        raise SettingsError("the database has no schema yet: run `runengine-server migrate`") from None
    except (
        OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, Unavailable
    ) as error:  # fmt: skip
        raise cannot_connect("RUNENGINE_DATABASE_URL", url, error) from None
    if not is_current:
        raise SettingsError("the database was migrated by another version: run `runengine-server migrate`")
    if flaw is not None:
        raise SettingsError(
            f"RUNENGINE_DATABASE_URL: {flaw}, so tenants would see each other's rows; give a role of the "
            "application's own, and the owner in RUNENGINE_OWNER_DATABASE_URL, and run `migrate`"
        )
    return database


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
    from grpc_health.v1 import health_pb2

    from runengine_server.rpc.server import create_server

    verifier, artifacts = _verifier(settings), _artifact_store(settings)
    lifetime = Lifetime()
    database = await _open_database(settings, connections=16)
    server, health = create_server(database, artifacts, verifier, settings.tenant_queued_limit, shares_port)
    try:
        server.add_insecure_port(settings.grpc_address)
    except RuntimeError:
        raise address_taken("RUNENGINE_GRPC_ADDRESS", settings.grpc_address) from None
    with lifetime.watch():
        await server.start()
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        lifetime.ready("serving gRPC", address=settings.grpc_address)
        watching = asyncio.create_task(_tell_health(database, health))
        await lifetime.stopping.wait()
        watching.cancel()
        await health.enter_graceful_shutdown()
        await server.stop(_GRACE_SECONDS)
        await database.close()


async def _tell_health(database: Database, health: Any) -> None:
    """Keeps the health service, and with it the gateway's /readyz, at what the database is."""
    from grpc_health.v1 import health_pb2

    serving = True
    while True:
        await asyncio.sleep(_HEALTH_SECONDS)
        try:
            await database.check(_HEALTH_SECONDS)
            reachable = True
        except Exception as error:
            reachable = False
            reason = type(error).__name__
        if reachable != serving:
            serving = reachable
            words = health_pb2.HealthCheckResponse
            await health.set("", words.SERVING if serving else words.NOT_SERVING)
            if serving:
                _log.info("the database is back")
            else:
                _log.error("the database cannot be reached", error=reason)


async def gateway(settings: Settings) -> None:
    """The REST gateway, until it is told to stop."""
    import grpc
    import uvicorn

    from runengine_server.gateway.app import create_gateway
    from runengine_server.gateway.http_protocol import BoundedHttp

    lifetime = Lifetime()

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:  # ours are in Lifetime
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            lifetime.ready("serving REST", address=settings.rest_address)

    listening = bind("RUNENGINE_REST_ADDRESS", settings.rest_address)
    async with grpc.aio.insecure_channel(settings.grpc_address, _GATEWAY_CHANNEL) as channel:
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
    from runengine_server.engine.langgraph_run_processor import LangGraphRunProcessor
    from runengine_server.engine.worker import Worker
    from runengine_server.repositories.queue_repository import QueueRepository
    from runengine_server.workflows.load import Timeouts, load_workflows

    artifacts = _artifact_store(settings)
    workflows = load_workflows(
        settings.workflows, Timeouts(settings.run_timeout_seconds, settings.step_timeout_seconds)
    )
    lifetime = Lifetime()
    name = f"worker:{socket.gethostname()}:{os.getpid()}"
    database = await _open_database(settings, connections=settings.worker_concurrency + 2)
    queue = QueueRepository(
        database, name, list(workflows), settings.lease_seconds, settings.tenant_running_limit
    )
    processor = LangGraphRunProcessor(database, artifacts, workflows, settings.artifact_url_base, name)
    worker = Worker(
        queue,
        processor.process,
        processor.drain,
        concurrency=settings.worker_concurrency,
        lease_seconds=settings.lease_seconds,
        drain_seconds=settings.drain_seconds,
    )
    # As many sync nodes at once as there may be runs; the default is four more than there are cores.
    executor = ThreadPoolExecutor(settings.worker_concurrency, thread_name_prefix=_NODE_THREADS)
    asyncio.get_running_loop().set_default_executor(executor)
    with lifetime.watch():
        try:
            await queue.register_workflows()
        except Unavailable as error:
            raise cannot_connect("RUNENGINE_DATABASE_URL", database_urls(settings)[1], error) from None
        working = asyncio.create_task(worker.work())
        lifetime.ready("working", workflows=sorted(workflows))
        stopping = asyncio.create_task(lifetime.stopping.wait())
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        worker.stop()
        stopping.cancel()
        await working
        await database.close()
    # What cannot be stopped, a sync node on its thread or one that ignores it, must not keep the process
    # alive: its run is handed back, and another worker may be executing it.
    if (
        worker.left_behind
        or processor.left_behind
        or any(thread.name.startswith(_NODE_THREADS) for thread in threading.enumerate())
    ):
        os._exit(0)


async def migrate(settings: Settings) -> None:
    """Brings the database to the newest schema."""
    from sqlalchemy.exc import DBAPIError

    from runengine_server.repositories.migrations.migrate import migrate as run_migrations

    owner_url, url = database_urls(settings)
    try:
        await run_migrations(owner_url, url)
    except (OSError, TimeoutError, DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        cause = error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, Exception) else error
        if settings.owner_database_url is not None:
            raise cannot_connect("RUNENGINE_OWNER_DATABASE_URL", owner_url, cause) from None
        flaw = cannot_connect("RUNENGINE_DATABASE_URL", owner_url, cause)
        raise SettingsError(f"{flaw} (the schema's owner goes into RUNENGINE_OWNER_DATABASE_URL)") from None


async def clear_cache(settings: Settings, workflow: str | None, tenant: str | None) -> None:
    """Deletes what steps have cached, and prints how many entries that were."""
    from runengine_server.repositories import queue_repository

    database = await _open_database(settings, connections=1)
    try:
        cleared = await queue_repository.clear_cache(database, workflow, tenant)
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
