"""How many runs of a tenant may be queued."""

from __future__ import annotations

from runengine_server.domain.errors import QuotaExceeded
from runengine_server.repositories.run_repository import RunRepository

# More than are triggered for one tenant at the same instant. Only this near to its limit must a
# tenant's triggers wait for one another's commit, for the count to be exact.
_MARGIN = 1000


async def check_queued(runs: RunRepository, limit: int | None) -> None:
    """Raises QuotaExceeded when the transaction that has just queued a run has queued one too many."""
    if limit is None or await runs.count_queued(limit + 1) + _MARGIN <= limit:
        return
    if await runs.count_queued(limit + 1, alone=True) > limit:
        raise QuotaExceeded(
            f"The organisation has {limit:,} runs queued, as many as it may; try again later."
        )
