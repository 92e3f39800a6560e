"""What the end of a run does to its campaign."""

from __future__ import annotations

from uuid import UUID

from runengine_server.domain.run import CampaignStatus
from runengine_server.repositories.held_run_repository import EndingRun


class CampaignService:
    """The campaigns as the run processor moves them: in the same process, in the same transaction."""

    def __init__(self, ending: EndingRun) -> None:
        self._ending = ending

    async def update_status_from_run(
        self, campaign_id: UUID, *, status: CampaignStatus, bundle_url: str | None, latest_run_id: UUID
    ) -> None:
        """Moves the campaign to what its run has come to: live with the bundle's URL, or failed with
        the last good bundle kept.

        Does nothing when a run created later has already finished, or when there is no such
        campaign. Source: contract, section Campaigns.
        """
        await self._ending.update_campaign(campaign_id, status, bundle_url, latest_run_id)
