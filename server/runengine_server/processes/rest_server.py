"""The HTTP server of REST: what `gateway` and `serve` have of the same."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from runengine_gateway.app import create_gateway
from runengine_gateway.channel import Channel
from runengine_gateway.event_streams import OpenStreams
from runengine_gateway.http_protocol import BoundedHttp
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runengine_server.metrics import RESPONSES

# How long requests under way may take once the process has been told to stop.
_GRACE_SECONDS = 3


class RestServer(uvicorn.Server):
    """Serves REST over `channel`, in the loop of the process, which handles the signals."""

    def __init__(
        self,
        channel: Channel,
        listening: socket.socket,
        cors_origins: Sequence[str],
        *,
        counts_responses: bool = False,
    ) -> None:
        """`counts_responses`: for metrics."""
        self._listening = listening
        self._streams = OpenStreams()
        self._on_ready: Callable[[], None]
        app = create_gateway(channel, cors_origins=cors_origins, streams=self._streams)
        config = uvicorn.Config(
            _counting_responses(app) if counts_responses else app,
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
        super().__init__(config)

    async def serve_until(self, stopping: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Serves until `stopping` is set; then it accepts no more, ends each stream with an event, and gives
        requests under way three seconds. `on_ready` is called once it accepts connections.
        """
        self._on_ready = on_ready
        serving = asyncio.create_task(self.serve([self._listening]))
        until_stopping = asyncio.create_task(stopping.wait())
        await asyncio.wait([serving, until_stopping], return_when=asyncio.FIRST_COMPLETED)
        until_stopping.cancel()
        self.should_exit = True
        self._streams.end()
        await serving

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says that it is ready."""
        await super().startup(sockets)
        self._on_ready()


def _counting_responses(app: ASGIApp) -> ASGIApp:
    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                RESPONSES.labels(message["status"]).inc()
            await send(message)

        await app(scope, receive, counted)

    return counting
