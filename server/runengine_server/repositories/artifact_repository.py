"""The artifacts of one tenant: what and where, not their bytes."""

from __future__ import annotations

from uuid import UUID

from runengine_server.domain.run import Artifact
from runengine_server.repositories.database import Scope
from runengine_server.repositories.functions import Function

_GET = Function(
    "get_artifact",
    "text, uuid",
    "id uuid, name text, media_type text, size bigint, key text",
    "SELECT id, name, media_type, size, key FROM public.artifacts WHERE tenant_id = $1 AND id = $2",
)

FUNCTIONS = (_GET,)


class ArtifactRepository:
    """The artifacts of one tenant."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def get(self, artifact_id: UUID) -> Artifact | None:
        """The artifact; None when the tenant has none of that id."""
        rows = await self._scope.call(_GET, artifact_id)
        return Artifact(**rows[0]) if rows else None
