"""The artifacts of one tenant: what and where, not their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from runengine_server.database.functions import tenant_function
from runengine_server.database.scopes import TenantScope
from runengine_server.domain.run import Artifact

_GET = tenant_function("get_artifact")
_LIST_OF_RUN = tenant_function("list_run_artifacts")
_WITHOUT_ROW = tenant_function("artifacts_without_row")


class ArtifactRepository:
    """The artifacts of one tenant."""

    def __init__(self, scope: TenantScope) -> None:
        self._scope = scope

    async def get(self, artifact_id: UUID) -> Artifact | None:
        """The artifact; None when the tenant has none of that id."""
        rows = await self._scope.call(_GET, artifact_id)
        return Artifact(**rows[0]) if rows else None

    async def list_of_run(self, run_id: UUID, after: UUID | None, limit: int) -> list[Artifact] | None:
        """Up to `limit` artifacts of the run, those after the id `after`, in order; None when the tenant has
        no such run.
        """
        rows = await self._scope.call(_LIST_OF_RUN, run_id, after or UUID(int=0), limit)
        return [Artifact(**row) for row in rows if row["id"] is not None] if rows else None

    async def without_row(self, stored: Sequence[tuple[UUID, UUID]]) -> list[tuple[UUID, UUID]]:
        """Which of these (run's id, artifact's id) are of a run of the tenant, but of no artifact."""
        run_ids, ids = [run_id for run_id, _ in stored], [artifact_id for _, artifact_id in stored]
        return [(row["run_id"], row["id"]) for row in await self._scope.call(_WITHOUT_ROW, run_ids, ids)]
