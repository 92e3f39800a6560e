"""Operations on many runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Literal

from runengine.rest_json import words_of
from runengine.v1.bulk_operation_service_pb2 import (
    AbortBulkOperationRequest,
    BulkAction,
    BulkOperation,
    BulkOperationItem,
    BulkOperationStatus,
    BulkOutcome,
    CreateBulkOperationRequest,
    GetBulkOperationRequest,
    ListBulkOperationItemsRequest,
    ListBulkOperationItemsResponse,
    ListBulkOperationsRequest,
    ListBulkOperationsResponse,
    RunFilter,
)

from runengine_client.arguments import Id, Status, key_metadata, statuses_of, timestamp_or_none
from runengine_client.connection import Connection

_OUTCOMES = {
    word: BulkOutcome.ValueType(number) for number, word in words_of(BulkOutcome.DESCRIPTOR).items() if number
}
_ACTIONS = {"retry": BulkAction.BULK_ACTION_RETRY, "cancel": BulkAction.BULK_ACTION_CANCEL}


class BulkOperations(Connection):
    """The part of RunEngineClient that retries and cancels many runs."""

    async def create_bulk_operation(
        self,
        action: Literal["retry", "cancel"],
        *,
        ids: Iterable[Id] | None = None,
        status: Status | Iterable[Status] = (),
        workflow_name: str | None = None,
        campaign_id: Id | None = None,
        error_code: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        waiting: bool = False,
        dry_run: bool = False,
        reason: str | None = None,
        pace: int | None = None,
        idempotency_key: str | None = None,
    ) -> BulkOperation:
        """Begins to retry or cancel the runs `ids`, at most 5,000, or those that list_runs finds with the
        same arguments now, at most 100,000; and returns the operation, with which the server goes on.

        With `dry_run` it only counts what would be done and refused. `reason` is for people, `pace` the
        number of runs a second, 1 to 1,000, by default 100. Raises InvalidArgument, IdempotencyKeyReused, and
        BulkOperationTooLarge, with nothing done; ValueError when nothing says which runs, or ids and more do.
        """
        given = RunFilter(
            status=statuses_of(status),
            workflow_name=workflow_name,
            campaign_id=None if campaign_id is None else str(campaign_id),
            error_code=error_code,
            created_after=timestamp_or_none(created_after, "created_after"),
            created_before=timestamp_or_none(created_before, "created_before"),
            waiting=waiting or None,
        )
        if (ids is None) == (not given.ListFields()):
            raise ValueError("Say which runs: either their ids, or what finds them, such as a status.")
        request = CreateBulkOperationRequest(
            action=_ACTIONS[action],
            filter=given if ids is None else None,
            ids=[str(each) for each in ids or ()],
            dry_run=dry_run or None,
            reason=reason,
            pace=pace,
        )
        metadata = key_metadata(idempotency_key)
        return (await self._call(self._bulk.CreateBulkOperation, request, metadata)).operation

    async def get_bulk_operation(self, operation_id: Id) -> BulkOperation:
        """Returns the operation, with its counts as they are now. Raises BulkOperationNotFound."""
        request = GetBulkOperationRequest(operation_id=str(operation_id))
        return (await self._call(self._bulk.GetBulkOperation, request)).operation

    async def list_bulk_operations(
        self, *, limit: int | None = None, page_token: str | None = None
    ) -> ListBulkOperationsResponse:
        """Returns one page of the tenant's operations, most recent first. `limit` is 1 to 100, by default 20.
        Raises InvalidArgument.
        """
        request = ListBulkOperationsRequest(limit=limit, page_token=page_token)
        return await self._call(self._bulk.ListBulkOperations, request)

    async def iterate_bulk_operations(self, *, page_size: int = 100) -> AsyncIterator[BulkOperation]:
        """Yields all operations of the tenant, most recent first, a page at a time."""
        request = ListBulkOperationsRequest(limit=page_size)
        async for page in self._pages(self._bulk.ListBulkOperations, request):
            for operation in page.operations:
                yield operation

    async def list_bulk_operation_items(
        self,
        operation_id: Id,
        *,
        outcome: str | Iterable[str] = (),
        limit: int | None = None,
        page_token: str | None = None,
    ) -> ListBulkOperationItemsResponse:
        """Returns one page of the runs of the operation, in the order in which it comes to them, and what
        became of each.

        `outcome` keeps only runs of which that became; none means all. `limit` is 1 to 1,000, by default
        1,000. Raises BulkOperationNotFound, InvalidArgument; ValueError for a word that is no outcome.
        """
        request = _items_request(operation_id, outcome, limit)
        if page_token is not None:
            request.page_token = page_token
        return await self._call(self._bulk.ListBulkOperationItems, request)

    async def iterate_bulk_operation_items(
        self, operation_id: Id, *, outcome: str | Iterable[str] = (), page_size: int = 1000
    ) -> AsyncIterator[BulkOperationItem]:
        """Yields all runs that list_bulk_operation_items has, a page at a time."""
        request = _items_request(operation_id, outcome, page_size)
        async for page in self._pages(self._bulk.ListBulkOperationItems, request):
            for item in page.items:
                yield item

    async def abort_bulk_operation(self, operation_id: Id) -> BulkOperation:
        """Ends the operation before it has come to all of its runs, and returns it; an aborted one is
        returned unchanged. What it has done stays. Raises BulkOperationNotFound, BulkOperationCompleted.
        """
        request = AbortBulkOperationRequest(operation_id=str(operation_id))
        return (await self._call(self._bulk.AbortBulkOperation, request)).operation

    async def follow_bulk_operation(
        self, operation_id: Id, *, poll: tuple[float, float] = (0.1, 1)
    ) -> AsyncIterator[BulkOperation]:
        """Yields the operation as it is now, and again after each pause, until it is completed or aborted.

        `poll` is the first pause and the longest, in seconds; each is half as long again as the one before.
        Raises BulkOperationNotFound.
        """
        pause, longest = poll
        while True:
            operation = await self.get_bulk_operation(operation_id)
            yield operation
            if operation.status != BulkOperationStatus.BULK_OPERATION_STATUS_RUNNING:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, longest)

    async def wait_for_bulk_operation(
        self, operation_id: Id, *, timeout_seconds: float | None = None, poll: tuple[float, float] = (0.1, 1)
    ) -> BulkOperation:
        """Returns the operation once it is completed or aborted. `poll` is as for follow_bulk_operation.

        Raises TimeoutError when that takes longer than `timeout_seconds` (the operation goes on), or
        BulkOperationNotFound.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                async for operation in self.follow_bulk_operation(operation_id, poll=poll):
                    last = operation
        except TimeoutError:
            words = f"Bulk operation {operation_id} has not ended within {timeout_seconds:g} s."
            raise TimeoutError(words) from None
        return last


def _items_request(
    operation_id: Id, outcome: str | Iterable[str], limit: int | None
) -> ListBulkOperationItemsRequest:
    words = [outcome] if isinstance(outcome, str) else list(outcome)
    for word in words:
        if word not in _OUTCOMES:
            raise ValueError(f"No run has the outcome {word!r}; there are {', '.join(_OUTCOMES)}.")
    return ListBulkOperationItemsRequest(
        operation_id=str(operation_id), outcome=[_OUTCOMES[word] for word in words], limit=limit
    )
