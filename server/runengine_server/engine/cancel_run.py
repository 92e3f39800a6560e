"""Cancels a run."""

from __future__ import annotations

from uuid import UUID

from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import RunNotFound
from runengine_server.domain.run import Run, RunStatus
from runengine_server.domain.transitions import Transition, refusal
from runengine_server.repositories.run_repository import RunRepository


async def cancel_run(runs: RunRepository, run_id: UUID, actor: Actor) -> Run:
    """Cancels a queued or running run; a cancelled one is answered unchanged. Needs a transaction.

    Raises RunNotFound, or RunTerminal once it has completed or failed.
    """
    run = await runs.lock(run_id)
    if run is None:
        raise RunNotFound
    if run.status is RunStatus.CANCELLED:
        return run
    if run.status not in Transition.CANCEL.sources:
        raise refusal(Transition.CANCEL, run.status, run.attempt)
    return await runs.cancel(run, actor)
