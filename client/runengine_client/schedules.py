"""Schedules, which trigger runs by the clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from runengine.v1.schedule_service_pb2 import (
    CreateScheduleRequest,
    DeleteScheduleRequest,
    GetScheduleRequest,
    ListSchedulesRequest,
    Schedule,
    ScheduleOverlap,
    UpdateScheduleRequest,
)

from runengine_client.arguments import Id, struct_or_none
from runengine_client.connection import Connection

Overlap = Literal["skip", "queue", "cancel"]

_OVERLAPS = {
    "skip": ScheduleOverlap.SCHEDULE_OVERLAP_SKIP,
    "queue": ScheduleOverlap.SCHEDULE_OVERLAP_QUEUE,
    "cancel": ScheduleOverlap.SCHEDULE_OVERLAP_CANCEL,
}


class Schedules(Connection):
    """The part of RunEngineClient that triggers runs by the clock."""

    async def create_schedule(
        self,
        cron: str,
        workflow_name: str,
        *,
        time_zone: str | None = None,
        trigger_payload: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        overlap: Overlap | None = None,
        paused: bool = False,
    ) -> Schedule:
        """Creates a schedule that fires from now on, at the five fields of `cron` by the clocks of a time
        zone of IANA's, by default UTC. `overlap` is what becomes of a firing while the run before has not
        ended: it is skipped, by default, or waits, or cancels that run.

        Raises InvalidArgument, PayloadTooLarge, and RunEngineError with LIMIT_REACHED.
        """
        request = CreateScheduleRequest(
            cron=cron,
            workflow_name=workflow_name,
            time_zone=time_zone,
            trigger_payload=struct_or_none(trigger_payload, "trigger_payload"),
            context=struct_or_none(context, "context"),
            overlap=None if overlap is None else _OVERLAPS[overlap],
            paused=paused or None,
        )
        return (await self._call(self._schedules.CreateSchedule, request)).schedule

    async def list_schedules(self) -> list[Schedule]:
        """Returns all schedules of the tenant, the oldest first."""
        return list((await self._call(self._schedules.ListSchedules, ListSchedulesRequest())).schedules)

    async def get_schedule(self, schedule_id: Id) -> Schedule:
        """Returns the schedule. Raises RunEngineError with SCHEDULE_NOT_FOUND."""
        request = GetScheduleRequest(schedule_id=str(schedule_id))
        return (await self._call(self._schedules.GetSchedule, request)).schedule

    async def update_schedule(
        self,
        schedule_id: Id,
        *,
        cron: str | None = None,
        time_zone: str | None = None,
        workflow_name: str | None = None,
        trigger_payload: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        overlap: Overlap | None = None,
        paused: bool | None = None,
    ) -> Schedule:
        """Changes what is given, and returns the schedule as it is now; what it has missed before is not made
        up for. Raises as create_schedule does, and RunEngineError with SCHEDULE_NOT_FOUND.
        """
        request = UpdateScheduleRequest(
            schedule_id=str(schedule_id),
            cron=cron,
            time_zone=time_zone,
            workflow_name=workflow_name,
            trigger_payload=struct_or_none(trigger_payload, "trigger_payload"),
            context=struct_or_none(context, "context"),
            overlap=None if overlap is None else _OVERLAPS[overlap],
            paused=paused,
        )
        return (await self._call(self._schedules.UpdateSchedule, request)).schedule

    async def delete_schedule(self, schedule_id: Id) -> Schedule:
        """Deletes the schedule, and returns it as it was; its runs stay. Raises RunEngineError with
        SCHEDULE_NOT_FOUND.
        """
        request = DeleteScheduleRequest(schedule_id=str(schedule_id))
        return (await self._call(self._schedules.DeleteSchedule, request)).schedule
