"""Builds the REST gateway."""

from __future__ import annotations

from functools import partial

import grpc
from runengine_client.channel import channel_options

from runengine_server.lifecycle import ProcessLifecycle
from runengine_server.processes.addresses import bind
from runengine_server.processes.metrics_server import serve_metrics
from runengine_server.processes.rest_server import RestServer
from runengine_server.settings import Settings


def gateway_channel_options(address: str) -> list[tuple[str, int | str]]:
    """The options of the channel to `serve`."""
    # A proxy named in the environment is not meant for this hop. And a download is read from the server only
    # as fast as its caller reads it, not in the windows of 2 MiB that gRPC grows to by itself.
    return [
        *channel_options(address),
        ("grpc.enable_http_proxy", 0),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 256 * 1024),
    ]


async def gateway(settings: Settings) -> None:
    """The REST gateway, until it is told to stop."""
    lifecycle = ProcessLifecycle()
    counts_responses = serve_metrics(settings)
    listening = bind("RUNENGINE_REST_ADDRESS", settings.rest_address)
    address = settings.grpc_address
    async with grpc.aio.insecure_channel(address, gateway_channel_options(address)) as channel:
        rest = RestServer(channel, listening, settings.cors_origins, counts_responses=counts_responses)
        announce = partial(lifecycle.announce_ready, "serving REST", address=settings.rest_address)
        with lifecycle.handle_signals():
            await rest.serve_until(lifecycle.stopping, announce)
