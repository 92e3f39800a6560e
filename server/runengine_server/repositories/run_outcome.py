"""How a run ends, and what becomes of its campaign."""

from __future__ import annotations

from uuid import UUID

from runengine_server.domain.run import CampaignStatus, Failure, RunOutput, RunStatus

_NO_OUTPUT = RunOutput(None, None)


class RunOutcome:
    """Stored in one transaction."""

    def __init__(self) -> None:
        self.target: RunStatus | None = None
        self.error: Failure | None = None
        self.output = _NO_OUTPUT
        self.thread_checkpoints = 1
        self.campaign: tuple[UUID | None, CampaignStatus | None, str | None, UUID | None] = (None,) * 4

    async def complete(self, output: RunOutput = _NO_OUTPUT, thread_checkpoints: int = 1) -> None:
        """running → completed, with what the graph returned. Drops the checkpoints; of a run of a thread the
        newest `thread_checkpoints` become the thread's state.
        """
        self.target, self.output = RunStatus.COMPLETED, output
        self.thread_checkpoints = thread_checkpoints

    async def fail(self, error: Failure) -> None:
        """running → failed. Keeps of the checkpoints what a retry resumes from."""
        self.target, self.error = RunStatus.FAILED, error

    async def update_campaign(
        self, campaign_id: UUID, status: CampaignStatus, bundle_url: str | None, latest_run_id: UUID
    ) -> None:
        """Moves the campaign of the same tenant, unless a newer run has done so."""
        self.campaign = (campaign_id, status, bundle_url, latest_run_id)
