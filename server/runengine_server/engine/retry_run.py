"""Retries a run."""

from __future__ import annotations

from uuid import UUID

from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import RunNotFound
from runengine_server.domain.run import Run
from runengine_server.domain.transitions import Transition, refusal
from runengine_server.engine.queued_quota import check_queued
from runengine_server.repositories.run_repository import RunRepository


async def retry_run(runs: RunRepository, run_id: UUID, actor: Actor, queued_limit: int | None) -> Run:
    """Queues a failed or cancelled run again, attempt + 1, to resume from its last checkpoint. Needs a
    transaction.

    Raises RunNotFound, RunActive while it is queued or running, RunNotRetryable once completed, and
    QuotaExceeded when the tenant has `queued_limit` runs queued already.
    """
    run = await runs.lock(run_id)
    if run is None:
        raise RunNotFound
    if run.status not in Transition.RETRY.sources:
        raise refusal(Transition.RETRY, run.status, run.attempt)
    retried = await runs.retry(run, actor)
    await check_queued(runs, queued_limit)
    return retried
