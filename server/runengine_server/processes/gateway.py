"""Builds the REST gateway."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import grpc
import uvicorn
from runengine_client.channel import CHANNEL_OPTIONS
from runengine_gateway.app import create_gateway
from runengine_gateway.event_streams import OpenStreams
from runengine_gateway.http_protocol import BoundedHttp

from runengine_server.lifecycle import ProcessLifecycle
from runengine_server.processes.addresses import bind
from runengine_server.settings import Settings

# A proxy named in the environment is not meant for this hop. And a download is read from the server only as
# fast as its caller reads it, not in the windows of 2 MiB that gRPC grows to by itself.
GATEWAY_CHANNEL = [
    *CHANNEL_OPTIONS,
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 * 1024),
]

# How long requests under way may take once the process has been told to stop.
_GRACE_SECONDS = 3


async def gateway(settings: Settings) -> None:
    """The REST gateway, until it is told to stop."""
    lifecycle = ProcessLifecycle()
    listening = bind("RUNENGINE_REST_ADDRESS", settings.rest_address)
    async with grpc.aio.insecure_channel(settings.grpc_address, GATEWAY_CHANNEL) as channel:
        streams = OpenStreams()
        config = uvicorn.Config(
            create_gateway(channel, cors_origins=settings.cors_origins, streams=streams),
            http=BoundedHttp,
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        server = _Server(config, lifecycle, settings.rest_address)
        with lifecycle.handle_signals():
            serving = asyncio.create_task(server.serve([listening]))
            stopping = asyncio.create_task(lifecycle.stopping.wait())
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            stopping.cancel()
            streams.end()
            await serving


class _Server(uvicorn.Server):
    """uvicorn's server, with the signals and the announcement of ProcessLifecycle."""

    def __init__(self, config: uvicorn.Config, lifecycle: ProcessLifecycle, address: str) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._address = address

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none: ProcessLifecycle handles them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Announces that the gateway is ready, once it listens."""
        await super().startup(sockets)
        self._lifecycle.announce_ready("serving REST", address=self._address)
