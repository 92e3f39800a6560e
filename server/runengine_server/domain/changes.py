"""What has become of runs and their steps, and how far a reader of that has come."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from runengine_server.domain.run import RunEvent, RunStep


@dataclass(frozen=True, slots=True)
class Scope:
    """The runs of a tenant that somebody watches: one, or those of a campaign, or all."""

    tenant_id: str
    run_id: UUID | None = None
    campaign_id: UUID | None = None

    def has(self, change: Change) -> bool:
        """Whether a change of that tenant is one of these runs."""
        if self.run_id is not None:
            return change.run_id == self.run_id
        return self.campaign_id is None or change.campaign_id == self.campaign_id


@dataclass(frozen=True, slots=True)
class Position:
    """A reader knows all transitions that PostgreSQL's snapshot `since` has; and, where `until` is not None,
    of those that the snapshot `until` has too, the ones with a number up to `last`.
    """

    since: str | None
    until: str | None = None
    last: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """A transition of a run, or of a step: then `step` is as it was right after that. `number` is greater
    than those of all earlier ones of the same run; `epoch` is that of the run when this was read.
    """

    number: int
    run_id: UUID
    workflow_name: str
    campaign_id: UUID | None
    epoch: int
    event: RunEvent | None
    step: RunStep | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What has become of runs between the snapshots `since` and `until`, in order, as far as it was read:
    `is_whole` says whether that is all, and `is_latest` whether it is, and `until` the moment of reading.
    """

    since: str | None
    until: str
    changes: list[Change]
    is_whole: bool
    is_latest: bool

    def after(self, change: Change) -> Position:
        """The position of a reader who has read up to that one."""
        if self.is_whole and change is self.changes[-1]:
            return Position(self.until)
        return Position(self.since, self.until, change.number)

    @property
    def end(self) -> Position:
        """The position of a reader who has read these."""
        return Position(self.until) if self.is_whole else self.after(self.changes[-1])
