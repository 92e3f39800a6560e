"""A run as a caller sees it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1.run_pb2 import RunStatus as WireStatus
from runengine.v1.run_pb2 import WaitingFor
from runengine.v1.run_service_pb2 import GetRunResponse
from runengine_server.domain.encoded_run import failure_of
from runengine_server.domain.run import Failure, RunStatus
from runengine_server.domain.struct import to_dict


@dataclass(frozen=True)
class Run:
    """A run as a caller sees it."""

    id: UUID
    status: RunStatus
    attempt: int
    priority: int
    error: Failure | None
    trigger_payload: dict[str, Any] | None
    context: dict[str, Any] | None
    started_at: datetime | None
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    waiting_for: list[WaitingFor]

    @property
    def gate(self) -> str:
        """The id of the one thing that it waits for."""
        (waiting,) = self.waiting_for
        return waiting.id


def run_of(response: bytes) -> Run:
    """The run in an encoded GetRunResponse, or another with a run in its field 1."""
    run = GetRunResponse.FromString(response).run

    def time(name: str) -> datetime:
        at: Timestamp = getattr(run, name)
        return at.ToDatetime(UTC)

    return Run(
        id=UUID(run.id),
        status=RunStatus(WireStatus.Name(run.status).removeprefix("RUN_STATUS_").lower()),
        attempt=run.attempt,
        priority=run.priority,
        error=failure_of(run),
        trigger_payload=to_dict(run.trigger_payload) if run.HasField("trigger_payload") else None,
        context=to_dict(run.context) if run.HasField("context") else None,
        started_at=time("started_at") if run.HasField("started_at") else None,
        completed_at=time("completed_at") if run.HasField("completed_at") else None,
        created_at=time("created_at"),
        updated_at=time("updated_at"),
        waiting_for=list(run.waiting_for),
    )
