"""RunService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import grpc
from runengine.v1 import list_runs_pb2, run_service_pb2, run_service_pb2_grpc, watch_runs_pb2

from runengine_server.commands.cancel_run import cancel_run
from runengine_server.commands.resume_run import check_resume, resume_run
from runengine_server.commands.retry_run import retry_run
from runengine_server.commands.trigger_run import check_trigger, trigger_run
from runengine_server.database.database import Database
from runengine_server.domain import page_token
from runengine_server.domain.changes import Position, Scope
from runengine_server.domain.encoded_run import encode_output
from runengine_server.domain.errors import InvalidArgument, RunNotFound, Violation
from runengine_server.domain.run import RunStatus
from runengine_server.domain.transitions import not_completed
from runengine_server.repositories.run_repository import RunRepository
from runengine_server.rpc.call_metadata import current_actor, idempotency_key, set_metadata
from runengine_server.rpc.interceptor import caller, sent_metadata
from runengine_server.rpc.known_campaigns import KnownCampaigns
from runengine_server.rpc.messages import event_message, run_status_value, step_data_response, step_message
from runengine_server.rpc.pages import split_page
from runengine_server.rpc.run_filters import check_filter, run_search
from runengine_server.rpc.run_watches import RunWatches
from runengine_server.rpc.served_workflows import ServedWorkflows
from runengine_server.rpc.validation import require_valid, violations_of
from runengine_server.rpc.watch_streams import watch_runs

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_LIMIT, _LIMIT_OF_A_RUN, _SNAPSHOT_LIMIT = 20, 1000, 100
_NOT_KEPT = "The run completed before outputs were kept."
_STATUSES = {run_status_value(status): status for status in RunStatus}
_INDEXES = {status: index for index, status in enumerate(RunStatus)}


class RunServicer(run_service_pb2_grpc.RunServiceServicer):
    """Each method calls one command or, to read, one repository, and makes a response of what that returns. A
    response with a run in it is bytes already, because runs are stored encoded: hence Any.
    """

    def __init__(
        self, database: Database, served: ServedWorkflows, queued_limit: int | None, watches: RunWatches
    ) -> None:
        self._database = database
        self._watches = watches
        self._served = served
        self._queued_limit = queued_limit
        self._known_campaigns = KnownCampaigns()

    def _runs(self) -> RunRepository:
        return RunRepository(self._database.tenant(caller().tenant_id))

    async def TriggerRun(  # noqa: N802, D102
        self, request: run_service_pb2.TriggerRunRequest, context: Context
    ) -> Any:
        key = idempotency_key(sent_metadata(), request)  # before check_trigger, which writes to the request
        new = check_trigger(request, violations_of(request))
        tenant_id, campaign_id = caller().tenant_id, new.campaign_id
        check_campaign = self._known_campaigns.is_unknown(tenant_id, campaign_id)
        result = await trigger_run(
            self._runs(),
            new,
            current_actor(),
            key,
            self._queued_limit,
            self._served.names,
            check_campaign=check_campaign,
        )
        if campaign_id is not None and result.has_campaign:
            self._known_campaigns.add(tenant_id, campaign_id)
        set_metadata(context, result, self._served.metadata_for(request.workflow_name))
        return result.response

    async def ListRuns(  # noqa: N802, D102
        self, request: list_runs_pb2.ListRunsRequest, context: Context
    ) -> Any:
        tenant_id = caller().tenant_id
        wanted, violations = check_filter(request)
        after = None
        if request.page_token and not violations:
            after = page_token.decode_found(request.page_token, tenant_id, wanted.digest())
            if after is None:
                violations = [Violation("page_token", "is not a token of the same filters")]
        if violations:
            raise InvalidArgument(violations)
        limit = request.limit if request.HasField("limit") else _DEFAULT_LIMIT
        search = await run_search()
        page = await search.find_runs(self._database.tenant(tenant_id), tenant_id, wanted, limit, after)
        token = page_token.encode_found(page.last, tenant_id, wanted.digest()) if page.last else None
        rest = list_runs_pb2.ListRunsResponse(limit=limit, next_page_token=token)
        # Encoded messages of one type, one after the other, are the message that has all their fields.
        return page.runs + rest.SerializeToString()

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
        run_id, after, limit = _page_of_run(request, page_token.decode_step)
        attempt = request.attempt if request.HasField("attempt") else None
        steps = await self._runs().list_steps(run_id, attempt, after, limit + 1)
        if steps is None:
            raise RunNotFound
        page, token = split_page(
            steps, limit, lambda last: page_token.encode_step(last.place, caller().tenant_id, run_id)
        )
        return run_service_pb2.ListRunStepsResponse(
            steps=[step_message(step) for step in page], limit=limit, next_page_token=token
        )

    async def ListRunEvents(  # noqa: N802, D102
        self, request: run_service_pb2.ListRunEventsRequest, context: Context
    ) -> run_service_pb2.ListRunEventsResponse:
        run_id, after, limit = _page_of_run(request, page_token.decode_event)
        events = await self._runs().list_events(run_id, after, limit + 1)
        if events is None:
            raise RunNotFound
        page, token = split_page(
            events, limit, lambda last: page_token.encode_event(last[0], caller().tenant_id, run_id)
        )
        return run_service_pb2.ListRunEventsResponse(
            events=[event_message(event) for _, event in page], limit=limit, next_page_token=token
        )

    def WatchRun(  # noqa: N802, D102
        self, request: run_service_pb2.WatchRunRequest, context: Context
    ) -> AsyncIterator[Any]:
        require_valid(request)
        scope = Scope(caller().tenant_id, run_id=UUID(request.run_id))
        return watch_runs(self._watches, caller(), scope, _position(request, scope))

    def WatchCampaignRuns(  # noqa: N802, D102
        self, request: watch_runs_pb2.WatchCampaignRunsRequest, context: Context
    ) -> AsyncIterator[Any]:
        require_valid(request)
        return self._watch(request, Scope(caller().tenant_id, campaign_id=UUID(request.campaign_id)))

    def WatchRuns(  # noqa: N802, D102
        self, request: watch_runs_pb2.WatchRunsRequest, context: Context
    ) -> AsyncIterator[Any]:
        require_valid(request)
        return self._watch(request, Scope(caller().tenant_id))

    def _watch(
        self, request: watch_runs_pb2.WatchCampaignRunsRequest | watch_runs_pb2.WatchRunsRequest, scope: Scope
    ) -> AsyncIterator[Any]:
        return watch_runs(
            self._watches,
            caller(),
            scope,
            _position(request, scope),
            limit=request.snapshot_limit if request.HasField("snapshot_limit") else _SNAPSHOT_LIMIT,
            with_progress=request.with_progress,
        )

    async def GetRunOutput(  # noqa: N802, D102
        self, request: run_service_pb2.GetRunOutputRequest, context: Context
    ) -> Any:
        require_valid(request)
        output = await self._runs().get_output(UUID(request.run_id))
        if output is None:
            raise RunNotFound
        if output.status is not RunStatus.COMPLETED:
            raise not_completed(output.status, output.attempt)
        return encode_output(note=_NOT_KEPT) if output.encoded is None else output.encoded

    async def GetRunStepData(  # noqa: N802, D102
        self, request: run_service_pb2.GetRunStepDataRequest, context: Context
    ) -> Any:
        require_valid(request)
        attempt = request.attempt if request.HasField("attempt") else None
        data = await self._runs().get_step_data(UUID(request.run_id), UUID(request.id), attempt)
        if data is None:
            raise RunNotFound
        return step_data_response(data)

    async def RetryRun(  # noqa: N802, D102
        self, request: run_service_pb2.RetryRunRequest, context: Context
    ) -> Any:
        require_valid(request)
        key = idempotency_key(sent_metadata(), request)
        run_id = UUID(request.run_id)
        result = await retry_run(self._runs(), run_id, current_actor(), key, self._queued_limit)
        run = run_service_pb2.RetryRunResponse.FromString(result.response).run
        set_metadata(context, result, self._served.metadata_for(run.workflow_name))
        return result.response

    async def ResumeRun(  # noqa: N802, D102
        self, request: run_service_pb2.ResumeRunRequest, context: Context
    ) -> Any:
        given = check_resume(request, violations_of(request))
        key = idempotency_key(sent_metadata(), request)
        result = await resume_run(self._runs(), UUID(request.run_id), given, current_actor(), key)
        run = run_service_pb2.ResumeRunResponse.FromString(result.response).run
        set_metadata(context, result, self._served.metadata_for(run.workflow_name))
        return result.response

    async def CancelRun(  # noqa: N802, D102
        self, request: run_service_pb2.CancelRunRequest, context: Context
    ) -> Any:
        require_valid(request)
        key = idempotency_key(sent_metadata(), request)
        result = await cancel_run(self._runs(), UUID(request.run_id), current_actor(), key)
        set_metadata(context, result)
        return result.response

    async def ListCampaignRuns(  # noqa: N802, D102
        self, request: run_service_pb2.ListCampaignRunsRequest, context: Context
    ) -> Any:
        query = _checked_query(request)
        page = await self._runs().list_of_campaign(
            query.campaign_id, query.statuses, query.limit, query.offset, query.after
        )
        queued, running, completed, failed, cancelled = page.counts
        rest = run_service_pb2.ListCampaignRunsResponse(
            total=sum(page.counts[_INDEXES[status]] for status in query.statuses)
            if query.statuses
            else sum(page.counts),
            limit=query.limit,
            offset=query.offset,
            next_page_token=page_token.encode(
                page.last, caller().tenant_id, query.campaign_id, query.statuses
            )
            if page.has_more
            else None,
            status_counts=run_service_pb2.StatusCounts(
                queued=queued, running=running, completed=completed, failed=failed, cancelled=cancelled
            ),
        )
        # Encoded messages of one type, one after the other, are the message that has all their fields.
        return page.runs + rest.SerializeToString()


def _position(
    request: run_service_pb2.WatchRunRequest
    | watch_runs_pb2.WatchCampaignRunsRequest
    | watch_runs_pb2.WatchRunsRequest,
    scope: Scope,
) -> Position | None:
    """Where the stream goes on; None for one that begins anew. Raises InvalidArgument."""
    if not request.resume_token:
        return None
    position = page_token.decode_position(request.resume_token, scope)
    if position is None and scope.run_id is not None:
        # As servers of the version before have made them.
        last = page_token.decode_event(request.resume_token, scope.tenant_id, scope.run_id)
        position = None if last is None else Position(None, None, last)
    if position is None:
        raise InvalidArgument([Violation("resume_token", "is not a token of this stream")])
    return position


def _page_of_run(
    request: run_service_pb2.ListRunStepsRequest | run_service_pb2.ListRunEventsRequest,
    decode: Callable[[str, str, UUID], int | None],
) -> tuple[UUID, int, int]:
    """The run, the number of what the page comes after, and the limit. Raises InvalidArgument."""
    require_valid(request)
    run_id, after = UUID(request.run_id), 0
    if request.page_token:
        decoded = decode(request.page_token, caller().tenant_id, run_id)
        if decoded is None:
            raise InvalidArgument([Violation("page_token", "is not a token of this run")])
        after = decoded
    return run_id, after, request.limit if request.HasField("limit") else _LIMIT_OF_A_RUN


class _ListQuery(NamedTuple):
    """A ListCampaignRunsRequest that has passed every check."""

    campaign_id: UUID
    statuses: list[RunStatus]
    limit: int
    offset: int
    after: tuple[datetime, UUID] | None


def _checked_query(request: run_service_pb2.ListCampaignRunsRequest) -> _ListQuery:
    limit = request.limit if request.HasField("limit") else _DEFAULT_LIMIT
    violations = violations_of(request)
    if request.page_token and request.HasField("offset"):
        violations.append(Violation("offset", "goes with no page token"))
    if violations:
        raise InvalidArgument(violations)
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
