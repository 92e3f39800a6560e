"""The messages of runengine.v1 as REST shows them: the objects that `--json` prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1.campaign_pb2 import Campaign
from runengine.v1.run_pb2 import Run, RunError, RunEvent, RunStep, StepError
from runengine.v1.run_service_pb2 import ListCampaignRunsResponse

from runengine_client.structs import struct_to_dict


def status_word(message: Run | RunStep | RunEvent | Campaign) -> str:
    """Answers the status in lower case, such as `queued`; its number if this client does not know it.

    Of an event it is the one that the run came to.
    """
    return _word(message, "to_status" if isinstance(message, RunEvent) else "status")


def run_json(run: Run) -> dict[str, Any]:
    """Answers a run as `GET /runs/{run_id}` does."""
    return {
        "id": run.id,
        "workflowName": run.workflow_name,
        "status": status_word(run),
        "triggerPayload": struct_to_dict(run.trigger_payload) if run.HasField("trigger_payload") else None,
        "context": struct_to_dict(run.context) if run.HasField("context") else None,
        "error": _error(run.error) if run.HasField("error") else None,
        "startedAt": _time(run.started_at) if run.HasField("started_at") else None,
        "completedAt": _time(run.completed_at) if run.HasField("completed_at") else None,
        "durationMs": run.duration_ms if run.HasField("duration_ms") else None,
        "createdAt": _time(run.created_at),
        "updatedAt": _time(run.updated_at),
        "attempt": run.attempt,
        "priority": run.priority,
    }


def steps_json(steps: Iterable[RunStep]) -> dict[str, Any]:
    """Answers the steps of a run as `GET /runs/{run_id}/steps` does."""
    return {"steps": [_step(step) for step in steps]}


def events_json(events: Iterable[RunEvent]) -> dict[str, Any]:
    """Answers the timeline of a run as `GET /runs/{run_id}/events` does."""
    return {"events": [_event(event) for event in events]}


def page_json(page: ListCampaignRunsResponse) -> dict[str, Any]:
    """Answers a page of runs as `GET /campaigns/{campaign_id}/runs` does."""
    counts = page.status_counts
    return {
        "runs": [run_json(run) for run in page.runs],
        "total": page.total,
        "limit": page.limit,
        "offset": page.offset,
        "nextPageToken": page.next_page_token if page.HasField("next_page_token") else None,
        "statusCounts": {
            "queued": counts.queued,
            "running": counts.running,
            "completed": counts.completed,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
        },
    }


def campaign_json(campaign: Campaign) -> dict[str, Any]:
    """Answers a campaign as `GET /campaigns/{campaign_id}` does."""
    return {
        "id": campaign.id,
        "status": status_word(campaign),
        "bundleUrl": campaign.bundle_url if campaign.HasField("bundle_url") else None,
        "latestRunId": campaign.latest_run_id if campaign.HasField("latest_run_id") else None,
        "createdAt": _time(campaign.created_at),
        "updatedAt": _time(campaign.updated_at),
    }


def _step(step: RunStep) -> dict[str, Any]:
    return {
        "id": step.id,
        "stepId": step.step_id,
        "skillId": step.skill_id,
        "status": status_word(step),
        "cacheHit": step.cache_hit,
        "durationMs": step.duration_ms if step.HasField("duration_ms") else None,
        "attempt": step.attempt,
        "error": _error(step.error) if step.HasField("error") else None,
        "outputArtifactIds": list(step.output_artifact_ids) or None,
        "createdAt": _time(step.created_at),
        "updatedAt": _time(step.updated_at),
    }


def _error(error: RunError | StepError) -> dict[str, Any]:
    # A step's error always names its step; a run's may belong to none.
    named = isinstance(error, StepError) or error.HasField("step_id")
    return {
        "code": error.code,
        "message": error.message,
        "stepId": error.step_id if named else None,
        "attempt": error.attempt,
        "retryable": error.retryable,
    }


def _time(time: Timestamp) -> str:
    moment = time.ToDatetime()
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _event(event: RunEvent) -> dict[str, Any]:
    return {
        "at": _time(event.at),
        "fromStatus": _word(event, "from_status") if event.HasField("from_status") else None,
        "toStatus": status_word(event),
        "attempt": event.attempt,
        "actor": event.actor,
        "reason": event.reason,
        "traceId": event.trace_id if event.HasField("trace_id") else None,
        "error": _error(event.error) if event.HasField("error") else None,
        "impersonator": event.impersonator if event.HasField("impersonator") else None,
    }


def _word(message: Message, field: str) -> str:
    words = message.DESCRIPTOR.fields_by_name[field].enum_type
    number = getattr(message, field)
    known = words and words.values_by_number.get(number)
    return known.name.rpartition("STATUS_")[2].lower() if known else str(number)
