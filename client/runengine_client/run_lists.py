"""The lists of runs that a client reads page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Any

from runengine.v1.list_runs_pb2 import ListRunsRequest, ListRunsResponse
from runengine.v1.run_pb2 import Run
from runengine.v1.run_service_pb2 import ListCampaignRunsRequest, ListCampaignRunsResponse

from runengine_client.arguments import Id, Status, statuses_of, timestamp_or_none
from runengine_client.connection import Connection


class RunLists(Connection):
    """The part of RunEngineClient that lists runs."""

    async def list_runs(
        self,
        *,
        status: Status | Iterable[Status] = (),
        workflow_name: str | None = None,
        campaign_id: Id | None = None,
        error_code: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        waiting: bool = False,
        limit: int | None = None,
        page_token: str | None = None,
    ) -> ListRunsResponse:
        """Returns one page of the tenant's runs to which all that is given applies, most recent first.

        Of `workflow_name` and `campaign_id` at most one is given, and of `status`, `error_code` and
        `waiting`, which is for runs that wait for somebody. `created_after` is the first instant that
        counts, `created_before` the first that does not any more; both with a time zone. `limit` is 1 to
        100, by default 20. Raises InvalidArgument; ValueError for a time without a time zone.
        """
        request = _runs_request(
            status,
            workflow_name,
            campaign_id,
            error_code,
            created_after,
            created_before,
            waiting,
            limit=limit,
            page_token=page_token,
        )
        return await self._call(self._runs.ListRuns, request)

    async def iterate_runs(
        self,
        *,
        status: Status | Iterable[Status] = (),
        workflow_name: str | None = None,
        campaign_id: Id | None = None,
        error_code: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        waiting: bool = False,
        page_size: int = 100,
    ) -> AsyncIterator[Run]:
        """Yields all runs that list_runs finds, asking for a page of them at a time.

        Each run once, however many are triggered meanwhile. Raises InvalidArgument.
        """
        request = _runs_request(
            status,
            workflow_name,
            campaign_id,
            error_code,
            created_after,
            created_before,
            waiting,
            limit=page_size,
        )
        async for page in self._pages(self._runs.ListRuns, request):
            for run in page.runs:
                yield run

    async def list_campaign_runs(
        self,
        campaign_id: Id,
        *,
        status: Status | Iterable[Status] = (),
        limit: int | None = None,
        offset: int | None = None,
        page_token: str | None = None,
    ) -> ListCampaignRunsResponse:
        """Returns one page of the campaign's runs, most recent first, and the number of all that match.

        `status` keeps only the runs in one of these statuses; none means all. `limit` is 1 to 100, by
        default 20. A page begins at `offset`, from 0, or at the `page_token` of the page before. An
        unknown campaign has no runs. Raises InvalidArgument.
        """
        request = ListCampaignRunsRequest(
            campaign_id=str(campaign_id),
            status=statuses_of(status),
            limit=limit,
            offset=offset,
            page_token=page_token,
        )
        return await self._call(self._runs.ListCampaignRuns, request)

    async def iterate_campaign_runs(
        self, campaign_id: Id, *, status: Status | Iterable[Status] = (), page_size: int = 100
    ) -> AsyncIterator[Run]:
        """Yields all runs of the campaign, most recent first, asking for a page of them at a time.

        Each run once, however many are triggered meanwhile. Raises InvalidArgument.
        """
        request = ListCampaignRunsRequest(
            campaign_id=str(campaign_id), status=statuses_of(status), limit=page_size
        )
        async for page in self._pages(self._runs.ListCampaignRuns, request):
            for run in page.runs:
                yield run


def _runs_request(
    status: Status | Iterable[Status],
    workflow_name: str | None,
    campaign_id: Id | None,
    error_code: str | None,
    created_after: datetime | None,
    created_before: datetime | None,
    waiting: bool,
    **page: Any,
) -> ListRunsRequest:
    return ListRunsRequest(
        status=statuses_of(status),
        workflow_name=workflow_name,
        campaign_id=None if campaign_id is None else str(campaign_id),
        error_code=error_code,
        created_after=timestamp_or_none(created_after, "created_after"),
        created_before=timestamp_or_none(created_before, "created_before"),
        waiting=waiting or None,
        **page,
    )
