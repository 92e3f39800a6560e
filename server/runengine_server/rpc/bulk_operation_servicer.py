"""BulkOperationService."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import grpc
from runengine.v1 import bulk_operation_service_pb2 as pb
from runengine.v1 import bulk_operation_service_pb2_grpc

from runengine_server.commands.bulk_operations import (
    abort_bulk_operation,
    create_bulk_operation,
    dry_run,
    each_once,
    new_operation,
)
from runengine_server.database.database import Database
from runengine_server.domain import page_token
from runengine_server.domain.bulk_operation import MAX_RUNS, BulkOperation, BulkOutcome
from runengine_server.domain.errors import BulkOperationNotFound, InvalidArgument, Violation
from runengine_server.domain.run_filter import RunFilter
from runengine_server.repositories.bulk_operation_repository import BulkOperationRepository
from runengine_server.repositories.run_repository import Outcome
from runengine_server.rpc.bulk_messages import ACTIONS, OUTCOMES, item_message, operation_message
from runengine_server.rpc.call_metadata import REPLAYED, current_actor, idempotency_key
from runengine_server.rpc.interceptor import caller, sent_metadata
from runengine_server.rpc.pages import split_page
from runengine_server.rpc.run_filters import check_filter, run_search
from runengine_server.rpc.validation import require_valid, violations_of

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_LIMIT, _DEFAULT_ITEMS = 20, 1000


class BulkOperationServicer(bulk_operation_service_pb2_grpc.BulkOperationServiceServicer):
    """Each method calls one command or, to read, the repository, and makes a response of what comes back."""

    def __init__(self, database: Database, on_created: Callable[[], None]) -> None:
        """`on_created` is called when an operation has been created, and goes on in the background."""
        self._database = database
        self._on_created = on_created

    def _operations(self) -> BulkOperationRepository:
        tenant_id = caller().tenant_id
        return BulkOperationRepository(self._database.tenant(tenant_id), tenant_id)

    async def CreateBulkOperation(  # noqa: N802, D102
        self, request: pb.CreateBulkOperationRequest, context: Context
    ) -> pb.CreateBulkOperationResponse:
        wanted = _checked(request)
        key = idempotency_key(sent_metadata(), request)
        actor, tenant_id, operations = current_actor(), caller().tenant_id, self._operations()
        new = new_operation(
            ACTIONS[request.action],
            None if wanted is None else request.filter.SerializeToString(),
            request.reason if request.HasField("reason") else None,
            request.pace if request.HasField("pace") else None,
        )
        # One more than there may be, to see that there are too many.
        limit, ids = MAX_RUNS + 1, each_once(request.ids)
        if request.dry_run:
            if wanted is None:
                counts = await operations.count_by_status(ids)
            else:
                scope = self._database.tenant(tenant_id)
                counts = await (await run_search()).count_found(scope, tenant_id, wanted, limit)
            return pb.CreateBulkOperationResponse(operation=operation_message(dry_run(new, counts, actor)))
        if wanted is None:
            store_items = operations.items_of(new.id, ids)
        else:
            store_items = (await run_search()).items_of(tenant_id, new.id, wanted, limit)
        created, operation = await create_bulk_operation(operations, new, store_items, actor, key)
        if created.outcome is Outcome.REPLAYED:
            context.set_trailing_metadata(REPLAYED)
        else:
            self._on_created()
        return pb.CreateBulkOperationResponse(operation=operation_message(operation))

    async def GetBulkOperation(  # noqa: N802, D102
        self, request: pb.GetBulkOperationRequest, context: Context
    ) -> pb.GetBulkOperationResponse:
        require_valid(request)
        operation = await self._operations().get(UUID(request.operation_id))
        if operation is None:
            raise BulkOperationNotFound
        return pb.GetBulkOperationResponse(operation=operation_message(operation))

    async def ListBulkOperations(  # noqa: N802, D102
        self, request: pb.ListBulkOperationsRequest, context: Context
    ) -> pb.ListBulkOperationsResponse:
        require_valid(request)
        tenant_id, before = caller().tenant_id, None
        if request.page_token:
            before = page_token.decode_operation(request.page_token, tenant_id)
            if before is None:
                raise InvalidArgument([Violation("page_token", "is not a token of this list")])
        limit = request.limit if request.HasField("limit") else _DEFAULT_LIMIT
        found = await self._operations().list(before, limit + 1)
        page, token = split_page(found, limit, lambda last: _token_after(last, tenant_id))
        return pb.ListBulkOperationsResponse(
            operations=[operation_message(each) for each in page], limit=limit, next_page_token=token
        )

    async def ListBulkOperationItems(  # noqa: N802, D102
        self, request: pb.ListBulkOperationItemsRequest, context: Context
    ) -> pb.ListBulkOperationItemsResponse:
        require_valid(request)
        tenant_id, operation_id = caller().tenant_id, UUID(request.operation_id)
        operations = self._operations()
        outcomes = [OUTCOMES[value] for value in request.outcome] or list(BulkOutcome)
        after = 0
        if request.page_token:
            decoded = page_token.decode_item(request.page_token, tenant_id, operation_id, outcomes)
            if decoded is None:
                raise InvalidArgument(
                    [Violation("page_token", "is not a token of this operation and outcome filter")]
                )
            after = decoded
        limit = request.limit if request.HasField("limit") else _DEFAULT_ITEMS
        found = await operations.list_items(operation_id, outcomes, after, limit + 1)
        if not found and await operations.get(operation_id) is None:
            raise BulkOperationNotFound
        page, token = split_page(
            found, limit, lambda last: page_token.encode_item(last.place, tenant_id, operation_id, outcomes)
        )
        return pb.ListBulkOperationItemsResponse(
            items=[item_message(item) for item in page], limit=limit, next_page_token=token
        )

    async def AbortBulkOperation(  # noqa: N802, D102
        self, request: pb.AbortBulkOperationRequest, context: Context
    ) -> pb.AbortBulkOperationResponse:
        require_valid(request)
        operation = await abort_bulk_operation(self._operations(), UUID(request.operation_id))
        return pb.AbortBulkOperationResponse(operation=operation_message(operation))


def _token_after(last: BulkOperation, tenant_id: str) -> str:
    assert last.id is not None  # only a dry run has none, and is not stored
    return page_token.encode_operation(last.id, tenant_id)


def _checked(request: pb.CreateBulkOperationRequest) -> RunFilter | None:
    """The filter; None where the runs are named one by one. Raises InvalidArgument with every violation."""
    violations = violations_of(request)
    wanted = None
    if request.HasField("filter"):
        wanted, of_filter = check_filter(request.filter)
        violations += [Violation(f"filter.{each.field}", each.description) for each in of_filter]
    if "\0" in request.reason:
        violations.append(Violation("reason", "contains \\u0000"))
    if violations:
        raise InvalidArgument(violations)
    return wanted
