"""The campaigns of one tenant."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from runengine_server.domain.run import Campaign, CampaignStatus
from runengine_server.repositories.database import Scope
from runengine_server.repositories.functions import Function

_CAMPAIGN = "id, status, bundle_url, latest_run_id, created_at, updated_at"

_COLUMNS = """id uuid, status text, bundle_url text, latest_run_id uuid, created_at timestamptz,
    updated_at timestamptz"""

# DO UPDATE that changes nothing, because DO NOTHING would return no row.
_INSERT = Function("create_campaign", "text, uuid", _COLUMNS, f"""
INSERT INTO public.campaigns (tenant_id, id) VALUES ($1, $2)
ON CONFLICT (tenant_id, id) DO UPDATE SET id = excluded.id
RETURNING {_CAMPAIGN}
""")  # fmt: skip

_GET = Function(
    "get_campaign",
    "text, uuid",
    _COLUMNS,
    f"SELECT {_CAMPAIGN} FROM public.campaigns WHERE tenant_id = $1 AND id = $2",
)

FUNCTIONS = (_INSERT, _GET)


def update_from_run(campaign: str, status: str, bundle_url: str, run: str) -> str:
    """The statement, of the function that ends a run, that moves its campaign; all four are parameters.

    latest_run_id is the greatest (created_at, id, attempt) that has finished, not the last to finish:
    without the comparison a slow old run would overwrite a newer one. A failed run keeps the bundle.
    """
    return f"""UPDATE public.campaigns SET status = {status},
        bundle_url = coalesce({bundle_url}, campaigns.bundle_url), latest_run_id = run.id,
        latest_run_created_at = run.created_at, latest_run_attempt = run.attempt,
        updated_at = public.touch(campaigns.updated_at)
    FROM public.runs AS run
    WHERE campaigns.tenant_id = $1 AND campaigns.id = {campaign} AND run.tenant_id = $1 AND run.id = {run}
        AND (campaigns.latest_run_id IS NULL OR (run.created_at, run.id, run.attempt)
            > (campaigns.latest_run_created_at, campaigns.latest_run_id, campaigns.latest_run_attempt))"""


def _campaign(row: asyncpg.Record) -> Campaign:
    return Campaign(
        id=row["id"],
        status=CampaignStatus(row["status"]),
        bundle_url=row["bundle_url"],
        latest_run_id=row["latest_run_id"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


class CampaignRepository:
    """The campaigns of one tenant."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def insert(self, campaign_id: UUID) -> Campaign:
        """The campaign, a draft if it is new, else as it is."""
        (row,) = await self._scope.call(_INSERT, campaign_id)
        return _campaign(row)

    async def get(self, campaign_id: UUID) -> Campaign | None:
        """The campaign as it is now; None when the tenant has none of that id."""
        rows = await self._scope.call(_GET, campaign_id)
        return _campaign(rows[0]) if rows else None
