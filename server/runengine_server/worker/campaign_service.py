"""What the end of a run changes in its campaign."""

from __future__ import annotations

from uuid import UUID

from runengine_server.domain.run import CampaignStatus
from runengine_server.repositories.run_outcome import RunOutcome


class CampaignService:
    """Called by the run processor in the same process; takes effect in the transaction that ends the run."""

    def __init__(self, outcome: RunOutcome) -> None:
        self._outcome = outcome

    async def update_status_from_run(
        self, campaign_id: UUID, *, status: CampaignStatus, bundle_url: str | None, latest_run_id: UUID
    ) -> None:
        """Moves the campaign to the outcome of its run: live with the bundle's URL, or failed with the last
        good bundle kept.

        Does nothing when a run created later has already finished, or when there is no such
        campaign. Source: contract, section Campaigns.
        """
        await self._outcome.update_campaign(campaign_id, status, bundle_url, latest_run_id)
