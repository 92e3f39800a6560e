"""ScheduleService."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import grpc
from runengine.v1 import schedule_service_pb2 as pb
from runengine.v1 import schedule_service_pb2_grpc
from runengine.v1.run_service_pb2 import TriggerRunRequest

from runengine_server.commands.schedules import (
    ScheduleChange,
    check_schedule,
    create_schedule,
    find_schedule,
    update_schedule,
)
from runengine_server.database.database import Database
from runengine_server.domain.errors import ScheduleNotFound
from runengine_server.domain.schedule import Overlap, Schedule, Timetable
from runengine_server.repositories.schedule_repository import ScheduleRepository
from runengine_server.rpc.interceptor import caller
from runengine_server.rpc.messages import timestamp
from runengine_server.rpc.validation import require_valid, violations_of

Context = grpc.aio.ServicerContext[Any, Any]

_SHOWN_FIRINGS = 5

_OVERLAPS = {pb.ScheduleOverlap.Value(f"SCHEDULE_OVERLAP_{each.name}"): each for each in Overlap}


class ScheduleServicer(schedule_service_pb2_grpc.ScheduleServiceServicer):
    """Each method calls one command or the repository, and makes a response of what comes back."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _schedules(self) -> ScheduleRepository:
        return ScheduleRepository(self._database.tenant(caller().tenant_id))

    async def CreateSchedule(  # noqa: N802, D102
        self, request: pb.CreateScheduleRequest, context: Context
    ) -> pb.CreateScheduleResponse:
        timetable = Timetable(request.cron, request.time_zone if request.HasField("time_zone") else "UTC")
        of_runs = _request_of_runs(request)
        check_schedule(timetable, of_runs, violations_of(request))
        overlap = _OVERLAPS[request.overlap] if request.HasField("overlap") else Overlap.SKIP
        schedule = await create_schedule(self._schedules(), timetable, of_runs, overlap, request.paused)
        return pb.CreateScheduleResponse(schedule=_message(schedule))

    async def ListSchedules(  # noqa: N802, D102
        self, request: pb.ListSchedulesRequest, context: Context
    ) -> pb.ListSchedulesResponse:
        return pb.ListSchedulesResponse(schedules=[_message(each) for each in await self._schedules().list()])

    async def GetSchedule(  # noqa: N802, D102
        self, request: pb.GetScheduleRequest, context: Context
    ) -> pb.GetScheduleResponse:
        require_valid(request)
        schedule = await find_schedule(self._schedules(), UUID(request.schedule_id))
        return pb.GetScheduleResponse(schedule=_message(schedule))

    async def UpdateSchedule(  # noqa: N802, D102
        self, request: pb.UpdateScheduleRequest, context: Context
    ) -> pb.UpdateScheduleResponse:
        change = ScheduleChange(
            cron=request.cron if request.HasField("cron") else None,
            time_zone=request.time_zone if request.HasField("time_zone") else None,
            request=_request_of_runs(request),
            overlap=_OVERLAPS[request.overlap] if request.HasField("overlap") else None,
            is_paused=request.paused if request.HasField("paused") else None,
        )
        given = Timetable(request.cron, request.time_zone if request.HasField("time_zone") else "UTC")
        check_schedule(given, change.request, violations_of(request))
        schedule = await update_schedule(self._schedules(), UUID(request.schedule_id), change)
        return pb.UpdateScheduleResponse(schedule=_message(schedule))

    async def DeleteSchedule(  # noqa: N802, D102
        self, request: pb.DeleteScheduleRequest, context: Context
    ) -> pb.DeleteScheduleResponse:
        require_valid(request)
        schedule = await self._schedules().delete(UUID(request.schedule_id))
        if schedule is None:
            raise ScheduleNotFound
        return pb.DeleteScheduleResponse(schedule=_message(schedule))


def _request_of_runs(request: pb.CreateScheduleRequest | pb.UpdateScheduleRequest) -> TriggerRunRequest:
    """What the runs are triggered with, as far as it is given."""
    return TriggerRunRequest(
        workflow_name=request.workflow_name,
        trigger_payload=request.trigger_payload if request.HasField("trigger_payload") else None,
        context=request.context if request.HasField("context") else None,
    )


def _message(schedule: Schedule) -> pb.Schedule:
    of_runs = TriggerRunRequest.FromString(schedule.request)
    upcoming = (
        [] if schedule.next_at is None else schedule.timetable.upcoming(schedule.next_at, _SHOWN_FIRINGS)
    )
    return pb.Schedule(
        id=str(schedule.id),
        cron=schedule.timetable.cron,
        time_zone=schedule.timetable.time_zone,
        workflow_name=of_runs.workflow_name,
        trigger_payload=of_runs.trigger_payload if of_runs.HasField("trigger_payload") else None,
        context=of_runs.context if of_runs.HasField("context") else None,
        overlap=pb.ScheduleOverlap.Value(f"SCHEDULE_OVERLAP_{schedule.overlap.name}"),
        paused=schedule.next_at is None,
        next_firings=filter(None, map(timestamp, upcoming)),
        last_fired_at=timestamp(schedule.last_at),
        last_run_id=None if schedule.last_run_id is None else str(schedule.last_run_id),
        note=schedule.note,
        created_at=timestamp(schedule.created_at),
        updated_at=timestamp(schedule.updated_at),
    )
