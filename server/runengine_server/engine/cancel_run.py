"""Cancels a run."""

from __future__ import annotations

from uuid import UUID

from runengine_server.domain.errors import RunNotFound
from runengine_server.domain.run import Run, RunStatus
from runengine_server.domain.transitions import Transition, refusal
from runengine_server.repositories.run_repository import RunRepository


async def cancel_run(runs: RunRepository, run_id: UUID, actor: str) -> Run:
    """Cancels a queued or running run; a cancelled one is answered unchanged.

    Raises RunNotFound, or RunTerminal once it has completed or failed.
    """
    async with runs.lock(run_id) as locked:
        if locked is None:
            raise RunNotFound
        run = locked.run
        if run.status is RunStatus.CANCELLED:
            return run
        if run.status not in Transition.CANCEL.sources:
            raise refusal(Transition.CANCEL, run.status, run.attempt)
        return await locked.cancel(actor)
