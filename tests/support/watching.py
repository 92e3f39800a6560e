"""Watches runs over gRPC, as a client does that has nothing but the protos."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar
from uuid import UUID

import grpc
from langgraph.config import get_stream_writer
from runengine.v1.run_pb2 import ProgressEvent, ProgressKind
from runengine.v1.run_service_pb2 import WatchRunRequest, WatchRunResponse
from runengine.v1.run_service_pb2_grpc import RunServiceStub
from runengine.v1.watch_runs_pb2 import WatchCampaignRunsRequest, WatchRunsRequest, WatchRunsResponse

from tests.support.patience import SECONDS
from tests.support.stack import Stack

WAITS = "waits"


Response = TypeVar("Response", WatchRunResponse, WatchRunsResponse)


class Watched(Generic[Response]):
    """A stream about one run or several, and what has come of it."""

    def __init__(self, call: Any) -> None:
        self._call: Any = call
        self.responses: list[Response] = []

    async def next(self) -> Response | None:
        """The next message; None at the end of the stream."""
        async with asyncio.timeout(SECONDS):
            response: Response | None = await self._call.read() or None
        if response is None:
            return None
        self.responses.append(response)
        return response

    async def until(self, kind: str) -> Response:
        """The next message of that kind."""
        while (response := await self.next()) is not None:
            if response.WhichOneof("event") == kind:
                return response
        raise AssertionError(f"the stream has ended without {kind}")

    async def to_the_end(self) -> list[Response]:
        """All messages, once the stream has ended."""
        while await self.next() is not None:
            pass
        return self.responses

    def kinds(self) -> list[str | None]:
        """The kinds of all messages, in order."""
        return [each.WhichOneof("event") for each in self.responses]

    def progress(self, *kinds: str) -> list[ProgressEvent]:
        """The events of those kinds, or all."""
        events = [each.progress for each in self.responses if each.HasField("progress")]
        return [each for each in events if not kinds or ProgressKind.Name(each.kind)[14:].lower() in kinds]

    def told(self, *kinds: str) -> list[tuple[str, Any]]:
        """(step, data) of those events."""
        told = [(each.step_id, json.loads(each.data)) for each in self.progress(*kinds)]
        return [each for each in told if each[1] != WAITS]


@asynccontextmanager
async def watching(
    stack: Stack, tenant_id: str, run_id: UUID, resume_token: str | None = None
) -> AsyncIterator[Watched[WatchRunResponse]]:
    """The stream of a run's, on a connection of its own."""
    async with grpc.aio.insecure_channel(stack.grpc_address) as channel:
        call = RunServiceStub(channel).WatchRun(
            WatchRunRequest(run_id=str(run_id), resume_token=resume_token),
            metadata=(("authorization", f"Bearer {stack.token(tenant_id)}"),),
        )
        yield Watched(call)
        call.cancel()


@asynccontextmanager
async def watching_runs(
    stack: Stack, tenant_id: str, campaign_id: UUID | None = None, **fields: Any
) -> AsyncIterator[Watched[WatchRunsResponse]]:
    """The stream of a campaign's runs, or of all of the tenant, on a connection of its own."""
    async with grpc.aio.insecure_channel(stack.grpc_address) as channel:
        stub = RunServiceStub(channel)
        metadata = (("authorization", f"Bearer {stack.token(tenant_id)}"),)
        if campaign_id is None:
            call: Any = stub.WatchRuns(WatchRunsRequest(**fields), metadata=metadata)
        else:
            request = WatchCampaignRunsRequest(campaign_id=str(campaign_id), **fields)
            call = stub.WatchCampaignRuns(request, metadata=metadata)
        yield Watched(call)
        call.cancel()


class Telling:
    """A node that says WAITS again and again until it is let go: only then does the test know that whoever
    watches is told.
    """

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def node(self, state: Any) -> dict[str, Any]:
        while not self.go.is_set():
            get_stream_writer()(WAITS)
            await asyncio.sleep(0.01)
        return {}
