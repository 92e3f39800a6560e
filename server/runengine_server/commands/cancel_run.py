"""Cancels a run."""

from __future__ import annotations

from uuid import UUID

from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import IdempotencyKeyReused, RunNotFound
from runengine_server.domain.transitions import Transition, not_allowed
from runengine_server.repositories.run_repository import (
    IdempotencyKey,
    MutationResult,
    Outcome,
    RunRepository,
)


async def cancel_run(
    runs: RunRepository, run_id: UUID, actor: Actor, key: IdempotencyKey | None
) -> MutationResult:
    """Cancels a queued or running run; a cancelled one is returned unchanged.

    Raises IdempotencyKeyReused, RunNotFound, or RunTerminal once it has completed or failed.
    """
    result = await runs.cancel(run_id, actor, key)
    if result.outcome is Outcome.KEY_REUSED:
        raise IdempotencyKeyReused
    if result.outcome is Outcome.RUN_NOT_FOUND:
        raise RunNotFound
    if result.outcome is Outcome.WRONG_STATUS:
        raise not_allowed(Transition.CANCEL, result.status, result.attempt)
    return result
