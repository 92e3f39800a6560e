"""The one table of what a run may become.

CANCEL, RETRY and RESUME are what callers ask for; RESUME requires besides that the run waits. CLAIM, COMPLETE
and FAIL are what workers do; their writes require the run's epoch besides.
"""

from __future__ import annotations

from enum import Enum

from runengine_server.domain.errors import (
    RunActive,
    RunNotCompleted,
    RunNotRetryable,
    RunNotWaiting,
    RunTerminal,
)
from runengine_server.domain.run import RunStatus

Q, R, C, F, X = (
    RunStatus.QUEUED,
    RunStatus.RUNNING,
    RunStatus.COMPLETED,
    RunStatus.FAILED,
    RunStatus.CANCELLED,
)


class Transition(Enum):
    """(sources, target) of each transition; the source of the table is the contract, section Runs."""

    CLAIM = ((Q,), R)
    COMPLETE = ((R,), C)
    FAIL = ((Q, R), F)
    CANCEL = ((Q, R), X)
    RETRY = ((F, X), Q)
    RESUME = ((R,), R)

    @property
    def sources(self) -> tuple[RunStatus, ...]:
        """The statuses from which it is allowed."""
        sources: tuple[RunStatus, ...] = self.value[0]
        return sources

    @property
    def target(self) -> RunStatus:
        """The status that it leads to."""
        target: RunStatus = self.value[1]
        return target


def not_allowed(transition: Transition, status: RunStatus, attempt: int) -> Exception:
    """The error for a caller who asked for CANCEL or RETRY of a run whose status does not allow it."""
    metadata = _state(status, attempt)
    if transition is Transition.CANCEL:
        return RunTerminal(f"The run is {status} and cannot be cancelled.", metadata)
    if status is RunStatus.COMPLETED:
        return RunNotRetryable("The run is completed, which is final; trigger a new one.", metadata)
    return RunActive(f"The run is {status}; only a failed or cancelled run can be retried.", metadata)


def not_waiting(status: RunStatus, attempt: int) -> RunNotWaiting:
    """The error for a caller who asked to resume a run in this status that waits for nobody."""
    return RunNotWaiting(
        f"The run is {status} and waits for nobody; only a run that waits can be resumed.",
        _state(status, attempt),
    )


def not_completed(status: RunStatus, attempt: int) -> RunNotCompleted:
    """The error for a caller who asked for the output of a run in this status."""
    return RunNotCompleted(
        f"The run is {status}; only a completed run has an output.", _state(status, attempt)
    )


def _state(status: RunStatus, attempt: int) -> dict[str, str]:
    """The metadata of a refusal; `allowed` is what a caller may do with the run instead."""
    allowed = [each.name.lower() for each in (Transition.CANCEL, Transition.RETRY) if status in each.sources]
    return {"status": status.value, "attempt": str(attempt), "allowed": ",".join(allowed)}
