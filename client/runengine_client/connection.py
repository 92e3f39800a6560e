"""The connection of a client: its channel, its token, and how a call is sent."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from runengine.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runengine.v1.bulk_operation_service_pb2_grpc import BulkOperationServiceStub
from runengine.v1.campaign_service_pb2_grpc import CampaignServiceStub
from runengine.v1.run_service_pb2 import WatchRunRequest, WatchRunResponse
from runengine.v1.run_service_pb2_grpc import RunServiceStub
from runengine.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from runengine.v1.watch_runs_pb2 import WatchCampaignRunsRequest, WatchRunsRequest, WatchRunsResponse
from runengine.v1.webhook_service_pb2_grpc import WebhookServiceStub
from runengine.v1.workflow_service_pb2_grpc import WorkflowServiceStub

from runengine_client.arguments import header_value
from runengine_client.channel import channel_options
from runengine_client.errors import (
    Interrupted,
    InvalidArgument,
    Overloaded,
    QuotaExceeded,
    RunEngineError,
    Unavailable,
    from_rpc_error,
)

# What becomes right by itself when a server starts again, or another one takes its place.
BREAKS = (Unavailable, Interrupted, Overloaded)

# The longest pauses before what broke off goes on, and for how long in a row it may not succeed.
_RECONNECT_PAUSES = (0.0, 0.2, 1.0, 2.0, 4.0)
RECONNECT_SECONDS = 60.0

Request = TypeVar("Request")
Response = TypeVar("Response")
WatchRequest = TypeVar("WatchRequest", WatchRunRequest, WatchRunsRequest, WatchCampaignRunsRequest)
WatchResponse = TypeVar("WatchResponse", WatchRunResponse, WatchRunsResponse)

Token = str | Callable[[], str | Awaitable[str]]


class Connection:
    """What RunEngineClient, which describes the arguments, calls the services with."""

    def __init__(
        self,
        address: str,
        token: Token,
        *,
        secure: bool = False,
        timeout_seconds: float = 10,
    ) -> None:
        """Raises ValueError for an address that is a URL of REST, or has no port."""
        asyncio.get_running_loop()  # a channel belongs to the loop it was made in
        scheme, _, rest = address.partition("://")
        if scheme in ("http", "https"):
            raise ValueError(f"The address of the run engine is HOST:PORT, without {scheme}://: {rest}")
        if ":" not in address:
            raise ValueError(f"The address of the run engine has no port: {address}:50051, say.")
        self._address = address
        self._token = token
        self._timeout = timeout_seconds
        options = channel_options(address)
        if secure:
            channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(), options)
        else:
            channel = grpc.aio.insecure_channel(address, options)
        self._channel = channel
        self._runs = RunServiceStub(channel)
        self._campaigns = CampaignServiceStub(channel)
        self._artifacts = ArtifactServiceStub(channel)
        self._workflows = WorkflowServiceStub(channel)
        self._bulk = BulkOperationServiceStub(channel)
        self._schedules = ScheduleServiceStub(channel)
        self._webhooks = WebhookServiceStub(channel)

    async def _pages(self, method: Any, request: Any) -> AsyncIterator[Any]:
        """The response to the request, and those of all pages after it."""
        while True:
            page = await self._call(method, request)
            yield page
            if not page.HasField("next_page_token"):
                return
            request.page_token = page.next_page_token

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection, and cancels calls under way."""
        await self._channel.close(None)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        metadata: Iterable[tuple[str, str]] = (),
    ) -> Response:
        return await self._end(await self._begin(method, request, metadata))

    async def _begin(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        metadata: Iterable[tuple[str, str]],
    ) -> grpc.aio.UnaryUnaryCall[Request, Response]:
        return method(request, timeout=self._timeout, metadata=(*await self._metadata(), *metadata))

    async def _end(self, call: grpc.aio.UnaryUnaryCall[Any, Response]) -> Response:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._address) from error

    async def _metadata(self) -> tuple[tuple[str, str]]:
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        return (("authorization", f"Bearer {header_value(token, 'The token')}"),)

    async def _stream(
        self, method: Any, request: WatchRequest, kind: type[WatchResponse]
    ) -> AsyncGenerator[WatchResponse, None]:
        """The messages of one call."""
        call = method(request, metadata=await self._metadata())
        try:
            while isinstance(response := await call.read(), kind):
                yield response
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._address) from error
        finally:
            call.cancel()

    async def _watch(
        self, method: Any, request: WatchRequest, kind: type[WatchResponse]
    ) -> AsyncIterator[WatchResponse]:
        """The messages of a watch. Goes on after the last token when the call breaks off; with a snapshot
        where there is none yet, or where the server does not know it any more.
        """
        has_begun = has_token = False
        failed_since: float | None = None
        failures = 0
        while True:
            try:
                async with aclosing(self._stream(method, request, kind)) as responses:
                    async for response in responses:
                        has_begun, failed_since, failures = True, None, 0
                        if response.HasField("resume_token"):
                            request.resume_token, has_token = response.resume_token, True
                        yield response
                return
            except RunEngineError as error:
                if request.resume_token and _is_forgotten(error, has_token):
                    request.ClearField("resume_token")
                    continue
                now = asyncio.get_running_loop().time()
                failed_since = failed_since or now
                is_over = now - failed_since >= RECONNECT_SECONDS
                # Of too many watches one may be ours: the server has not noticed that it has broken off.
                passes = isinstance(error, BREAKS) or (has_begun and isinstance(error, QuotaExceeded))
                if is_over or not passes or not (has_begun or request.resume_token):
                    raise
                pause = max(reconnect_pause(failures), error.retry_after_seconds or 0)
            await asyncio.sleep(pause)
            failures += 1


def reconnect_pause(failures: int) -> float:
    """Returns the seconds before another attempt, after so many: not the same ones for all clients."""
    return _RECONNECT_PAUSES[min(failures, len(_RECONNECT_PAUSES) - 1)] * random.uniform(0.5, 1)


def _is_forgotten(error: RunEngineError, has_token: bool) -> bool:
    """Whether the server refuses the token: as too old, or as nothing of its own, though it is."""
    return error.reason == "RESUME_TOKEN_EXPIRED" or (has_token and isinstance(error, InvalidArgument))
