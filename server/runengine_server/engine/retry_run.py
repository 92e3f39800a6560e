"""Retries a run."""

from __future__ import annotations

from uuid import UUID

from runengine_server.domain.errors import RunNotFound
from runengine_server.domain.run import Run
from runengine_server.domain.transitions import Transition, refusal
from runengine_server.repositories.run_repository import RunRepository


async def retry_run(runs: RunRepository, run_id: UUID, actor: str) -> Run:
    """Queues a failed or cancelled run again, attempt + 1, to resume from its last checkpoint.

    Raises RunNotFound, RunActive while it is queued or running, RunNotRetryable once completed.
    """
    async with runs.lock(run_id) as locked:
        if locked is None:
            raise RunNotFound
        run = locked.run
        if run.status not in Transition.RETRY.sources:
            raise refusal(Transition.RETRY, run.status, run.attempt)
        return await locked.retry(actor)
