"""The artifacts of one tenant: what and where, not their bytes."""

from __future__ import annotations

from collections.abc import Sequence
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

# Not for a run that is not here: its artifacts belong to another database, and have no row in this one. As
# EXISTS, which PostgreSQL may make a join of, it read all of a tenant's runs.
_WITHOUT_ROW = Function(
    "artifacts_without_row",
    "text, uuid[], uuid[]",
    "run_id uuid, id uuid",
    """
SELECT stored.run_id, stored.id FROM unnest($2, $3) AS stored(run_id, id)
WHERE (SELECT true FROM public.runs WHERE runs.tenant_id = $1 AND runs.id = stored.run_id)
    AND (SELECT true FROM public.artifacts
        WHERE artifacts.tenant_id = $1 AND artifacts.id = stored.id) IS NULL
""",
)

FUNCTIONS = (_GET, _WITHOUT_ROW)


class ArtifactRepository:
    """The artifacts of one tenant."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def get(self, artifact_id: UUID) -> Artifact | None:
        """The artifact; None when the tenant has none of that id."""
        rows = await self._scope.call(_GET, artifact_id)
        return Artifact(**rows[0]) if rows else None

    async def without_row(self, stored: Sequence[tuple[UUID, UUID]]) -> list[tuple[UUID, UUID]]:
        """Of these (run's id, artifact's id) those of the tenant's runs that it has no artifact of."""
        run_ids, ids = [run_id for run_id, _ in stored], [artifact_id for _, artifact_id in stored]
        return [(row["run_id"], row["id"]) for row in await self._scope.call(_WITHOUT_ROW, run_ids, ids)]
