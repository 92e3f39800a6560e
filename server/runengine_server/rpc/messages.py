"""The domain's objects as messages of runengine.v1."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1 import (
    artifact_service_pb2,
    campaign_pb2,
    run_pb2,
    run_service_pb2,
    workflow_service_pb2,
)

from runengine_server.domain.caller import split_actor
from runengine_server.domain.encoded_run import encode_step_input, encode_step_update
from runengine_server.domain.progress import Progress, ProgressEvent
from runengine_server.domain.run import (
    Artifact,
    Campaign,
    RunEvent,
    RunStatus,
    RunStep,
    StepStatus,
    whole_milliseconds,
)
from runengine_server.repositories.run_repository import StoredStepData
from runengine_server.repositories.workflow_repository import DescribedWorkflow

_NOT_BEGUN = "The step has not begun."
_NOT_COMPLETED = "The step has not completed."
_NOT_KEPT = "It was not kept: the worker kept no data of steps."
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def run_status_value(status: RunStatus) -> run_pb2.RunStatus.ValueType:
    """The enum value of a stored word."""
    return run_pb2.RunStatus.Value(f"RUN_STATUS_{status.name}")


def timestamp(at: datetime | None) -> Timestamp | None:
    """The same time; None for none."""
    if at is None:
        return None
    microseconds = (at - _EPOCH) // timedelta(microseconds=1)
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


def event_message(event: RunEvent) -> run_pb2.RunEvent:
    """The transition as callers see it."""
    actor, impersonator = split_actor(event.actor)
    return run_pb2.RunEvent(
        at=timestamp(event.at),
        from_status=None if event.from_status is None else run_status_value(event.from_status),
        to_status=run_status_value(event.to_status),
        attempt=event.attempt,
        actor=actor,
        impersonator=impersonator,
        reason=event.reason,
        trace_id=event.trace_id,
        error=None if event.error is None else run_pb2.RunError.FromString(event.error),
        bulk_operation_id=None if event.operation_id is None else str(event.operation_id),
    )


def artifact_message(artifact: Artifact) -> artifact_service_pb2.Artifact:
    """The artifact as callers see it."""
    return artifact_service_pb2.Artifact(
        id=str(artifact.id),
        name=artifact.name,
        media_type=artifact.media_type,
        size=artifact.size,
        created_at=timestamp(artifact.created_at),
    )


def step_message(step: RunStep) -> run_pb2.RunStep:
    """The step as callers see it."""
    error = step.error
    return run_pb2.RunStep(
        id=str(step.id),
        parent_step_id=None if step.parent_id is None else str(step.parent_id),
        step_id=step.step_id,
        skill_id=step.skill_id,
        status=run_pb2.StepStatus.Value(f"STEP_STATUS_{step.status.name}"),
        cache_hit=step.cache_hit,
        duration_ms=whole_milliseconds(step.started_at, step.completed_at),
        attempt=step.attempt,
        error=None
        if error is None
        else run_pb2.StepError(
            code=error.code,
            message=error.message,
            step_id=step.step_id,
            attempt=error.attempt,
            retryable=error.retryable,
        ),
        output_artifact_ids=[str(artifact_id) for artifact_id in step.output_artifact_ids],
        created_at=timestamp(step.created_at),
        updated_at=timestamp(step.updated_at),
    )


def step_data_response(data: StoredStepData) -> bytes:
    """An encoded GetRunStepDataResponse: those of its parts, one after the other."""
    encoded_input, encoded_update = data.encoded_input, data.encoded_update
    has_begun = data.status not in (StepStatus.PENDING, StepStatus.SKIPPED)
    if encoded_input is None:
        encoded_input = encode_step_input(note=_NOT_KEPT if has_begun else _NOT_BEGUN)
    if encoded_update is None:
        is_done = data.status is StepStatus.COMPLETED
        encoded_update = encode_step_update(note=_NOT_KEPT if is_done else _NOT_COMPLETED)
    attempt = run_service_pb2.GetRunStepDataResponse(attempt=data.attempt)
    return attempt.SerializeToString() + encoded_input + encoded_update


def campaign_message(campaign: Campaign) -> campaign_pb2.Campaign:
    """The campaign as callers see it."""
    return campaign_pb2.Campaign(
        id=str(campaign.id),
        status=campaign_pb2.CampaignStatus.Value(f"CAMPAIGN_STATUS_{campaign.status.name}"),
        bundle_url=campaign.bundle_url,
        latest_run_id=None if campaign.latest_run_id is None else str(campaign.latest_run_id),
        created_at=timestamp(campaign.created_at),
        updated_at=timestamp(campaign.updated_at),
    )


def workflow_message(workflow: DescribedWorkflow) -> workflow_service_pb2.Workflow:
    """The workflow as callers see it."""
    message = workflow_service_pb2.Workflow(
        name=workflow.name,
        workers=workflow.workers,
        registered_at=timestamp(workflow.registered_at),
        note="The worker that registered it does not describe it." if workflow.description is None else None,
    )
    message.MergeFromString(workflow.description or b"")
    return message


def progress_message(
    progress: Progress, number: int, event: ProgressEvent, dropped: int
) -> run_pb2.ProgressEvent:
    """The event as callers see it; `dropped` is how many before it they do not get."""
    return run_pb2.ProgressEvent(
        run_id=str(progress.run_id),
        step_id=event.step_id,
        run_step_id=None if event.run_step_id is None else str(event.run_step_id),
        namespace=event.namespace,
        kind=run_pb2.ProgressKind.Value(f"PROGRESS_KIND_{event.kind.name}"),
        data=event.data.decode(),
        message_id=event.message_id,
        attempt=progress.attempt,
        epoch=progress.epoch,
        number=number,
        dropped=dropped,
    )
