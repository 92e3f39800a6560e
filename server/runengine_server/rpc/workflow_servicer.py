"""WorkflowService."""

from __future__ import annotations

from typing import Any

import grpc
from runengine.v1 import workflow_service_pb2, workflow_service_pb2_grpc

from runengine_server.database.database import Database
from runengine_server.domain import page_token
from runengine_server.domain.errors import InvalidArgument, Violation
from runengine_server.repositories.workflow_repository import WorkflowRepository
from runengine_server.rpc.messages import workflow_message
from runengine_server.rpc.pages import split_page
from runengine_server.rpc.validation import require_valid

_DEFAULT_LIMIT = 50

Context = grpc.aio.ServicerContext[Any, Any]


class WorkflowServicer(workflow_service_pb2_grpc.WorkflowServiceServicer):
    """Its one method makes one call of the repository, and a response of what that returns."""

    def __init__(self, database: Database) -> None:
        self._workflows = WorkflowRepository(database)

    async def ListWorkflows(  # noqa: N802, D102
        self, request: workflow_service_pb2.ListWorkflowsRequest, context: Context
    ) -> workflow_service_pb2.ListWorkflowsResponse:
        require_valid(request)
        after = ""
        if request.page_token:
            decoded = page_token.decode_name(request.page_token)
            if decoded is None:
                raise InvalidArgument([Violation("page_token", "is not a token of this list")])
            after = decoded
        limit = request.limit if request.HasField("limit") else _DEFAULT_LIMIT
        found = await self._workflows.described(after, limit + 1)
        page, token = split_page(found, limit, lambda last: page_token.encode_name(last.name))
        return workflow_service_pb2.ListWorkflowsResponse(
            workflows=[workflow_message(workflow) for workflow in page], limit=limit, next_page_token=token
        )
