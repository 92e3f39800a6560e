"""A run that is handed over to Temporal."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from runengine_server.domain.run import ClaimedRun


@dataclass(frozen=True, slots=True)
class Handover:
    """All that Temporal is told of a run: which it is, and at what attempt and epoch it was to be claimed."""

    tenant_id: str
    run_id: UUID
    attempt: int
    epoch: int

    def workflow_id(self, queue: str) -> str:
        """The id of its workflow on that task queue. Another epoch, attempt or queue is another workflow, so
        that one which Temporal still has of a lost worker is not in the way of the next.
        """
        return f"{queue}/{self.run_id}/{self.attempt}/{self.epoch}"


def handover_of(run: ClaimedRun) -> Handover:
    """That by which the run was claimed: a claim raises the epoch by one."""
    return Handover(run.tenant_id, run.id, run.attempt, run.epoch - 1)
