"""RunService."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from runengine.v1 import run_pb2, run_service_pb2, run_service_pb2_grpc

from runengine_server.domain.errors import InvalidArgument, RunNotFound, Violation
from runengine_server.domain.ids import NOT_A_UUID, parse_uuid, require_uuid
from runengine_server.domain.run import RunStatus
from runengine_server.engine.cancel_run import cancel_run
from runengine_server.engine.retry_run import retry_run
from runengine_server.engine.trigger_run import trigger_run
from runengine_server.repositories.database import Database
from runengine_server.repositories.run_repository import RunRepository
from runengine_server.rpc.interceptor import caller
from runengine_server.rpc.messages import run_message, run_status_value, step_message

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_LIMIT, _MAX_LIMIT = 20, 100
_STATUSES = {run_status_value(status): status for status in RunStatus}


class RunServicer(run_service_pb2_grpc.RunServiceServicer):
    """Each method: the request's words → the engine or a repository → the answer's words."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _runs(self) -> RunRepository:
        return RunRepository(self._database, caller().tenant_id)

    async def TriggerRun(  # noqa: N802, D102
        self, request: run_service_pb2.TriggerRunRequest, context: Context
    ) -> run_service_pb2.TriggerRunResponse:
        run = await trigger_run(
            self._runs(),
            request.workflow_name,
            request.trigger_payload if request.HasField("trigger_payload") else None,
            request.context if request.HasField("context") else None,
            caller().subject,
        )
        return run_service_pb2.TriggerRunResponse(run=run_message(run))

    async def GetRun(  # noqa: N802, D102
        self, request: run_service_pb2.GetRunRequest, context: Context
    ) -> run_service_pb2.GetRunResponse:
        run = await self._runs().get(require_uuid(request.run_id, "run_id"))
        if run is None:
            raise RunNotFound
        return run_service_pb2.GetRunResponse(run=run_message(run))

    async def ListRunSteps(  # noqa: N802, D102
        self, request: run_service_pb2.ListRunStepsRequest, context: Context
    ) -> run_service_pb2.ListRunStepsResponse:
        run_id = require_uuid(request.run_id, "run_id")
        steps = await self._runs().list_steps(run_id)
        if steps is None:
            raise RunNotFound
        return run_service_pb2.ListRunStepsResponse(steps=[step_message(step) for step in steps])

    async def RetryRun(  # noqa: N802, D102
        self, request: run_service_pb2.RetryRunRequest, context: Context
    ) -> run_service_pb2.RetryRunResponse:
        run = await retry_run(self._runs(), require_uuid(request.run_id, "run_id"), caller().subject)
        return run_service_pb2.RetryRunResponse(run=run_message(run))

    async def CancelRun(  # noqa: N802, D102
        self, request: run_service_pb2.CancelRunRequest, context: Context
    ) -> run_service_pb2.CancelRunResponse:
        run = await cancel_run(self._runs(), require_uuid(request.run_id, "run_id"), caller().subject)
        return run_service_pb2.CancelRunResponse(run=run_message(run))

    async def ListCampaignRuns(  # noqa: N802, D102
        self, request: run_service_pb2.ListCampaignRunsRequest, context: Context
    ) -> run_service_pb2.ListCampaignRunsResponse:
        limit = request.limit if request.HasField("limit") else _DEFAULT_LIMIT
        found: list[Violation] = []
        if (campaign_id := parse_uuid(request.campaign_id)) is None:
            found.append(Violation("campaign_id", NOT_A_UUID))
        if not 1 <= limit <= _MAX_LIMIT:
            found.append(Violation("limit", f"must be 1 to {_MAX_LIMIT}"))
        if request.offset < 0:
            found.append(Violation("offset", "must be 0 or more"))
        statuses = _statuses(request.status, found)
        if found or campaign_id is None:
            raise InvalidArgument(found)
        runs, total = await self._runs().list_of_campaign(campaign_id, statuses, limit, request.offset)
        return run_service_pb2.ListCampaignRunsResponse(
            runs=[run_message(run) for run in runs], total=total, limit=limit, offset=request.offset
        )


def _statuses(given: Iterable[run_pb2.RunStatus.ValueType], found: list[Violation]) -> list[RunStatus]:
    statuses = []
    for index, value in enumerate(given):
        if value in _STATUSES:
            statuses.append(_STATUSES[value])
        else:
            words = ", ".join(RunStatus)
            found.append(Violation(f"status[{index}]", f"must be one of {words}"))
    return statuses
