"""The campaigns that this process has seen."""

from __future__ import annotations

from uuid import UUID

# At about 250 bytes each. Beyond it all are forgotten, and looked up once more.
_MOST = 10_000


class KnownCampaigns:
    """Those that were there once. They are never deleted, so a trigger need not look for them again."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, UUID]] = set()

    def is_unknown(self, tenant_id: str, campaign_id: UUID | None) -> bool:
        """Whether the campaign has to be looked for; not where there is none."""
        return campaign_id is not None and (tenant_id, campaign_id) not in self._seen

    def add(self, tenant_id: str, campaign_id: UUID) -> None:
        """The campaign is there."""
        if len(self._seen) >= _MOST:
            self._seen.clear()
        self._seen.add((tenant_id, campaign_id))
