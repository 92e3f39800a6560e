"""What a run, its steps and its campaign are."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from google.protobuf.struct_pb2 import Struct
from runengine.v1.run_service_pb2 import TriggerRunRequest

# From how many losses on a run is in quarantine, and at how many it fails.
QUARANTINE_LOSSES, MAX_LOSSES = 2, 5

# How often in a row a run may be handed back without a step completed in between: over a minute and a half,
# with the pauses between them.
MAX_HAND_BACKS = 10


class RunStatus(StrEnum):
    """The words as stored and as REST shows them."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepStatus(StrEnum):
    """The words as stored and as REST shows them."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"


class CampaignStatus(StrEnum):
    """The words as stored and as REST shows them."""

    DRAFT = "draft"
    LIVE = "live"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run or a step failed. `step_id` is None when a run failed outside of any step."""

    code: str
    message: str
    step_id: str | None
    attempt: int
    retryable: bool


def whole_milliseconds(start: datetime | None, end: datetime | None) -> int | None:
    """`end` − `start` in whole ms, None unless both are set; 0 where the clock went back in between."""
    if start is None or end is None:
        return None
    return max(0, (end - start) // timedelta(milliseconds=1))


ENDED = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run that is about to be stored; `campaign_id` and `thread_id` are those of the request's context."""

    id: UUID
    request: TriggerRunRequest
    campaign_id: UUID | None = None
    thread_id: str | None = None


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a caller gives a run that waits: an encoded google.protobuf.Value for the one thing that it waits
    for; or, for things of these ids, an encoded Struct with a value under each.
    """

    value: bytes | None
    values: bytes = b""
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One transition. `from_status` is None for the first; `actor` is `Caller.actor` or a worker;
    `error` is an encoded runengine.v1.RunError; `operation_id` is the bulk operation that made it.
    """

    at: datetime
    from_status: RunStatus | None
    to_status: RunStatus
    attempt: int
    actor: str
    reason: str
    trace_id: str | None
    error: bytes | None
    operation_id: UUID | None


@dataclass(frozen=True, slots=True)
class RunStep:
    """One execution of one node; `attempt` counts its executions within the run, from 1, and `parent_id` is
    the step whose node has called its graph. Steps of a run are in the order of their places.
    """

    place: int
    id: UUID
    parent_id: UUID | None
    step_id: str
    skill_id: str
    status: StepStatus
    cache_hit: bool
    attempt: int
    error: Failure | None
    output_artifact_ids: tuple[UUID, ...]
    started_at: datetime | None
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A run that a worker holds. Every write in its name carries `epoch`, and counts only while the
    stored epoch is the same. `losses` is how many workers died while they held this attempt,
    `hand_backs` how many in a row handed it back without having completed a step of it,
    `running_seconds` how long ago the first of them took it, by the database's clock, without the time that
    it has waited. `resume_values` is what came with ResumeRun since then; `waiting_timed_out` says that
    nobody resumed it in time. `thread_id` is that of its thread, of which it is the only run that is held.
    `trace_id` is that of the call that has queued or resumed it. `lease_left` is how many seconds its
    worker's lease had left when it was claimed.
    """

    tenant_id: str
    id: UUID
    epoch: int
    workflow_name: str
    attempt: int
    losses: int
    hand_backs: int
    campaign_id: UUID | None
    trigger_payload: Struct | None
    context: Struct | None
    running_seconds: float
    resume_values: Struct = field(default_factory=Struct)
    waiting_timed_out: bool = False
    thread_id: str | None = None
    trace_id: str | None = None
    lease_left: float = 0.0

    @property
    def in_quarantine(self) -> bool:
        """Whether this run may be what killed its workers, as two losses are no accident: a worker executes
        one such run at a time.
        """
        return self.losses >= QUARANTINE_LOSSES


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """Something that a run waits for; `value` is JSON, and `note` says in words why that is not shown."""

    id: str
    step_id: str
    value: str = "null"
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign, as far as its runs are concerned."""

    id: UUID
    status: CampaignStatus
    bundle_url: str | None
    latest_run_id: UUID | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a step saved; `key` finds its bytes in the artifact store, `size` is in bytes. `created_at` is
    None until it is stored, and where nobody asks for it.
    """

    id: UUID
    name: str
    media_type: str
    size: int
    key: str
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunOutput:
    """What the graph of a run returned: an encoded GetRunOutputResponse, and the artifact that it names."""

    encoded: bytes | None
    artifact: Artifact | None
