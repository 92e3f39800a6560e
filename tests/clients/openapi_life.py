"""The full life of a run, through what openapi-python-client makes of the document. Prints the bundle in hex.

Runs where that package is installed: openapi_life.py URL TOKEN, with the generated package on the path.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TypeVar
from uuid import UUID, uuid4

from runengine_rest_client import AuthenticatedClient
from runengine_rest_client.api.artifacts import download_artifact
from runengine_rest_client.api.campaigns import create_campaign, get_campaign
from runengine_rest_client.api.runs import (
    cancel_run,
    get_run,
    get_run_output,
    list_campaign_runs,
    list_run_events,
    list_run_steps,
    resume_run,
    retry_run,
    trigger_run,
)
from runengine_rest_client.models import (
    Campaign,
    CampaignStatus,
    GetRunOutputResponse,
    ListCampaignRunsResponse,
    ListRunEventsResponse,
    ListRunStepsResponse,
    Problem,
    ResumeRunRequest,
    ResumeRunRequestValues,
    Run,
    RunStatus,
    StepStatus,
    TriggerRunRequest,
    TriggerRunRequestContextType0,
    TriggerRunRequestTriggerPayloadType0,
)
from runengine_rest_client.types import UNSET, File, Unset

PAYLOAD = {
    "product": {"name": "Kettle"},
    "audience": "campers",
    "channels": ["email"],
    "tone": "plain",
    "offer": "20 % off",
    "locale": "en",
    "paceSeconds": 0,
    "n": 5,
    "nested": {"list": [1, 2.5, "ü", None, True, {"a": []}]},
}

Kind = TypeVar("Kind")


def is_a(kind: type[Kind], answer: object) -> Kind:
    assert isinstance(answer, kind), answer
    return answer


def refused(answer: object, status: int, reason: str) -> Problem:
    problem = is_a(Problem, answer)
    assert (problem.status, problem.reason) == (status, reason)
    return problem


def completed(client: AuthenticatedClient, run_id: UUID) -> Run:
    while True:
        run = is_a(Run, get_run.sync(run_id, client=client))
        if run.status is RunStatus.COMPLETED:
            return run
        assert run.error is None
        time.sleep(0.05)


def trigger(client: AuthenticatedClient, request: TriggerRunRequest, key: str | Unset = UNSET) -> Run:
    return is_a(Run, trigger_run.sync(client=client, body=request, idempotency_key=key))


def live(client: AuthenticatedClient) -> dict[str, str]:
    campaign = is_a(Campaign, create_campaign.sync(client=client))
    assert (campaign.status, campaign.bundle_url) == (CampaignStatus.DRAFT, None)
    context = TriggerRunRequestContextType0(campaign_id=campaign.id)

    request = TriggerRunRequest(
        "campaign-bundle", TriggerRunRequestTriggerPayloadType0.from_dict(PAYLOAD), context, priority=7
    )
    run = trigger(client, request, "first")
    assert (run.status, run.attempt, run.priority) == (RunStatus.QUEUED, 1, 7)
    assert run.trigger_payload is not None
    assert run.trigger_payload.to_dict() == PAYLOAD
    done = completed(client, run.id)
    assert done.error is None
    assert isinstance(done.duration_ms, int)
    assert done.started_at is not None
    assert done.started_at.tzinfo is not None

    steps = is_a(ListRunStepsResponse, list_run_steps.sync(run.id, client=client)).steps
    assert {step.status for step in steps} == {StepStatus.COMPLETED}
    events = is_a(ListRunEventsResponse, list_run_events.sync(run.id, client=client)).events
    assert [event.to_status for event in events] == ["queued", "running", "completed"]
    assert events[0].from_status is None

    output = is_a(GetRunOutputResponse, get_run_output.sync(run.id, client=client))
    assert "bundle_artifact_id" in output.output
    assert (output.artifact_id, output.note) == (None, None)
    queued = trigger(client, TriggerRunRequest("unserved", trigger_payload=None, context=None, priority=None))
    assert is_a(Problem, get_run_output.sync(queued.id, client=client)).reason == "RUN_NOT_COMPLETED"

    idle = trigger(
        client, TriggerRunRequest("unserved", trigger_payload=None, context=context, priority=None)
    )
    cancelled = is_a(Run, cancel_run.sync(idle.id, client=client))
    assert (cancelled.status, cancelled.trigger_payload) == (RunStatus.CANCELLED, None)
    again = is_a(Run, retry_run.sync(idle.id, client=client))
    assert (again.status, again.attempt) == (RunStatus.QUEUED, 2)

    def page(token: str | Unset = UNSET, status: list[RunStatus] | Unset = UNSET) -> ListCampaignRunsResponse:
        answer = list_campaign_runs.sync(campaign.id, client=client, status=status, limit=1, page_token=token)
        return is_a(ListCampaignRunsResponse, answer)

    first = page()
    assert ([each.id for each in first.runs], first.total) == ([idle.id], 2)
    assert first.next_page_token is not None
    second = page(first.next_page_token)
    assert ([each.id for each in second.runs], second.next_page_token) == ([run.id], None)
    filtered = page(status=[RunStatus.COMPLETED, RunStatus.FAILED])
    assert ([each.id for each in filtered.runs], filtered.total) == ([run.id], 1)
    assert (filtered.status_counts.queued, filtered.status_counts.completed) == (1, 1)

    refused(get_run.sync(uuid4(), client=client), 404, "RUN_NOT_FOUND")
    conflict = refused(retry_run.sync(run.id, client=client), 409, "RUN_NOT_RETRYABLE")
    assert conflict.metadata.to_dict()["status"] == "completed"
    assert run.waiting_for is None
    by_id = ResumeRunRequest(values=ResumeRunRequestValues.from_dict({"a": None}))
    for resumption in (ResumeRunRequest(None), ResumeRunRequest({"approved": [True]}), by_id):
        refused(resume_run.sync(run.id, client=client, body=resumption), 409, "RUN_NOT_WAITING")
    malformed = refused(trigger_run.sync(client=client, body=TriggerRunRequest("")), 400, "INVALID_ARGUMENT")
    assert isinstance(malformed.violations, list)
    assert [each.field for each in malformed.violations] == ["workflowName"]

    now = is_a(Campaign, get_campaign.sync(campaign.id, client=client))
    assert (now.status, now.latest_run_id) == (CampaignStatus.LIVE, run.id)
    artifact_id = (now.bundle_url or "").rpartition("/")[2]
    bundle = is_a(File, download_artifact.sync(UUID(artifact_id), client=client))
    return {"artifactId": artifact_id, "bundle": bundle.payload.read().hex()}


if __name__ == "__main__":
    url, token = sys.argv[1:]
    with AuthenticatedClient(url, token, raise_on_unexpected_status=True) as client:
        json.dump(live(client), sys.stdout)
