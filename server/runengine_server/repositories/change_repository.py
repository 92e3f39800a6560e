"""What has become of runs, for those who watch them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from runengine_server.database.connections import TRANSACTION_SECONDS
from runengine_server.database.functions import each_call, tenant_function
from runengine_server.domain.changes import Change, Changes, Position, Scope
from runengine_server.domain.run import Failure, RunStatus, RunStep, StepStatus
from runengine_server.repositories.run_repository import run_event, run_step

if TYPE_CHECKING:
    import asyncpg

    from runengine_server.database.database import Database
    from runengine_server.database.dispatch_connection import ListeningConnection

_LIST_CHANGES = each_call("list_changes", "list_changes_of_readers")
_RESUME_WATCH = tenant_function("resume_watch")
_BEGIN_WATCH = tenant_function("begin_watch")

# How many transitions are read for a reader at a time, and how many it may have missed.
MAX_CHANGES = 1000
MAX_MISSED = 100_000

_ENDED_STEP = (StepStatus.COMPLETED, StepStatus.FAILED)


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run as it is: `response` is an encoded GetRunResponse."""

    id: UUID
    response: bytes
    epoch: int
    status: RunStatus


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Runs, most recent first, and steps of some of them in execution order, each with its run; `position` is
    that of a reader who knows them.
    """

    runs: list[ShownRun]
    steps: list[tuple[UUID, RunStep]]
    position: Position


@dataclass(frozen=True, slots=True)
class Resumed:
    """Whether all that has become since can be read. `status` is that of the run, if the reader is of one
    that is there.
    """

    can_go_on: bool
    status: RunStatus | None


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads on from a position: runs of a tenant, or with None all of them."""

    tenant_id: str
    position: Position
    run_ids: tuple[UUID, ...] | None


class ChangeRepository:
    """The transitions of all runs and steps; each reader gets those of its tenant alone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, scope: Scope, limit: int) -> Snapshot:
        """The runs, of several the `limit` most recent ones; of one its steps, of several the steps of those
        that have not ended.
        """
        rows = await self._database.tenant(scope.tenant_id).call(
            _BEGIN_WATCH, scope.run_id, scope.campaign_id, limit
        )
        return Snapshot(
            [
                ShownRun(row["run_id"], row["response"], row["epoch"], RunStatus(row["run_status"]))
                for row in rows
                if row["response"] is not None
            ],
            [(row["run_id"], run_step(row)) for row in rows if row["id"] is not None],
            Position(rows[0]["snapshot"]),
        )

    async def resume(self, scope: Scope, position: Position) -> Resumed:
        """Whether a reader of these runs can go on from there."""
        rows = await self._database.tenant(scope.tenant_id).call(
            _RESUME_WATCH, scope.run_id, position.since, MAX_MISSED
        )
        can_go_on, status = rows[0]
        return Resumed(can_go_on, None if status is None else RunStatus(status))

    async def read(self, connection: ListeningConnection, readers: Sequence[Reader]) -> list[Changes]:
        """What has become since the position of each, all up to the same moment where that is whole. Raises
        as the driver does, and TimeoutError.
        """
        rows = await connection.call_each(
            _LIST_CHANGES,
            [each.tenant_id for each in readers],
            [each.position.since for each in readers],
            [each.position.until for each in readers],
            [each.position.last for each in readers],
            [None if each.run_ids is None else f"{{{','.join(map(str, each.run_ids))}}}" for each in readers],
            [MAX_CHANGES] * len(readers),
            seconds=TRANSACTION_SECONDS,
        )
        now = ""
        found: list[list[Change]] = [[] for _ in readers]
        for row in rows:
            if row["snapshot"] is None:
                found[row["place"] - 1].append(_change(row))
            else:
                now = row["snapshot"]
        return [
            Changes(
                reader.position.since,
                reader.position.until or now,
                changes,
                len(changes) < MAX_CHANGES,
                len(changes) < MAX_CHANGES and reader.position.until is None,
            )
            for reader, changes in zip(readers, found, strict=True)
        ]


def _change(row: asyncpg.Record) -> Change:
    is_of_run = row["id"] is None
    return Change(
        row["seq"],
        row["run_id"],
        row["workflow_name"],
        row["campaign_id"],
        row["epoch"],
        run_event(row, row["run_attempt"]) if is_of_run else None,
        None if is_of_run else _step(row),
    )


def _step(row: asyncpg.Record) -> RunStep:
    status = StepStatus(row["status"])
    has_ended = status in _ENDED_STEP
    is_failed = status is StepStatus.FAILED and row["step_error"]
    return RunStep(
        place=row["seq"],
        id=row["id"],
        parent_id=row["parent_id"],
        step_id=row["step_id"],
        skill_id=row["skill_id"],
        status=status,
        cache_hit=row["cache_hit"],
        attempt=row["attempt"],
        error=Failure(**row["step_error"]) if is_failed else None,
        output_artifact_ids=tuple(row["output_artifact_ids"]) if has_ended else (),
        started_at=row["started_at"],
        completed_at=row["completed_at"] if has_ended else None,
        created_at=row["created_at"],
        updated_at=row["at"],
    )
