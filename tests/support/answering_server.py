"""A gRPC server in this process that answers each call with the next of the answers of a test."""

# ruff: noqa: N802  # gRPC names the methods of a servicer

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from runengine.v1.artifact_service_pb2_grpc import (
    ArtifactServiceServicer,
    add_ArtifactServiceServicer_to_server,
)
from runengine.v1.bulk_operation_service_pb2_grpc import (
    BulkOperationServiceServicer,
    add_BulkOperationServiceServicer_to_server,
)
from runengine.v1.campaign_service_pb2_grpc import (
    CampaignServiceServicer,
    add_CampaignServiceServicer_to_server,
)
from runengine.v1.run_pb2 import Run, RunStatus
from runengine.v1.run_service_pb2_grpc import RunServiceServicer, add_RunServiceServicer_to_server
from runengine.v1.schedule_service_pb2_grpc import (
    ScheduleServiceServicer,
    add_ScheduleServiceServicer_to_server,
)
from runengine.v1.webhook_service_pb2_grpc import (
    WebhookServiceServicer,
    add_WebhookServiceServicer_to_server,
)
from runengine.v1.workflow_service_pb2_grpc import (
    WorkflowServiceServicer,
    add_WorkflowServiceServicer_to_server,
)

RUN_ID = UUID("0199c0de-7a11-7bad-8c0f-000000000001")
CAMPAIGN_ID = UUID("0199c0de-7a11-7bad-8c0f-00000000000c")
RUN = Run(id=str(RUN_ID), workflow_name="campaign-bundle", status=RunStatus.RUN_STATUS_QUEUED)
NEVER = object()


class Engine(
    RunServiceServicer,
    CampaignServiceServicer,
    ArtifactServiceServicer,
    WorkflowServiceServicer,
    BulkOperationServiceServicer,
    WebhookServiceServicer,
    ScheduleServiceServicer,
):
    """Answers each call with the next of `answers`, and keeps what it was asked.

    A message is the answer, a Status or a code an abort, NEVER a call that hangs. The last of
    `answers` answers all further calls. The watches of several runs send what is in `streams` instead, each
    call as far as an abort; there is no such method where they are empty.
    """

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.requests: list[Any] = []
        self.metadata: dict[str, Any] = {}
        self.streams: list[Any] = []
        self.stream_requests: list[Any] = []

    async def _answer(self, request: Message, context: Any) -> Any:
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        return await self._next(context)

    async def _next(self, context: Any) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await self._given(answer, context)

    async def _given(self, answer: Any, context: Any) -> Any:
        if answer is NEVER:
            await asyncio.Event().wait()
        if isinstance(answer, Status):
            code = next(code for code in grpc.StatusCode if code.value[0] == answer.code)
            details = (("grpc-status-details-bin", answer.SerializeToString()),)
            await context.abort(code, answer.message, details)
        if isinstance(answer, grpc.StatusCode):
            await context.abort(answer, "said the proxy")
        return answer

    async def DownloadArtifact(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield await self._answer(request, context)
        while len(self.answers) > 1:
            yield await self._next(context)

    WatchRun = DownloadArtifact

    async def WatchRuns(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.stream_requests.append(request)
        while self.streams:
            yield await self._given(self.streams.pop(0), context)
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")

    WatchCampaignRuns = WatchRuns

    async def TriggerRun(self, request: Any, context: Any) -> Any:
        return await self._answer(request, context)

    ListRuns = GetRun = GetRunOutput = GetRunStepData = ListRunSteps = ListRunEvents = TriggerRun
    RetryRun = ResumeRun = CancelRun = TriggerRun
    ListCampaignRuns = CreateCampaign = GetCampaign = ListRunArtifacts = ListWorkflows = TriggerRun
    CreateBulkOperation = GetBulkOperation = ListBulkOperations = TriggerRun
    ListBulkOperationItems = AbortBulkOperation = TriggerRun
    CreateWebhookEndpoint = ListWebhookEndpoints = GetWebhookEndpoint = UpdateWebhookEndpoint = TriggerRun
    DeleteWebhookEndpoint = ListWebhookDeliveries = RetryWebhookDelivery = TriggerRun
    RotateWebhookSecret = TriggerRun
    CreateSchedule = ListSchedules = GetSchedule = UpdateSchedule = DeleteSchedule = TriggerRun


def failure(code: grpc.StatusCode, message: str, *details: Message) -> Status:
    status = Status(code=code.value[0], message=message)
    for detail in details:
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def info(reason: str, **metadata: str) -> Any:
    return ErrorInfo(reason=reason, domain="runengine.v1", metadata=metadata)


@asynccontextmanager
async def serving(engine: Any) -> AsyncIterator[str]:
    """The address of a server in this process whose services are all the engine's."""
    server = grpc.aio.server()
    add_RunServiceServicer_to_server(engine, server)
    add_CampaignServiceServicer_to_server(engine, server)
    add_ArtifactServiceServicer_to_server(engine, server)
    add_WorkflowServiceServicer_to_server(engine, server)
    add_BulkOperationServiceServicer_to_server(engine, server)
    add_WebhookServiceServicer_to_server(engine, server)
    add_ScheduleServiceServicer_to_server(engine, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
