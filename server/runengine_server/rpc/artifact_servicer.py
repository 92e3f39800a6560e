"""ArtifactService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import grpc
from runengine.v1 import artifact_service_pb2, artifact_service_pb2_grpc

from runengine_server.database.database import Database
from runengine_server.domain import page_token
from runengine_server.domain.errors import ArtifactNotFound, InvalidArgument, RunNotFound, Violation
from runengine_server.repositories.artifact_repository import ArtifactRepository
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.rpc.interceptor import caller
from runengine_server.rpc.messages import artifact_message
from runengine_server.rpc.pages import split_page
from runengine_server.rpc.validation import require_valid

_DEFAULT_LIMIT = 100

Context = grpc.aio.ServicerContext[Any, Any]


class ArtifactServicer(artifact_service_pb2_grpc.ArtifactServiceServicer):
    """The row says whose it is and where; the store has the bytes."""

    def __init__(self, database: Database, store: ArtifactStore) -> None:
        self._database = database
        self._store = store

    async def ListRunArtifacts(  # noqa: N802, D102
        self, request: artifact_service_pb2.ListRunArtifactsRequest, context: Context
    ) -> artifact_service_pb2.ListRunArtifactsResponse:
        require_valid(request)
        tenant_id, run_id = caller().tenant_id, UUID(request.run_id)
        after = None
        if request.page_token:
            after = page_token.decode_artifact(request.page_token, tenant_id, run_id)
            if after is None:
                raise InvalidArgument([Violation("page_token", "is not a token of this run")])
        limit = request.limit if request.HasField("limit") else _DEFAULT_LIMIT
        repository = ArtifactRepository(self._database.tenant(tenant_id))
        found = await repository.list_of_run(run_id, after, limit + 1)
        if found is None:
            raise RunNotFound
        page, token = split_page(
            found, limit, lambda last: page_token.encode_artifact(last.id, tenant_id, run_id)
        )
        return artifact_service_pb2.ListRunArtifactsResponse(
            artifacts=[artifact_message(artifact) for artifact in page], limit=limit, next_page_token=token
        )

    async def DownloadArtifact(  # noqa: N802, D102
        self, request: artifact_service_pb2.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[artifact_service_pb2.DownloadArtifactResponse]:
        require_valid(request)
        tenant_id = caller().tenant_id
        artifact = await ArtifactRepository(self._database.tenant(tenant_id)).get(UUID(request.artifact_id))
        if artifact is None:
            raise ArtifactNotFound
        header = artifact_service_pb2.DownloadArtifactResponse.Header(
            name=artifact.name, media_type=artifact.media_type, size=artifact.size
        )
        yield artifact_service_pb2.DownloadArtifactResponse(header=header)
        async for chunk in self._store.read(artifact.key):
            yield artifact_service_pb2.DownloadArtifactResponse(data=chunk)
