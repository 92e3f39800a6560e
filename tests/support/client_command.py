"""The `runengine` command as a process of its own, and a server in this process that it calls."""

# ruff: noqa: N802  # gRPC names the methods of a servicer

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from runengine.v1.artifact_service_pb2 import (
    Artifact,
    DownloadArtifactResponse,
    ListRunArtifactsResponse,
)
from runengine.v1.artifact_service_pb2_grpc import ArtifactServiceServicer
from runengine.v1.bulk_operation_service_pb2 import (
    AbortBulkOperationResponse,
    BulkAction,
    BulkOperation,
    BulkOperationItem,
    BulkOperationStatus,
    BulkOutcome,
    BulkRefusals,
    CreateBulkOperationResponse,
    GetBulkOperationResponse,
    ListBulkOperationItemsResponse,
    ListBulkOperationsResponse,
)
from runengine.v1.bulk_operation_service_pb2_grpc import BulkOperationServiceServicer
from runengine.v1.campaign_pb2 import Campaign, CampaignStatus
from runengine.v1.campaign_service_pb2 import CreateCampaignResponse, GetCampaignResponse
from runengine.v1.campaign_service_pb2_grpc import CampaignServiceServicer
from runengine.v1.list_runs_pb2 import ListRunsResponse
from runengine.v1.run_pb2 import (
    Run,
    RunError,
    RunEvent,
    RunStatus,
    RunStep,
    StepError,
    StepStatus,
    WaitingFor,
)
from runengine.v1.run_service_pb2 import (
    CancelRunResponse,
    GetRunOutputResponse,
    GetRunResponse,
    GetRunStepDataResponse,
    ListCampaignRunsResponse,
    ListRunEventsResponse,
    ListRunStepsResponse,
    ResumeRunResponse,
    RetryRunResponse,
    StatusCounts,
    TriggerRunResponse,
)
from runengine.v1.run_service_pb2_grpc import RunServiceServicer
from runengine.v1.schedule_service_pb2_grpc import ScheduleServiceServicer
from runengine.v1.webhook_service_pb2_grpc import WebhookServiceServicer
from runengine.v1.workflow_service_pb2 import (
    ListWorkflowsResponse,
    Workflow,
    WorkflowEdge,
    WorkflowNode,
)
from runengine.v1.workflow_service_pb2_grpc import WorkflowServiceServicer
from runengine_client import to_struct

from tests.support.answering_server import NEVER

NINE_THIRTY = Timestamp(seconds=1769851800)
MESSAGE = 'The template has no slot named "hero", so the bundle cannot be rendered.'


def uuid(number: int) -> str:
    return f"0199c0de-7a11-7bad-8c0f-{number:012x}"


def run(number: int, status: RunStatus.ValueType, **fields: Any) -> Run:
    return Run(
        id=uuid(number),
        workflow_name="campaign-bundle",
        status=status,
        attempt=1,
        created_at=NINE_THIRTY,
        updated_at=NINE_THIRTY,
        **fields,
    )


QUEUED = run(1, RunStatus.RUN_STATUS_QUEUED, context=to_struct({"campaignId": uuid(12)}))
COMPLETED = run(2, RunStatus.RUN_STATUS_COMPLETED, duration_ms=1234)
FAILED = run(
    3,
    RunStatus.RUN_STATUS_FAILED,
    duration_ms=754_000,
    error=RunError(code="STEP_FAILED", message=MESSAGE, step_id="render_bundle", attempt=1, retryable=True),
)
CANCELLED = run(4, RunStatus.RUN_STATUS_CANCELLED, duration_ms=97_500_000)
ASKED = {"question": "Publish the bundle of the campaign to all of its channels?", "at": "\x1b[31mnoon"}
# Of a gate, of a node that asks, and of one whose question cannot be shown.
WAITING = run(
    5,
    RunStatus.RUN_STATUS_RUNNING,
    waiting_for=[
        WaitingFor(id="a" * 32, step_id="publish", value="null", since=NINE_THIRTY),
        WaitingFor(id="b" * 32, step_id="outer:approve", value=json.dumps(ASKED), since=NINE_THIRTY),
        WaitingFor(id="c" * 32, step_id="strange", value="null", since=NINE_THIRTY, note="It is no JSON."),
    ],
)
RUNS = {each.id: each for each in (QUEUED, COMPLETED, FAILED, CANCELLED)}
# By the id of the run.
OUTPUTS = {
    "shown": GetRunOutputResponse(output='{"words": ["w\u00f6rd", null], "count": 1}'),
    "null": GetRunOutputResponse(output="null"),
    "large": GetRunOutputResponse(artifact_id=uuid(20)),
    "strange": GetRunOutputResponse(note="The output cannot be shown as JSON: it is \x1b[31mred"),
}
ARTIFACTS = [
    Artifact(id=uuid(31), name="bundle.zip", media_type="application/zip", size=1_234_567),
    Artifact(id=uuid(32), name="\x1b[31mred.txt", media_type="text/plain", size=4),
]
EVENTS = [
    RunEvent(
        at=NINE_THIRTY, to_status=RunStatus.RUN_STATUS_QUEUED, attempt=1, actor="user_1", reason="TRIGGERED"
    ),
    RunEvent(
        at=NINE_THIRTY,
        from_status=RunStatus.RUN_STATUS_QUEUED,
        to_status=RunStatus.RUN_STATUS_FAILED,
        attempt=1,
        actor="worker:1",
        reason="STEP_FAILED",
        error=FAILED.error,
    ),
]
STEPS = [
    RunStep(
        id=uuid(21),
        step_id="generate_images",
        skill_id="images.generate",
        status=StepStatus.STEP_STATUS_COMPLETED,
        cache_hit=True,
        duration_ms=820,
        attempt=1,
        output_artifact_ids=[uuid(31), uuid(32)],
        created_at=NINE_THIRTY,
        updated_at=NINE_THIRTY,
    ),
    RunStep(
        id=uuid(22),
        step_id="render_bundle",
        skill_id="bundle.render",
        status=StepStatus.STEP_STATUS_FAILED,
        attempt=3,
        created_at=NINE_THIRTY,
        updated_at=NINE_THIRTY,
        error=StepError(code="STEP_FAILED", message=MESSAGE, step_id="render_bundle", attempt=3),
    ),
]
# By the id of the step.
STEP_DATA = {
    uuid(21): GetRunStepDataResponse(attempt=1, input='{"slots": ["w\u00f6rd", null]}', update="null"),
    uuid(22): GetRunStepDataResponse(
        attempt=3, input_note="It is \x1b[31mred", update_note="The step has not completed."
    ),
}
WORKFLOWS = [
    Workflow(
        name="campaign-bundle",
        workers=2,
        registered_at=NINE_THIRTY,
        nodes=[
            WorkflowNode(id="__start__", skill_id="__start__"),
            WorkflowNode(id="brief", skill_id="read-brief"),
            WorkflowNode(id="pages:render", skill_id="render"),
            WorkflowNode(id="__end__", skill_id="__end__"),
        ],
        edges=[
            WorkflowEdge(source="__start__", target="brief"),
            WorkflowEdge(source="brief", target="pages:render", conditional=True),
            WorkflowEdge(source="brief", target="__end__", conditional=True),
        ],
        input_schema='{"type": "object"}',
    ),
    Workflow(name="unserved", registered_at=NINE_THIRTY, note="Nothing is told of it."),
]
CAMPAIGN = Campaign(
    id=uuid(12),
    status=CampaignStatus.CAMPAIGN_STATUS_LIVE,
    bundle_url=f"https://bundles.example.com/a/rather/long/path/{uuid(31)}/bundle.zip",
    latest_run_id=uuid(2),
    created_at=NINE_THIRTY,
    updated_at=NINE_THIRTY,
)


async def refuse(context: Any, code: grpc.StatusCode, reason: str, message: str, *details: Message) -> None:
    status = Status(code=code.value[0], message=message)
    for detail in (ErrorInfo(reason=reason, domain="runengine.v1", metadata={"status": "queued"}), *details):
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    await context.abort(code, message, (("grpc-status-details-bin", status.SerializeToString()),))


def operation(number: int, status: BulkOperationStatus.ValueType, **fields: Any) -> BulkOperation:
    return BulkOperation(
        id=uuid(number),
        action=BulkAction.BULK_ACTION_RETRY,
        status=status,
        reason="the \x1b[31mmail server was down",
        pace=100,
        matched=5,
        actor="user_1",
        created_at=NINE_THIRTY,
        **fields,
    )


OPERATION = operation(41, BulkOperationStatus.BULK_OPERATION_STATUS_RUNNING, pending=5)
ENDED_OPERATION = operation(
    41,
    BulkOperationStatus.BULK_OPERATION_STATUS_COMPLETED,
    done=3,
    refused=[BulkRefusals(reason="RUN_ACTIVE", count=1), BulkRefusals(reason="RUN_NOT_FOUND", count=1)],
    ended_at=NINE_THIRTY,
)
ABORTED_OPERATION = operation(
    41, BulkOperationStatus.BULK_OPERATION_STATUS_ABORTED, done=2, aborted=3, ended_at=NINE_THIRTY
)
DRY_RUN = operation(41, BulkOperationStatus.BULK_OPERATION_STATUS_DRY_RUN, pending=5)
DRY_RUN.ClearField("id")
ITEMS = [
    BulkOperationItem(run_id=uuid(1), outcome=BulkOutcome.BULK_OUTCOME_REFUSED, reason="RUN_ACTIVE"),
    BulkOperationItem(run_id=uuid(2), outcome=BulkOutcome.BULK_OUTCOME_DONE, at=NINE_THIRTY),
]


class Engine(
    RunServiceServicer,
    CampaignServiceServicer,
    ArtifactServiceServicer,
    WorkflowServiceServicer,
    BulkOperationServiceServicer,
    WebhookServiceServicer,
    ScheduleServiceServicer,
):
    """Has RUNS, WAITING, STEPS and CAMPAIGN. A run triggered or retried is QUEUED, then each of `before_end`,
    and then ends as `end`. Whoever watches one gets `watched`, where an Event is a pause until it is set, and
    whoever watches several `watched_runs`; a search finds `found`. NEVER is a pause without an end.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: dict[str, Any] = {}
        self.before_end: list[Run] = []
        self.operations: list[BulkOperation] = []
        self.watched: list[Any] = []
        self.watched_runs: list[Any] = []
        self.counts: StatusCounts | None = None
        self.end = COMPLETED
        self.found = [QUEUED, COMPLETED]
        self.artifact_name = "bundle.zip"
        self.hanging = asyncio.Event()
        self.watching = asyncio.Event()

    def note(self, request: Message, context: Any) -> None:
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())

    async def TriggerRun(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        if request.workflow_name == "unknown":
            violation = BadRequest.FieldViolation(field="workflow_name", description="No such workflow.")
            bad_request = BadRequest(field_violations=[violation])
            code = grpc.StatusCode.INVALID_ARGUMENT
            await refuse(context, code, "INVALID_ARGUMENT", "workflow_name: No such workflow.", bad_request)
        if request.workflow_name == "busy":
            retry = RetryInfo()
            retry.retry_delay.FromMilliseconds(2500)
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            await refuse(context, code, "QUOTA_EXCEEDED", "Over the quota.", retry)
        return TriggerRunResponse(run=QUEUED)

    async def GetRun(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        if request.run_id == "hang":
            self.hanging.set()
            await asyncio.Event().wait()
        if request.run_id == WAITING.id:
            return GetRunResponse(run=WAITING)
        if request.run_id not in RUNS:
            await refuse(context, grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND", "No such run.")
        answer = RUNS[request.run_id]
        if answer is QUEUED:
            answer = self.before_end.pop(0) if self.before_end else self.end
        return GetRunResponse(run=answer)

    async def ListRuns(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        token = None if request.page_token else "the next"
        return ListRunsResponse(runs=self.found, limit=2, next_page_token=token)

    async def ListRunSteps(self, request: Any, context: Any) -> Any:
        return ListRunStepsResponse(steps=[each for each in STEPS if each.attempt >= request.attempt])

    async def ListRunEvents(self, request: Any, context: Any) -> Any:
        return ListRunEventsResponse(events=EVENTS)

    async def ListRunArtifacts(self, request: Any, context: Any) -> Any:
        return ListRunArtifactsResponse(artifacts=[] if request.run_id == QUEUED.id else ARTIFACTS)

    async def WatchRun(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.note(request, context)
        for response in self.watched:
            if response is NEVER:
                await asyncio.Event().wait()
            if isinstance(response, asyncio.Event):
                await response.wait()
            else:
                yield response

    async def WatchRuns(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.note(request, context)
        for response in self.watched_runs:
            if response is NEVER:
                self.watching.set()
                await asyncio.Event().wait()
            yield response
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")

    WatchCampaignRuns = WatchRuns

    async def GetRunOutput(self, request: Any, context: Any) -> Any:
        return OUTPUTS[request.run_id]

    async def GetRunStepData(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        return STEP_DATA[request.id]

    async def RetryRun(self, request: Any, context: Any) -> Any:
        if request.run_id == QUEUED.id:
            await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "RUN_ACTIVE", "The run is queued.")
        return RetryRunResponse(run=QUEUED)

    async def ResumeRun(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        if request.run_id != WAITING.id:
            text = "The run is completed and waits for nobody."
            await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "RUN_NOT_WAITING", text)
        return ResumeRunResponse(run=QUEUED)

    async def CancelRun(self, request: Any, context: Any) -> Any:
        return CancelRunResponse(run=CANCELLED)

    async def ListCampaignRuns(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        runs = list(RUNS.values())[request.offset :][: request.limit or 20]
        limit, offset = request.limit or 20, request.offset
        return ListCampaignRunsResponse(
            runs=runs, total=4, limit=limit, offset=offset, status_counts=self.counts
        )

    async def ListWorkflows(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        return ListWorkflowsResponse(workflows=WORKFLOWS, limit=50)

    async def CreateBulkOperation(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        if request.dry_run:
            return CreateBulkOperationResponse(operation=DRY_RUN)
        return CreateBulkOperationResponse(operation=OPERATION)

    async def GetBulkOperation(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        return GetBulkOperationResponse(
            operation=self.operations.pop(0) if self.operations else ENDED_OPERATION
        )

    async def ListBulkOperations(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        return ListBulkOperationsResponse(operations=[ENDED_OPERATION, OPERATION], limit=2)

    async def ListBulkOperationItems(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        return ListBulkOperationItemsResponse(items=ITEMS, limit=1000)

    async def AbortBulkOperation(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        return AbortBulkOperationResponse(operation=ABORTED_OPERATION)

    async def CreateWebhookEndpoint(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    CreateSchedule = ListSchedules = GetSchedule = UpdateSchedule = DeleteSchedule = CreateWebhookEndpoint
    ListWebhookEndpoints = GetWebhookEndpoint = UpdateWebhookEndpoint = CreateWebhookEndpoint
    RotateWebhookSecret = CreateWebhookEndpoint
    DeleteWebhookEndpoint = ListWebhookDeliveries = RetryWebhookDelivery = CreateWebhookEndpoint

    async def CreateCampaign(self, request: Any, context: Any) -> Any:
        self.note(request, context)
        return CreateCampaignResponse(campaign=CAMPAIGN)

    async def GetCampaign(self, request: Any, context: Any) -> Any:
        return GetCampaignResponse(campaign=CAMPAIGN)

    async def DownloadArtifact(self, request: Any, context: Any) -> AsyncIterator[Any]:
        header = DownloadArtifactResponse.Header(name=self.artifact_name, media_type="text/plain", size=4)
        yield DownloadArtifactResponse(header=header)
        yield DownloadArtifactResponse(data=b"\x00\xffab")


@dataclass
class Ended:
    code: int | None
    out: str
    err: str


@dataclass
class Command:
    """Runs `runengine` in an empty folder, against the server, with a token."""

    address: str
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        own = {
            "RUNENGINE_GRPC_ADDRESS": self.address,
            "RUNENGINE_TOKEN": "the-token",
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path),
            "PYTHONUTF8": "1",
        }
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR")
        }
        return {**kept, **own, **more}

    async def start(self, *arguments: str, stdout: int = PIPE, stderr: int = PIPE, **env: str) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "runengine_client", *arguments),
            stdin=PIPE,
            stdout=stdout,
            stderr=stderr,
            env=self.environment(**env),
            cwd=self.folder,
        )

    async def __call__(self, *arguments: str, stdin: str = "", **env: str) -> Ended:
        process = await self.start(*arguments, stdout=PIPE, stderr=PIPE, **env)
        out, err = await process.communicate(stdin.encode())
        return Ended(process.returncode, out.decode("utf-8", "surrogateescape"), err.decode())
