"""Retries a run."""

from __future__ import annotations

from uuid import UUID

from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import RunNotFound, TooManyQueued
from runengine_server.domain.transitions import Transition, refusal
from runengine_server.repositories.run_repository import Acted, Once, Outcome, RunRepository


async def retry_run(
    runs: RunRepository, run_id: UUID, actor: Actor, once: Once, queued_limit: int | None
) -> Acted:
    """Queues a failed or cancelled run again, attempt + 1, to resume from its last checkpoint.

    Raises RunNotFound, RunActive while it is queued or running, RunNotRetryable once completed, and
    TooManyQueued when the tenant has `queued_limit` runs queued already.
    """
    acted = await runs.retry(run_id, actor, once, queued_limit)
    if acted.outcome is Outcome.ABSENT:
        raise RunNotFound
    if acted.outcome is Outcome.REFUSED:
        raise refusal(Transition.RETRY, acted.status, acted.attempt)
    if acted.outcome is Outcome.OVER_QUOTA:
        raise TooManyQueued(queued_limit)
    return acted
