"""Retries a run."""

from __future__ import annotations

from uuid import UUID

from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import IdempotencyKeyReused, RunNotFound, TooManyQueued
from runengine_server.domain.transitions import Transition, not_allowed
from runengine_server.repositories.run_repository import (
    IdempotencyKey,
    MutationResult,
    Outcome,
    RunRepository,
)


async def retry_run(
    runs: RunRepository,
    run_id: UUID,
    actor: Actor,
    key: IdempotencyKey | None,
    queued_limit: int | None,
) -> MutationResult:
    """Queues a failed or cancelled run again, attempt + 1, to resume from its last checkpoint.

    Raises IdempotencyKeyReused, RunNotFound, RunActive while it is queued or running, RunNotRetryable once
    completed, and TooManyQueued when the tenant has `queued_limit` runs queued already.
    """
    result = await runs.retry(run_id, actor, key, queued_limit)
    if result.outcome is Outcome.KEY_REUSED:
        raise IdempotencyKeyReused
    if result.outcome is Outcome.RUN_NOT_FOUND:
        raise RunNotFound
    if result.outcome is Outcome.WRONG_STATUS:
        raise not_allowed(Transition.RETRY, result.status, result.attempt)
    if result.outcome is Outcome.OVER_QUOTA:
        raise TooManyQueued(queued_limit)
    return result
