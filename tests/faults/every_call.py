"""Every RPC and every path of REST, as one tenant calls them, and how each ended."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import httpx
from google.protobuf.struct_pb2 import Value
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from runengine.v1 import artifact_service_pb2 as artifacts
from runengine.v1 import artifact_service_pb2_grpc, campaign_service_pb2_grpc, run_service_pb2_grpc
from runengine.v1 import campaign_service_pb2 as campaigns
from runengine.v1 import run_service_pb2 as runs

from tests.support.own_worker import until
from tests.support.patience import SECONDS

# More calls at once than the server has connections.
MANY = 40


@dataclass(frozen=True)
class Outcome:
    """How a call ended: its code or HTTP status, and its reason, if typed."""

    code: Any
    reason: str | None


class Api:
    """Every RPC and every REST path, as one tenant."""

    def __init__(self, channel: grpc.aio.Channel, rest: httpx.AsyncClient, token: str) -> None:
        self.rest = rest
        self.runs = run_service_pb2_grpc.RunServiceStub(channel)
        self._campaigns = campaign_service_pb2_grpc.CampaignServiceStub(channel)
        self._artifacts = artifact_service_pb2_grpc.ArtifactServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def send(
        self, method: Any, request: Any, key: str | None = None, seconds: float | None = SECONDS
    ) -> Any:
        """The response of one RPC, whether it was replayed, or grpc.aio.AioRpcError."""
        keys = (("idempotency-key", key),) if key else ()
        call = method(request, metadata=self._metadata + keys, timeout=seconds)
        response = await (call.read() if hasattr(call, "read") else call)
        return response, ("idempotency-replayed", "true") in tuple(await call.trailing_metadata())

    async def outcome(self, method: Any, request: Any, seconds: float | None = SECONDS) -> Outcome:
        """How one RPC ends."""
        try:
            await self.send(method, request, seconds=seconds)
        except grpc.aio.AioRpcError as error:
            return Outcome(error.code(), reason_of(error))
        return Outcome(grpc.StatusCode.OK, None)

    async def rest_outcome(self, method: str, path: str, body: Any = None) -> Outcome:
        """How one request ends."""
        response = await self.rest.request(method, path, json=body)
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            # A stream says in its events what passes.
            problem = json.loads(response.text.partition("\ndata: ")[2])
            return Outcome(problem["status"], problem["reason"])
        return Outcome(response.status_code, response.json()["reason"] if response.is_error else None)

    async def every_rpc(self, seconds: float | None = SECONDS) -> list[Outcome]:
        """How each RPC ends, all at once, in several copies."""
        run_id = campaign_id = artifact_id = str(uuid4())
        calls = [
            (self.runs.TriggerRun, runs.TriggerRunRequest(workflow_name="unserved")),
            (self.runs.GetRun, runs.GetRunRequest(run_id=run_id)),
            (self.runs.ListRunSteps, runs.ListRunStepsRequest(run_id=run_id)),
            (self.runs.ListRunEvents, runs.ListRunEventsRequest(run_id=run_id)),
            (self.runs.WatchRun, runs.WatchRunRequest(run_id=run_id)),
            (self.runs.GetRunOutput, runs.GetRunOutputRequest(run_id=run_id)),
            (self.runs.GetRunStepData, runs.GetRunStepDataRequest(run_id=run_id, id=run_id)),
            (self.runs.RetryRun, runs.RetryRunRequest(run_id=run_id)),
            (self.runs.ResumeRun, runs.ResumeRunRequest(run_id=run_id, value=Value(bool_value=True))),
            (self.runs.CancelRun, runs.CancelRunRequest(run_id=run_id)),
            (self.runs.ListCampaignRuns, runs.ListCampaignRunsRequest(campaign_id=campaign_id)),
            (self._campaigns.CreateCampaign, campaigns.CreateCampaignRequest()),
            (self._campaigns.GetCampaign, campaigns.GetCampaignRequest(campaign_id=campaign_id)),
            (self._artifacts.ListRunArtifacts, artifacts.ListRunArtifactsRequest(run_id=run_id)),
            (self._artifacts.DownloadArtifact, artifacts.DownloadArtifactRequest(artifact_id=artifact_id)),
        ]
        return await asyncio.gather(*(self.outcome(*call, seconds) for call in calls * (MANY // len(calls))))

    async def every_path(self) -> list[Outcome]:
        """How a request to each path ends, all at once."""
        some = str(uuid4())
        return await asyncio.gather(
            self.rest_outcome("POST", "/runs", {"workflowName": "unserved"}),
            self.rest_outcome("GET", f"/runs/{some}"),
            self.rest_outcome("GET", f"/runs/{some}/steps"),
            self.rest_outcome("GET", f"/runs/{some}/events"),
            self.rest_outcome("GET", f"/runs/{some}/output"),
            self.rest_outcome("GET", f"/runs/{some}/watch"),
            self.rest_outcome("GET", f"/runs/{some}/steps/{some}/data"),
            self.rest_outcome("POST", f"/runs/{some}/retry"),
            self.rest_outcome("POST", f"/runs/{some}/resume", {"value": True}),
            self.rest_outcome("DELETE", f"/runs/{some}"),
            self.rest_outcome("GET", f"/campaigns/{some}/runs"),
            self.rest_outcome("POST", "/campaigns", {}),
            self.rest_outcome("GET", f"/campaigns/{some}"),
            self.rest_outcome("GET", f"/runs/{some}/artifacts"),
            self.rest_outcome("GET", f"/artifacts/{some}"),
        )

    async def every_call_succeeds(self) -> None:
        """None of many, more than there are connections, meets what is left of a trouble."""
        request = runs.GetRunRequest(run_id=str(uuid4()))
        outcomes = await asyncio.gather(*(self.outcome(self.runs.GetRun, request) for _ in range(MANY)))
        assert {(each.code, each.reason) for each in outcomes} == {
            (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
        }

    async def until_ready(self, status: int) -> None:
        """Returns once /readyz answers so, and gRPC's health service the same."""
        response = health_pb2.HealthCheckResponse
        wanted = (status, response.SERVING if status == 200 else response.NOT_SERVING)

        async def said() -> tuple[int, int]:
            health = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
            return (await self.rest.get("/readyz")).status_code, health.status

        await until(said, lambda answer: answer == wanted)


def reason_of(error: grpc.aio.AioRpcError) -> str | None:
    """The reason in its google.rpc.ErrorInfo; None when the server did not send it."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if not isinstance(details, bytes):
        return None
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(details).details[0].Unpack(info)
    return str(info.reason)
