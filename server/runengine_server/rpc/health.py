"""grpc.health.v1: whether the server, and each of its services by name, can do its work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class HealthServicer:
    """All services need the database, so all of them, and "" for the whole, have one status.

    Not grpcio-health-checking's own: that holds a lock while it writes to a watcher, and one watcher
    that does not read keeps `set`, and with it the end of the process, waiting for ever (1.85.1).
    """

    def __init__(self, services: Iterable[str]) -> None:
        """NOT_SERVING until `set_serving` says otherwise."""
        self._names = ("", *services)
        self._serving = False
        self._stopping = False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """Sets the status, and sends it to everybody who watches."""
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """NOT_SERVING for good; ends the streams of those who watch, once they have received that."""
        self._stopping = True
        self.set_serving(False)

    def _status(self, name: str) -> health_pb2.HealthCheckResponse:
        word = "SERVICE_UNKNOWN"
        if name in self._names:
            word = "SERVING" if self._serving else "NOT_SERVING"
        return health_pb2.HealthCheckResponse(status=word)

    async def Check(  # noqa: N802, D102
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service.")
        return self._status(request.service)

    async def List(  # noqa: N802, D102
        self, request: health_pb2.HealthListRequest, context: Context
    ) -> health_pb2.HealthListResponse:
        return health_pb2.HealthListResponse(statuses={name: self._status(name) for name in self._names})

    async def Watch(  # noqa: N802, D102
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        sent = None
        while True:
            # Read before the status, so that a change during the write is not missed.
            changed, status = self._changed, self._status(request.service)
            if status != sent:
                yield status
                sent = status
            elif self._stopping:
                return
            else:
                await changed.wait()
