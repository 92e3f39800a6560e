"""The campaigns of one tenant."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from runengine_server.database.functions import tenant_function
from runengine_server.database.scopes import TenantScope
from runengine_server.domain.run import Campaign, CampaignStatus

_INSERT = tenant_function("create_campaign")
_GET = tenant_function("get_campaign")


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

    def __init__(self, scope: TenantScope) -> None:
        self._scope = scope

    async def insert(self, campaign_id: UUID) -> Campaign:
        """Creates a draft, unless the tenant has the campaign; returns it as it is then."""
        (row,) = await self._scope.call(_INSERT, campaign_id)
        return _campaign(row)

    async def get(self, campaign_id: UUID) -> Campaign | None:
        """The campaign as it is now; None when the tenant has none of that id."""
        rows = await self._scope.call(_GET, campaign_id)
        return _campaign(rows[0]) if rows else None
