"""How many runs of a tenant may be queued."""

from __future__ import annotations

from runengine_server.domain.errors import QuotaExceeded


def over_quota(queued_limit: int | None) -> QuotaExceeded:
    """What a tenant is told that has as many runs queued as it may."""
    return QuotaExceeded(
        f"The organisation has {queued_limit:,} runs queued, as many as it may; try again later."
    )
