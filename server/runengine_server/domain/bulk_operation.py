"""Operations on many runs of a tenant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from runengine_server.domain.errors import RunEngineError, RunNotFound
from runengine_server.domain.run import RunStatus
from runengine_server.domain.transitions import Transition, not_allowed

# More runs than that an operation never has.
MAX_RUNS = 100_000

# In runs a second.
DEFAULT_PACE = 100


class BulkAction(StrEnum):
    """What becomes of the runs."""

    RETRY = "retry"
    CANCEL = "cancel"


class BulkOperationStatus(StrEnum):
    """Where an operation stands; one that is a dry run is nowhere stored."""

    RUNNING = "running"
    COMPLETED = "completed"
    ABORTED = "aborted"
    DRY_RUN = "dry_run"


class BulkOutcome(StrEnum):
    """What has become of one run."""

    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class NewBulkOperation:
    """`filter` is an encoded runengine.v1.RunFilter, None where the runs are named one by one; `pace` is in
    runs a second.
    """

    id: UUID
    action: BulkAction
    filter: bytes | None
    reason: str | None
    pace: int


@dataclass(frozen=True, slots=True)
class BulkOperation:
    """An operation as it stands. `refused` has how many runs were refused for each reason; of a dry run would
    be. `is_over_quota`: it waits until the tenant may have more runs queued. A dry run has no id.
    """

    id: UUID | None
    action: BulkAction
    status: BulkOperationStatus
    filter: bytes | None
    reason: str | None
    pace: int
    matched: int
    done: int
    refused: Mapping[str, int]
    actor: str
    created_at: datetime
    ended_at: datetime | None = None
    is_over_quota: bool = False

    @property
    def undecided(self) -> int:
        """How many runs it has not come to."""
        return self.matched - self.done - sum(self.refused.values())

    def as_created(self) -> BulkOperation:
        """As it was when it had just been created."""
        if self.matched == 0:
            return self
        status = BulkOperationStatus.RUNNING
        return replace(self, status=status, done=0, refused={}, ended_at=None, is_over_quota=False)


@dataclass(frozen=True, slots=True)
class BulkOperationItem:
    """One run of an operation, by its place in that from 1; `reason` of one that was refused."""

    place: int
    run_id: UUID
    outcome: BulkOutcome
    reason: str | None
    at: datetime | None


def refusals_of(action: BulkAction) -> dict[str, str]:
    """The reason why the action is refused, by the status of a run, and under "" for one that is not there. A
    status that allows it is not in there.
    """
    transition = Transition.RETRY if action is BulkAction.RETRY else Transition.CANCEL
    # Cancelling a cancelled run returns it unchanged.
    allowed = {*transition.sources, *({RunStatus.CANCELLED} if action is BulkAction.CANCEL else ())}
    refused = {"": RunNotFound.reason}
    for status in RunStatus:
        if status not in allowed:
            error = not_allowed(transition, status, 1)
            assert isinstance(error, RunEngineError)
            refused[status.value] = error.reason
    return refused
