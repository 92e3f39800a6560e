"""What Temporal executes for a run that was handed over."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from runengine_server.domain.handover import Handover

EXECUTE = "execute"

# Temporal wants one. How long a run may take is its workflow's own limit.
_FOR_EVER = timedelta(days=3650)

# An attempt that has claimed the run is the only one that does: those after it find that the epoch has risen,
# and end. So what is tried again is what no worker has begun.
_RETRIES = RetryPolicy(initial_interval=timedelta(seconds=0.5), maximum_interval=timedelta(seconds=2))


@workflow.defn(name="runengine.run")
class RunWorkflow:
    """One execution of a run by a worker. It ends when the run has ended, waits, or goes on in another."""

    @workflow.run
    async def run(self, handover: Handover, heartbeat_seconds: float) -> None:
        """Has a worker execute it that Temporal chooses. One that is silent for so long counts as lost."""
        # A workflow that ends at its cancel, as by default, has Temporal answer the worker's heartbeat that
        # there is no such activity, as it does where it has lost it.
        await workflow.execute_activity(
            EXECUTE,
            handover,
            start_to_close_timeout=_FOR_EVER,
            heartbeat_timeout=timedelta(seconds=heartbeat_seconds),
            retry_policy=_RETRIES,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        # The worker may have heard by itself that the run was cancelled, and have ended before this told it.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
