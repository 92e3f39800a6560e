"""Cancels a run."""

from __future__ import annotations

from uuid import UUID

from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import RunNotFound
from runengine_server.domain.transitions import Transition, refusal
from runengine_server.repositories.run_repository import Acted, Once, Outcome, RunRepository


async def cancel_run(runs: RunRepository, run_id: UUID, actor: Actor, once: Once) -> Acted:
    """Cancels a queued or running run; a cancelled one is answered unchanged.

    Raises RunNotFound, or RunTerminal once it has completed or failed.
    """
    acted = await runs.cancel(run_id, actor, once)
    if acted.outcome is Outcome.ABSENT:
        raise RunNotFound
    if acted.outcome is Outcome.REFUSED:
        raise refusal(Transition.CANCEL, acted.status, acted.attempt)
    return acted
