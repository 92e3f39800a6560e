"""The typed client: one method a call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from runengine.v1.artifact_service_pb2 import Artifact as SavedArtifact
from runengine.v1.artifact_service_pb2 import (
    DownloadArtifactRequest,
    DownloadArtifactResponse,
    ListRunArtifactsRequest,
    ListRunArtifactsResponse,
)
from runengine.v1.campaign_pb2 import Campaign
from runengine.v1.campaign_service_pb2 import CreateCampaignRequest, GetCampaignRequest
from runengine.v1.run_pb2 import Run, RunEvent, RunStep
from runengine.v1.run_service_pb2 import (
    CancelRunRequest,
    GetRunOutputRequest,
    GetRunStepDataRequest,
    ListRunEventsRequest,
    ListRunStepsRequest,
    ResumeRunRequest,
    RetryRunRequest,
    TriggerRunRequest,
)
from runengine.v1.workflow_service_pb2 import ListWorkflowsRequest, ListWorkflowsResponse, Workflow

from runengine_client.arguments import Id, key_metadata, struct_or_none
from runengine_client.bulk_operations import BulkOperations
from runengine_client.errors import DeadlineExceeded, Internal, from_rpc_error
from runengine_client.run_watches import TERMINAL, RunWatches
from runengine_client.schedules import Schedules
from runengine_client.structs import to_value
from runengine_client.webhooks import Webhooks

__all__ = ["TERMINAL", "Artifact", "RunEngineClient", "RunOutput", "StepData"]

_NO_WORKERS = ("runengine-workers", "0")
_NO_CAMPAIGN = ("runengine-campaign", "missing")
_NOT_GIVEN: Any = object()  # None is a value


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a step has saved: its file name, its media type such as `application/zip`, its bytes."""

    name: str
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class RunOutput:
    """What the graph of a run has returned: `value` is that of JSON. Where it is larger than 1 MiB, the
    artifact `artifact_id` holds it as JSON; where it cannot be shown, `note` says why.
    """

    value: Any
    artifact_id: str | None
    note: str | None


@dataclass(frozen=True, slots=True)
class StepData:
    """What execution `attempt` of a step was called with, and what it wrote: values of JSON. Where one of
    them is not there, its note says why.
    """

    attempt: int
    input: Any
    input_note: str | None
    update: Any
    update_note: str | None


class RunEngineClient(RunWatches, BulkOperations, Webhooks, Schedules):
    """Calls the run engine at `address` (`host:port`). Make it inside the event loop that uses it.

    `token` is the JWT that names the tenant, or a function that returns one, called before each call.
    `secure` speaks TLS and trusts the usual roots. `timeout_seconds` bounds each call; a download,
    which may take long, each wait for its next part.

    Every method raises a RunEngineError when the server refuses the call or cannot be reached, and
    ValueError for an argument that cannot be sent. Ids are UUIDs or their strings.
    """

    async def trigger_run(
        self,
        workflow_name: str,
        *,
        trigger_payload: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        campaign_id: Id | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
        on_no_worker: Callable[[], object] | None = None,
        on_no_campaign: Callable[[], object] | None = None,
    ) -> Run:
        """Queues a run of the workflow and returns it.

        `campaign_id` goes into the context, as `campaignId`. Of the tenant's queued runs those with the
        greatest `priority`, -100 to 100, are taken first. The same `idempotency_key` with the same
        request returns the run of the first call instead of starting another. `on_no_worker` is called
        when the server reports that no worker serves the workflow at the moment, so that the run waits,
        `on_no_campaign` when it reports that the campaign does not exist, so that the run updates none.
        Raises InvalidArgument for an unknown workflow, PayloadTooLarge, IdempotencyKeyReused,
        QuotaExceeded or Overloaded; ValueError for a payload or context that is not JSON.
        """
        if campaign_id is not None:
            context = {**(context or {}), "campaignId": str(campaign_id)}
        request = TriggerRunRequest(
            workflow_name=workflow_name,
            trigger_payload=struct_or_none(trigger_payload, "trigger_payload"),
            context=struct_or_none(context, "context"),
            priority=priority or None,
        )
        call = await self._begin(self._runs.TriggerRun, request, key_metadata(idempotency_key))
        run = (await self._end(call)).run
        metadata = tuple(await call.trailing_metadata())
        if on_no_worker is not None and _NO_WORKERS in metadata:
            on_no_worker()
        if on_no_campaign is not None and _NO_CAMPAIGN in metadata:
            on_no_campaign()
        return run

    async def list_run_steps(self, run_id: Id, *, attempt: int | None = None) -> list[RunStep]:
        """Returns the steps of the run in execution order, each at its current attempt.

        With `attempt`, from 1, each step as it was at that execution; steps with fewer executions are left
        out. Asks for a thousand at a time. Raises RunNotFound, InvalidArgument.
        """
        request = ListRunStepsRequest(run_id=str(run_id), attempt=attempt)
        return [step async for page in self._pages(self._runs.ListRunSteps, request) for step in page.steps]

    async def list_run_events(self, run_id: Id) -> list[RunEvent]:
        """Returns the transitions of the run, all attempts, in order, asking for a thousand at a time. Raises
        RunNotFound.
        """
        request = ListRunEventsRequest(run_id=str(run_id))
        pages = self._pages(self._runs.ListRunEvents, request)
        return [event async for page in pages for event in page.events]

    async def get_run_output(self, run_id: Id) -> RunOutput:
        """Returns what the graph of a completed run has returned.

        Raises RunNotFound, or RunNotCompleted while it has not completed.
        """
        response = await self._call(self._runs.GetRunOutput, GetRunOutputRequest(run_id=str(run_id)))
        return RunOutput(
            value=json.loads(response.output) if response.HasField("output") else None,
            artifact_id=response.artifact_id if response.HasField("artifact_id") else None,
            note=response.note if response.HasField("note") else None,
        )

    async def get_step_data(self, run_id: Id, step: Id, *, attempt: int | None = None) -> StepData:
        """Returns what the step of that `id` was called with and what it wrote, at its current attempt or the
        given one. Raises RunNotFound, StepNotFound (no such step, or attempt), InvalidArgument.
        """
        request = GetRunStepDataRequest(run_id=str(run_id), id=str(step), attempt=attempt)
        response = await self._call(self._runs.GetRunStepData, request)
        return StepData(
            attempt=response.attempt,
            input=json.loads(response.input) if response.HasField("input") else None,
            input_note=response.input_note if response.HasField("input_note") else None,
            update=json.loads(response.update) if response.HasField("update") else None,
            update_note=response.update_note if response.HasField("update_note") else None,
        )

    async def retry_run(self, run_id: Id, *, idempotency_key: str | None = None) -> Run:
        """Queues a failed or cancelled run again and returns it: same id, attempt + 1.

        Completed steps are kept. Raises RunNotFound, RunActive (queued or running), RunNotRetryable
        (completed) or IdempotencyKeyReused.
        """
        request = RetryRunRequest(run_id=str(run_id))
        return (await self._call(self._runs.RetryRun, request, key_metadata(idempotency_key))).run

    async def resume_run(
        self,
        run_id: Id,
        value: Any = _NOT_GIVEN,
        *,
        values: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Lets a run go on that waits for somebody, and returns it.

        `value` is what `interrupt()` returns, where the run waits for one thing; None is a value. `values`
        has one under each `WaitingFor.id`, of some or of all that it waits for. Raises RunNotFound,
        RunNotWaiting, InvalidArgument (an id that it does not wait for; one value where it waits for more),
        PayloadTooLarge or IdempotencyKeyReused; ValueError for neither or both, and for what is not JSON.
        """
        if (value is _NOT_GIVEN) == (not values):
            raise ValueError("A run is resumed with either a value or values by id.")
        request = ResumeRunRequest(
            run_id=str(run_id),
            value=None if value is _NOT_GIVEN else to_value(value),
            values={key: to_value(each, f"values.{key}") for key, each in (values or {}).items()},
        )
        return (await self._call(self._runs.ResumeRun, request, key_metadata(idempotency_key))).run

    async def cancel_run(self, run_id: Id, *, idempotency_key: str | None = None) -> Run:
        """Cancels a queued or running run and returns it; a cancelled one is returned unchanged.

        Raises RunNotFound, RunTerminal (completed or failed) or IdempotencyKeyReused.
        """
        request = CancelRunRequest(run_id=str(run_id))
        return (await self._call(self._runs.CancelRun, request, key_metadata(idempotency_key))).run

    async def create_campaign(self, campaign_id: Id | None = None) -> Campaign:
        """Creates a draft campaign and returns it; an existing one is returned unchanged.

        Without an id the server makes one. Raises InvalidArgument (malformed id).
        """
        request = CreateCampaignRequest(id=None if campaign_id is None else str(campaign_id))
        return (await self._call(self._campaigns.CreateCampaign, request)).campaign

    async def get_campaign(self, campaign_id: Id) -> Campaign:
        """Returns the campaign as it is now. Raises CampaignNotFound."""
        request = GetCampaignRequest(campaign_id=str(campaign_id))
        return (await self._call(self._campaigns.GetCampaign, request)).campaign

    async def list_workflows(
        self, *, limit: int | None = None, page_token: str | None = None
    ) -> ListWorkflowsResponse:
        """Returns one page of the workflows that there are, in the order of their names: their graphs, their
        schemas, and how many workers serve each. `limit` is 1 to 50, by default 50. Raises InvalidArgument.
        """
        request = ListWorkflowsRequest(limit=limit, page_token=page_token)
        return await self._call(self._workflows.ListWorkflows, request)

    async def iterate_workflows(self, *, page_size: int = 50) -> AsyncIterator[Workflow]:
        """Yields all workflows that there are, a page at a time."""
        request = ListWorkflowsRequest(limit=page_size)
        async for page in self._pages(self._workflows.ListWorkflows, request):
            for workflow in page.workflows:
                yield workflow

    async def list_run_artifacts(
        self, run_id: Id, *, limit: int | None = None, page_token: str | None = None
    ) -> ListRunArtifactsResponse:
        """Returns one page of what the steps of the run have saved, in that order, without the bytes.

        `limit` is 1 to 1,000, by default 100. Raises RunNotFound, InvalidArgument.
        """
        request = ListRunArtifactsRequest(run_id=str(run_id), limit=limit, page_token=page_token)
        return await self._call(self._artifacts.ListRunArtifacts, request)

    async def iterate_run_artifacts(
        self, run_id: Id, *, page_size: int = 1000
    ) -> AsyncIterator[SavedArtifact]:
        """Yields all that the steps of the run have saved, a page at a time. Raises RunNotFound."""
        request = ListRunArtifactsRequest(run_id=str(run_id), limit=page_size)
        async for page in self._pages(self._artifacts.ListRunArtifacts, request):
            for artifact in page.artifacts:
                yield artifact

    async def download_artifact(self, artifact_id: Id) -> Artifact:
        """Returns the artifact, whole and in memory. Raises ArtifactNotFound."""
        request = DownloadArtifactRequest(artifact_id=str(artifact_id))
        call = self._artifacts.DownloadArtifact(request, metadata=await self._metadata())
        header = DownloadArtifactResponse.Header()
        data = bytearray()
        try:
            while True:
                async with asyncio.timeout(self._timeout):
                    part = await call.read()
                if not isinstance(part, DownloadArtifactResponse):
                    break
                if part.HasField("header"):
                    header = part.header
                data += part.data
        except TimeoutError:
            raise DeadlineExceeded(
                f"The run engine at {self._address} sent nothing of the artifact for {self._timeout:g} s.",
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
            ) from None
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._address) from error
        if len(data) != header.size:
            raise Internal(
                f"The run engine at {self._address} sent {len(data)} of the artifact's {header.size} bytes.",
                code=grpc.StatusCode.DATA_LOSS,
            )
        return Artifact(header.name, header.media_type, bytes(data))

    async def wait_for_output(
        self, run_id: Id, *, timeout_seconds: float | None = None, poll: tuple[float, float] = (0.05, 1)
    ) -> RunOutput:
        """Waits as `wait` does, and returns what the graph has returned.

        Raises RunNotCompleted when the run has failed or was cancelled; `metadata["status"]` says which.
        """
        await self.wait(run_id, timeout_seconds=timeout_seconds, poll=poll)
        return await self.get_run_output(run_id)
