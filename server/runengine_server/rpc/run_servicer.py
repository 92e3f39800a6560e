"""RunService."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import grpc
from runengine.v1 import run_service_pb2, run_service_pb2_grpc

from runengine_server.commands.cancel_run import cancel_run
from runengine_server.commands.retry_run import retry_run
from runengine_server.commands.trigger_run import check_trigger, trigger_run
from runengine_server.database.database import Database
from runengine_server.domain import page_token
from runengine_server.domain.errors import InvalidArgument, RunNotFound, Violation
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.run_repository import RunRepository
from runengine_server.rpc.idempotency import act_once, fingerprint_of
from runengine_server.rpc.interceptor import caller
from runengine_server.rpc.messages import event_message, run_status_value, step_message
from runengine_server.rpc.served_workflows import ServedWorkflows
from runengine_server.rpc.validation import require_valid, violations_of

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_LIMIT = 20
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
            violations_of(request),
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
        require_valid(request)
        response = await self._runs().get(UUID(request.run_id))
        if response is None:
            raise RunNotFound
        return response

    async def ListRunSteps(  # noqa: N802, D102
        self, request: run_service_pb2.ListRunStepsRequest, context: Context
    ) -> run_service_pb2.ListRunStepsResponse:
        require_valid(request)
        attempt = request.attempt if request.HasField("attempt") else None
        steps = await self._runs().list_steps(UUID(request.run_id), attempt)
        if steps is None:
            raise RunNotFound
        return run_service_pb2.ListRunStepsResponse(steps=[step_message(step) for step in steps])

    async def ListRunEvents(  # noqa: N802, D102
        self, request: run_service_pb2.ListRunEventsRequest, context: Context
    ) -> run_service_pb2.ListRunEventsResponse:
        require_valid(request)
        events = await self._runs().list_events(UUID(request.run_id))
        if events is None:
            raise RunNotFound
        return run_service_pb2.ListRunEventsResponse(events=[event_message(event) for event in events])

    async def RetryRun(  # noqa: N802, D102
        self, request: run_service_pb2.RetryRunRequest, context: Context
    ) -> Any:
        require_valid(request)
        run_id = UUID(request.run_id)
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
        require_valid(request)
        run_id = UUID(request.run_id)
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
    found = violations_of(request)
    if request.page_token and request.HasField("offset"):
        found.append(Violation("offset", "goes with no page token"))
    if found:
        raise InvalidArgument(found)
    campaign_id = UUID(request.campaign_id)
    statuses = list(dict.fromkeys(_STATUSES[value] for value in request.status))
    after = None
    if request.page_token:
        after = page_token.decode(request.page_token, caller().tenant_id, campaign_id, statuses)
        if after is None:
            raise InvalidArgument(
                [Violation("page_token", "is not a token of this campaign and status filter")]
            )
    return _ListQuery(campaign_id, statuses, limit, request.offset, after)
