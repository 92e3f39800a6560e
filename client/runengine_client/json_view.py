"""The messages of runengine.v1 as REST shows them: the objects that `--json` prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runengine.rest_json import encoder_of
from runengine.v1.artifact_service_pb2 import Artifact
from runengine.v1.bulk_operation_service_pb2 import (
    BulkOperation,
    ListBulkOperationItemsResponse,
    ListBulkOperationsResponse,
)
from runengine.v1.campaign_pb2 import Campaign
from runengine.v1.list_runs_pb2 import ListRunsResponse
from runengine.v1.run_pb2 import ProgressEvent, Run, RunEvent, RunStep
from runengine.v1.run_service_pb2 import (
    GetRunOutputResponse,
    ListCampaignRunsResponse,
    WatchRunResponse,
)
from runengine.v1.schedule_service_pb2 import ListSchedulesResponse, Schedule
from runengine.v1.watch_runs_pb2 import WatchRunsResponse
from runengine.v1.webhook_service_pb2 import (
    ListWebhookDeliveriesResponse,
    ListWebhookEndpointsResponse,
    WebhookDelivery,
    WebhookEndpoint,
)
from runengine.v1.workflow_service_pb2 import ListWorkflowsResponse, Workflow

from runengine_client.client import StepData

run_json = encoder_of(Run.DESCRIPTOR)
page_json = encoder_of(ListCampaignRunsResponse.DESCRIPTOR)
runs_json = encoder_of(ListRunsResponse.DESCRIPTOR)
workflow_json = encoder_of(Workflow.DESCRIPTOR)
workflows_json = encoder_of(ListWorkflowsResponse.DESCRIPTOR)
output_json = encoder_of(GetRunOutputResponse.DESCRIPTOR)
operation_json = encoder_of(BulkOperation.DESCRIPTOR)
operations_json = encoder_of(ListBulkOperationsResponse.DESCRIPTOR)
operation_items_json = encoder_of(ListBulkOperationItemsResponse.DESCRIPTOR)
endpoint_json = encoder_of(WebhookEndpoint.DESCRIPTOR)
endpoints_json = encoder_of(ListWebhookEndpointsResponse.DESCRIPTOR)
delivery_json = encoder_of(WebhookDelivery.DESCRIPTOR)
deliveries_json = encoder_of(ListWebhookDeliveriesResponse.DESCRIPTOR)
schedule_json = encoder_of(Schedule.DESCRIPTOR)
schedules_json = encoder_of(ListSchedulesResponse.DESCRIPTOR)
campaign_json = encoder_of(Campaign.DESCRIPTOR)
step_json = encoder_of(RunStep.DESCRIPTOR)
_artifact_json = encoder_of(Artifact.DESCRIPTOR)
event_json = encoder_of(RunEvent.DESCRIPTOR)
progress_json = encoder_of(ProgressEvent.DESCRIPTOR)
_watch_json = encoder_of(WatchRunResponse.DESCRIPTOR)
_watch_runs_json = encoder_of(WatchRunsResponse.DESCRIPTOR)


def steps_json(steps: Iterable[RunStep]) -> dict[str, Any]:
    """Returns the steps of a run as `GET /runs/{run_id}/steps` does."""
    return {"steps": [step_json(step) for step in steps]}


def step_data_json(found: Iterable[tuple[RunStep, StepData]]) -> dict[str, Any]:
    """Returns of each step `id` and `stepId`, and what `GET /runs/{run_id}/steps/{id}/data` does."""
    return {
        "steps": [
            {
                "id": step.id,
                "stepId": step.step_id,
                "attempt": data.attempt,
                "input": data.input,
                "inputNote": data.input_note,
                "update": data.update,
                "updateNote": data.update_note,
            }
            for step, data in found
        ]
    }


def artifacts_json(artifacts: Iterable[Artifact]) -> dict[str, Any]:
    """Returns all artifacts of a run, each as `GET /runs/{run_id}/artifacts` shows it."""
    return {"artifacts": [_artifact_json(artifact) for artifact in artifacts]}


def events_json(events: Iterable[RunEvent]) -> dict[str, Any]:
    """Returns the timeline of a run as `GET /runs/{run_id}/events` does."""
    return {"events": [event_json(event) for event in events]}


def watch_json(response: WatchRunResponse) -> dict[str, Any]:
    """Returns the event of a message under its name, as in `GET /runs/{run_id}/watch`, and the token."""
    return {key: value for key, value in _watch_json(response).items() if value is not None}


def watch_runs_json(response: WatchRunsResponse) -> dict[str, Any]:
    """The same of a message about several runs, as in `GET /campaigns/{campaign_id}/runs/watch`."""
    return {key: value for key, value in _watch_runs_json(response).items() if value is not None}
