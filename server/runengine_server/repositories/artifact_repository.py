"""The artifacts of one tenant: what and where, not their bytes."""

from __future__ import annotations

from uuid import UUID

from runengine_server.database.functions import tenant_function
from runengine_server.domain.run import Artifact
from runengine_server.repositories.database import TenantScope

_GET = tenant_function("get_artifact")


class ArtifactRepository:
    """The artifacts of one tenant."""

    def __init__(self, scope: TenantScope) -> None:
        self._scope = scope

    async def get(self, artifact_id: UUID) -> Artifact | None:
        """The artifact; None when the tenant has none of that id."""
        rows = await self._scope.call(_GET, artifact_id)
        return Artifact(**rows[0]) if rows else None
