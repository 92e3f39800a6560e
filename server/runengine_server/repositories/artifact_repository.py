"""The artifacts of one tenant: what and where, not their bytes."""

from __future__ import annotations

from uuid import UUID

from runengine_server.domain.run import Artifact
from runengine_server.repositories.database import Connection, Scope

_GET = "SELECT id, name, media_type, size, key FROM artifacts WHERE tenant_id = $1 AND id = $2"


class ArtifactRepository:
    """The artifacts of `tenant_id`."""

    def __init__(self, source: Scope | Connection, tenant_id: str) -> None:
        self._source = source
        self._tenant_id = tenant_id

    async def get(self, artifact_id: UUID) -> Artifact | None:
        """The artifact; None when the tenant has none of that id."""
        row = await self._source.fetchrow(_GET, self._tenant_id, artifact_id)
        return Artifact(**row) if row else None
