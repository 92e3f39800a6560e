"""Creates and changes schedules, and triggers the runs of their firings."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat
from runengine.v1.run_pb2 import RunStatus
from runengine.v1.run_service_pb2 import GetRunResponse, TriggerRunRequest

from runengine_server.commands.cancel_run import cancel_run
from runengine_server.commands.trigger_run import check_trigger, trigger_run
from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import (
    InvalidArgument,
    LimitReached,
    PayloadTooLarge,
    QuotaExceeded,
    ScheduleNotFound,
    Violation,
    WrongState,
)
from runengine_server.domain.schedule import (
    MAX_SCHEDULES,
    Overlap,
    Schedule,
    Timetable,
    time_zones,
    wrong_with_cron,
)
from runengine_server.repositories.run_repository import IdempotencyKey, RunRepository
from runengine_server.repositories.schedule_repository import ScheduleRepository

# How soon a firing that waits for a run, or could not trigger one, is tried again.
_WAIT_SECONDS, _REFUSED_SECONDS = 2.0, 10.0

_ACTIVE = (RunStatus.RUN_STATUS_QUEUED, RunStatus.RUN_STATUS_RUNNING)


@dataclass(frozen=True, slots=True)
class ScheduleChange:
    """What is not None, and of `request` what is set, takes the place of what a schedule has."""

    cron: str | None
    time_zone: str | None
    request: TriggerRunRequest
    overlap: Overlap | None
    is_paused: bool | None

    def of(self, known: Schedule) -> Schedule:
        """The schedule as it is to become. Raises InvalidArgument and PayloadTooLarge."""
        timetable = Timetable(
            known.timetable.cron if self.cron is None else self.cron,
            known.timetable.time_zone if self.time_zone is None else self.time_zone,
        )
        request = TriggerRunRequest.FromString(known.request)
        for name in ("trigger_payload", "context"):
            if self.request.HasField(name):  # MergeFrom would merge the two
                request.ClearField(name)
        request.MergeFrom(self.request)
        check_schedule(timetable, request)
        is_paused = known.next_at is None if self.is_paused is None else self.is_paused
        return replace(
            known,
            timetable=timetable,
            request=request.SerializeToString(),
            overlap=known.overlap if self.overlap is None else self.overlap,
            next_at=None if is_paused else timetable.after(datetime.now(UTC)),
        )


def check_schedule(
    timetable: Timetable, request: TriggerRunRequest, violations: Collection[Violation] = ()
) -> None:
    """Raises InvalidArgument with all violations, and PayloadTooLarge. Makes `context.campaignId` of the
    request lower case.
    """
    found = list(violations)
    if timetable.cron and (wrong := wrong_with_cron(timetable.cron)):
        found.append(Violation("cron", wrong))
    if timetable.time_zone not in time_zones():
        found.append(Violation("time_zone", "is no time zone of IANA's, such as Europe/Berlin"))
    check_trigger(request, found)


async def create_schedule(
    schedules: ScheduleRepository,
    timetable: Timetable,
    request: TriggerRunRequest,
    overlap: Overlap,
    is_paused: bool,
) -> Schedule:
    """Stores a schedule that fires from now on, unless it is paused. Raises LimitReached for a 101st."""
    next_at = None if is_paused else timetable.after(datetime.now(UTC))
    encoded = request.SerializeToString()
    schedule = await schedules.create(uuid_utils.compat.uuid7(), timetable, encoded, overlap, next_at)
    if schedule is None:
        raise LimitReached("schedules", MAX_SCHEDULES)
    return schedule


async def update_schedule(
    schedules: ScheduleRepository, schedule_id: UUID, change: ScheduleChange
) -> Schedule:
    """Changes what is given, also while others change the rest; it fires from now on, unless it is paused.

    Raises ScheduleNotFound, InvalidArgument, and PayloadTooLarge for what was given and is there together.
    """
    while True:
        known = await find_schedule(schedules, schedule_id)
        new = change.of(known)
        if (schedule := await schedules.update(known, new)) is not None:
            return schedule


async def find_schedule(schedules: ScheduleRepository, schedule_id: UUID) -> Schedule:
    """The schedule. Raises ScheduleNotFound."""
    schedule = await schedules.get(schedule_id)
    if schedule is None:
        raise ScheduleNotFound
    return schedule


async def fire(
    schedules: ScheduleRepository,
    runs: RunRepository,
    claimed: Schedule,
    queued_limit: int | None,
    known_workflows: Collection[str],
    now: datetime,
) -> None:
    """Triggers the run of the latest firing that is due, once: the idempotency key is made of schedule and
    firing, so that a server that comes after one that was lost gets the run that is there.
    """
    assert claimed.next_at is not None
    firing = claimed.timetable.latest(claimed.next_at, now)
    next_at = claimed.timetable.after(firing)
    actor = Actor(f"schedule:{claimed.id}", None)
    if (last := claimed.last_run_id) is not None and await _is_active(runs, last):
        if claimed.overlap is Overlap.SKIP:
            note = f"The run {last} had not ended."
            await schedules.record_firing(claimed, firing, None, note, next_at)
            return
        if claimed.overlap is Overlap.QUEUE:
            await schedules.postpone_firing(claimed, _WAIT_SECONDS, f"It waits for the run {last} to end.")
            return
        await _cancel(runs, last, actor)
    # Callers' keys are printable: none of theirs can be this one, and keep the firing from triggering.
    key = IdempotencyKey(f"\x1fschedule/{claimed.id}/{firing.isoformat()}", b"schedule")
    try:
        new = check_trigger(TriggerRunRequest.FromString(claimed.request))
        result = await trigger_run(runs, new, actor, key, queued_limit, known_workflows)
    except InvalidArgument as refused:
        words = "; ".join(f"{each.field} {each.description}" for each in refused.violations)
        await schedules.postpone_firing(claimed, _REFUSED_SECONDS, f"It is refused: {words}.")
    except (QuotaExceeded, PayloadTooLarge) as refused:
        await schedules.postpone_firing(claimed, _REFUSED_SECONDS, str(refused))
    else:
        assert result.response is not None
        run_id = UUID(GetRunResponse.FromString(result.response).run.id)
        await schedules.record_firing(claimed, firing, run_id, None, next_at)


async def _is_active(runs: RunRepository, run_id: UUID) -> bool:
    response = await runs.get(run_id)
    return response is not None and GetRunResponse.FromString(response).run.status in _ACTIVE


async def _cancel(runs: RunRepository, run_id: UUID, actor: Actor) -> None:
    with suppress(WrongState):  # it has ended meanwhile
        await cancel_run(runs, run_id, actor, None)
