"""Builds the REST gateway."""

from __future__ import annotations

from functools import partial

import grpc
from runengine_client.channel import CHANNEL_OPTIONS

from runengine_server.lifecycle import ProcessLifecycle
from runengine_server.processes.addresses import bind
from runengine_server.processes.metrics_server import serve_metrics
from runengine_server.processes.rest_server import RestServer
from runengine_server.settings import Settings

# A proxy named in the environment is not meant for this hop. And a download is read from the server only as
# fast as its caller reads it, not in the windows of 2 MiB that gRPC grows to by itself.
GATEWAY_CHANNEL = [
    *CHANNEL_OPTIONS,
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 * 1024),
]


async def gateway(settings: Settings) -> None:
    """The REST gateway, until it is told to stop."""
    lifecycle = ProcessLifecycle()
    counts_responses = serve_metrics(settings)
    listening = bind("RUNENGINE_REST_ADDRESS", settings.rest_address)
    async with grpc.aio.insecure_channel(settings.grpc_address, GATEWAY_CHANNEL) as channel:
        rest = RestServer(channel, listening, settings.cors_origins, counts_responses=counts_responses)
        announce = partial(lifecycle.announce_ready, "serving REST", address=settings.rest_address)
        with lifecycle.handle_signals():
            await rest.serve_until(lifecycle.stopping, announce)
