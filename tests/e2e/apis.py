"""The same calls through each door of the product; every answer in the JSON of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import grpc
import httpx
from google.protobuf.json_format import ParseDict
from google.rpc import error_details_pb2, status_pb2
from runengine.v1 import campaign_service_pb2 as campaigns
from runengine.v1 import campaign_service_pb2_grpc, run_pb2, run_service_pb2_grpc
from runengine.v1 import run_service_pb2 as runs
from runengine_client import RunEngineClient, RunEngineError
from runengine_client.json_view import campaign_json, page_json, run_json, steps_json

from tests.support.patience import SECONDS

Json = dict[str, Any]


class Refused(Exception):
    """The reason of a refusal, whichever door it came from."""

    def __init__(self, reason: str, metadata: Mapping[str, str]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.metadata = dict(metadata)


class Api(Protocol):
    async def trigger(self, workflow: str, payload: Json | None, context: Json | None) -> Json: ...
    async def get(self, run_id: str) -> Json: ...
    async def steps(self, run_id: str) -> list[Json]: ...
    async def retry(self, run_id: str) -> Json: ...
    async def cancel(self, run_id: str) -> Json: ...
    async def list(self, campaign_id: str, **query: Any) -> Json: ...
    async def create_campaign(self) -> Json: ...
    async def get_campaign(self, campaign_id: str) -> Json: ...


class RestApi:
    def __init__(self, rest: httpx.AsyncClient) -> None:
        self._rest = rest

    async def _call(self, method: str, path: str, **arguments: Any) -> Any:
        response = await self._rest.request(method, path, **arguments)
        body = response.json()
        if response.is_error:
            assert response.headers["content-type"] == "application/problem+json"
            assert body["status"] == response.status_code
            raise Refused(body["reason"], body["metadata"])
        return body

    async def trigger(self, workflow: str, payload: Json | None, context: Json | None) -> Json:
        body = {"workflowName": workflow, "triggerPayload": payload, "context": context}
        run: Json = await self._call("POST", "/runs", json=body)
        return run

    async def get(self, run_id: str) -> Json:
        run: Json = await self._call("GET", f"/runs/{run_id}")
        return run

    async def steps(self, run_id: str) -> list[Json]:
        steps: list[Json] = (await self._call("GET", f"/runs/{run_id}/steps"))["steps"]
        return steps

    async def retry(self, run_id: str) -> Json:
        run: Json = await self._call("POST", f"/runs/{run_id}/retry")
        return run

    async def cancel(self, run_id: str) -> Json:
        run: Json = await self._call("DELETE", f"/runs/{run_id}")
        return run

    async def list(self, campaign_id: str, **query: Any) -> Json:
        page: Json = await self._call("GET", f"/campaigns/{campaign_id}/runs", params=query)
        return page

    async def create_campaign(self) -> Json:
        campaign: Json = await self._call("POST", "/campaigns", json={})
        return campaign

    async def get_campaign(self, campaign_id: str) -> Json:
        campaign: Json = await self._call("GET", f"/campaigns/{campaign_id}")
        return campaign


class ClientApi:
    def __init__(self, client: RunEngineClient) -> None:
        self._client = client

    async def trigger(self, workflow: str, payload: Json | None, context: Json | None) -> Json:
        run = self._client.trigger_run(workflow, trigger_payload=payload, context=context)
        return run_json(await self._call(run))

    async def _call(self, answer: Any) -> Any:
        try:
            return await answer
        except RunEngineError as error:
            raise Refused(error.reason, error.metadata) from error

    async def get(self, run_id: str) -> Json:
        return run_json(await self._call(self._client.get_run(run_id)))

    async def steps(self, run_id: str) -> list[Json]:
        steps: list[Json] = steps_json(await self._call(self._client.list_run_steps(run_id)))["steps"]
        return steps

    async def retry(self, run_id: str) -> Json:
        return run_json(await self._call(self._client.retry_run(run_id)))

    async def cancel(self, run_id: str) -> Json:
        return run_json(await self._call(self._client.cancel_run(run_id)))

    async def list(self, campaign_id: str, **query: Any) -> Json:
        page = await self._call(self._client.list_campaign_runs(campaign_id, **query))
        return page_json(page)

    async def create_campaign(self) -> Json:
        return campaign_json(await self._call(self._client.create_campaign()))

    async def get_campaign(self, campaign_id: str) -> Json:
        return campaign_json(await self._call(self._client.get_campaign(campaign_id)))


class GrpcApi:
    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._runs = run_service_pb2_grpc.RunServiceStub(channel)
        self._campaigns = campaign_service_pb2_grpc.CampaignServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, metadata=self._metadata, timeout=SECONDS)
        except grpc.aio.AioRpcError as error:
            details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
            status = status_pb2.Status.FromString(details if isinstance(details, bytes) else b"")
            info = error_details_pb2.ErrorInfo()
            status.details[0].Unpack(info)
            raise Refused(info.reason, info.metadata) from error

    async def trigger(self, workflow: str, payload: Json | None, context: Json | None) -> Json:
        request = runs.TriggerRunRequest(workflow_name=workflow)
        if payload is not None:
            ParseDict(payload, request.trigger_payload)
        if context is not None:
            ParseDict(context, request.context)
        return run_json((await self._call(self._runs.TriggerRun, request)).run)

    async def get(self, run_id: str) -> Json:
        return run_json((await self._call(self._runs.GetRun, runs.GetRunRequest(run_id=run_id))).run)

    async def steps(self, run_id: str) -> list[Json]:
        answer = await self._call(self._runs.ListRunSteps, runs.ListRunStepsRequest(run_id=run_id))
        steps: list[Json] = steps_json(answer.steps)["steps"]
        return steps

    async def retry(self, run_id: str) -> Json:
        return run_json((await self._call(self._runs.RetryRun, runs.RetryRunRequest(run_id=run_id))).run)

    async def cancel(self, run_id: str) -> Json:
        return run_json((await self._call(self._runs.CancelRun, runs.CancelRunRequest(run_id=run_id))).run)

    async def list(self, campaign_id: str, **query: Any) -> Json:
        if "status" in query:
            query["status"] = [run_pb2.RunStatus.Value(f"RUN_STATUS_{query['status'].upper()}")]
        request = runs.ListCampaignRunsRequest(campaign_id=campaign_id, **query)
        page = await self._call(self._runs.ListCampaignRuns, request)
        return page_json(page)

    async def create_campaign(self) -> Json:
        answer = await self._call(self._campaigns.CreateCampaign, campaigns.CreateCampaignRequest())
        return campaign_json(answer.campaign)

    async def get_campaign(self, campaign_id: str) -> Json:
        request = campaigns.GetCampaignRequest(campaign_id=campaign_id)
        return campaign_json((await self._call(self._campaigns.GetCampaign, request)).campaign)
