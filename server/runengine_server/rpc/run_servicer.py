"""RunService."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import grpc
from runengine.v1 import run_pb2, run_service_pb2, run_service_pb2_grpc

from runengine_server.domain import page_token
from runengine_server.domain.errors import InvalidArgument, RunNotFound, Violation
from runengine_server.domain.ids import NOT_A_UUID, parse_uuid, require_uuid
from runengine_server.domain.run import RunStatus
from runengine_server.engine.cancel_run import cancel_run
from runengine_server.engine.retry_run import retry_run
from runengine_server.engine.trigger_run import check_trigger, trigger_run
from runengine_server.repositories.database import Database
from runengine_server.repositories.run_repository import RunRepository
from runengine_server.rpc.idempotency import act_once, fingerprint_of
from runengine_server.rpc.interceptor import caller
from runengine_server.rpc.messages import event_message, run_status_value, step_message
from runengine_server.rpc.served_workflows import ServedWorkflows

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_LIMIT, _MAX_LIMIT, _MAX_STATUSES = 20, 100, 100
_STATUSES = {run_status_value(status): status for status in RunStatus}
_PLACES = {status: place for place, status in enumerate(RunStatus)}


class RunServicer(run_service_pb2_grpc.RunServiceServicer):
    """Each method: the request's words → the engine or a repository → the answer's words.

    Responses with runs in them are encoded already, as the runs are stored: hence Any.
    """

    def __init__(self, database: Database, served: ServedWorkflows, queued_limit: int | None) -> None:
        self._database = database
        self._served = served
        self._queued_limit = queued_limit

    def _runs(self) -> RunRepository:
        return RunRepository(self._database.tenant(caller().tenant_id))

    async def TriggerRun(  # noqa: N802, D102
        self, request: run_service_pb2.TriggerRunRequest, context: Context
    ) -> Any:
        fingerprint = fingerprint_of(request)
        new = check_trigger(
            request.workflow_name,
            request.trigger_payload if request.HasField("trigger_payload") else None,
            request.context if request.HasField("context") else None,
            request.priority,
        )
        return await act_once(
            context,
            fingerprint,
            lambda actor, once: trigger_run(self._runs(), new, actor, once, self._queued_limit),
            lambda _: self._served.metadata_for(new.workflow_name),
        )

    async def GetRun(  # noqa: N802, D102
        self, request: run_service_pb2.GetRunRequest, context: Context
    ) -> Any:
        response = await self._runs().get(require_uuid(request.run_id, "run_id"))
        if response is None:
            raise RunNotFound
        return response

    async def ListRunSteps(  # noqa: N802, D102
        self, request: run_service_pb2.ListRunStepsRequest, context: Context
    ) -> run_service_pb2.ListRunStepsResponse:
        found: list[Violation] = []
        if (run_id := parse_uuid(request.run_id)) is None:
            found.append(Violation("run_id", NOT_A_UUID))
        attempt = request.attempt if request.HasField("attempt") else None
        if attempt is not None and attempt < 1:
            found.append(Violation("attempt", "must be 1 or more"))
        if found or run_id is None:
            raise InvalidArgument(found)
        steps = await self._runs().list_steps(run_id, attempt)
        if steps is None:
            raise RunNotFound
        return run_service_pb2.ListRunStepsResponse(steps=[step_message(step) for step in steps])

    async def ListRunEvents(  # noqa: N802, D102
        self, request: run_service_pb2.ListRunEventsRequest, context: Context
    ) -> run_service_pb2.ListRunEventsResponse:
        events = await self._runs().list_events(require_uuid(request.run_id, "run_id"))
        if events is None:
            raise RunNotFound
        return run_service_pb2.ListRunEventsResponse(events=[event_message(event) for event in events])

    async def RetryRun(  # noqa: N802, D102
        self, request: run_service_pb2.RetryRunRequest, context: Context
    ) -> Any:
        run_id = require_uuid(request.run_id, "run_id")
        return await act_once(
            context,
            fingerprint_of(request),
            lambda actor, once: retry_run(self._runs(), run_id, actor, once, self._queued_limit),
            lambda response: self._served.metadata_for(
                run_service_pb2.RetryRunResponse.FromString(response).run.workflow_name
            ),
        )

    async def CancelRun(  # noqa: N802, D102
        self, request: run_service_pb2.CancelRunRequest, context: Context
    ) -> Any:
        run_id = require_uuid(request.run_id, "run_id")
        return await act_once(
            context,
            fingerprint_of(request),
            lambda actor, once: cancel_run(self._runs(), run_id, actor, once),
        )

    async def ListCampaignRuns(  # noqa: N802, D102
        self, request: run_service_pb2.ListCampaignRunsRequest, context: Context
    ) -> Any:
        query = _checked(request)
        page = await self._runs().list_of_campaign(
            query.campaign_id, query.statuses, query.limit, query.offset, query.after
        )
        queued, running, completed, failed, cancelled = page.counts
        rest = run_service_pb2.ListCampaignRunsResponse(
            total=sum(page.counts[_PLACES[status]] for status in query.statuses)
            if query.statuses
            else sum(page.counts),
            limit=query.limit,
            offset=query.offset,
            next_page_token=page_token.encode(
                page.last, caller().tenant_id, query.campaign_id, query.statuses
            )
            if page.more
            else None,
            status_counts=run_service_pb2.StatusCounts(
                queued=queued, running=running, completed=completed, failed=failed, cancelled=cancelled
            ),
        )
        # Encoded messages of one type, one after the other, are the message that has all their fields.
        return page.runs + rest.SerializeToString()


@dataclass(frozen=True, slots=True)
class _ListQuery:
    """A ListCampaignRunsRequest that has been found good."""

    campaign_id: UUID
    statuses: list[RunStatus]
    limit: int
    offset: int
    after: tuple[datetime, UUID] | None


def _checked(request: run_service_pb2.ListCampaignRunsRequest) -> _ListQuery:
    limit = request.limit if request.HasField("limit") else _DEFAULT_LIMIT
    found: list[Violation] = []
    if (campaign_id := parse_uuid(request.campaign_id)) is None:
        found.append(Violation("campaign_id", NOT_A_UUID))
    if not 1 <= limit <= _MAX_LIMIT:
        found.append(Violation("limit", f"must be 1 to {_MAX_LIMIT}"))
    if request.offset < 0:
        found.append(Violation("offset", "must be 0 or more"))
    statuses = _statuses(request.status, found)
    after = None
    if request.page_token:
        if request.HasField("offset"):
            found.append(Violation("offset", "goes with no page token"))
        if campaign_id is not None:
            after = page_token.decode(request.page_token, caller().tenant_id, campaign_id, statuses)
            if after is None:
                found.append(Violation("page_token", "is not a token of this campaign and status filter"))
    if found or campaign_id is None:
        raise InvalidArgument(found)
    return _ListQuery(campaign_id, statuses, limit, request.offset, after)


def _statuses(given: Sequence[run_pb2.RunStatus.ValueType], found: list[Violation]) -> list[RunStatus]:
    # A message of 2 MiB holds two million of them, which took 3.8 s to find wrong one by one.
    if len(given) > _MAX_STATUSES:
        found.append(Violation("status", f"is given more than {_MAX_STATUSES} times"))
        return []
    statuses = []
    for index, value in enumerate(given):
        if value in _STATUSES:
            statuses.append(_STATUSES[value])
        else:
            words = ", ".join(RunStatus)
            found.append(Violation(f"status[{index}]", f"must be one of {words}"))
    return list(dict.fromkeys(statuses))
