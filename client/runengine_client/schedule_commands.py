"""The commands on schedules, and what they print. All times are UTC."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text
from runengine.rest_json import words_of
from runengine.v1.schedule_service_pb2 import ListSchedulesResponse, Schedule, ScheduleOverlap

from runengine_client.command import Session
from runengine_client.json_argument import json_object
from runengine_client.json_view import schedule_json, schedules_json
from runengine_client.tables import entry, first_that_fits, new_table, plain, time_text

_OVERLAPS = words_of(ScheduleOverlap.DESCRIPTOR)


class OverlapWord(StrEnum):
    """The values of `--overlap`."""

    SKIP = "skip"
    QUEUE = "queue"
    CANCEL = "cancel"


ScheduleId = Annotated[
    str, typer.Argument(metavar="SCHEDULE", help="Id of the schedule.", show_default=False)
]
Zone = Annotated[
    str | None,
    typer.Option("--time-zone", metavar="ZONE", help="By whose clocks: such as Europe/Berlin. Default: UTC."),
]
Payload = Annotated[
    Any,
    typer.Option(
        parser=json_object,
        metavar="JSON|@FILE|-",
        help="Input of each run: a JSON object; @FILE reads a file, - reads stdin.",
    ),
]
Context = Annotated[
    Any,
    typer.Option(
        parser=json_object,
        metavar="JSON|@FILE|-",
        help="What each run belongs to: a JSON object; @FILE reads a file, - reads stdin.",
    ),
]
Overlapping = Annotated[
    OverlapWord | None,
    typer.Option(
        metavar="WORD", help="While the run before has not ended: skip, queue or cancel. Default: skip."
    ),
]


async def create(
    session: Session,
    cron: Annotated[
        str, typer.Argument(metavar="CRON", help="When: '0 9 * * MON-FRI', say.", show_default=False)
    ],
    workflow: Annotated[
        str, typer.Argument(metavar="WORKFLOW", help="Name of the workflow.", show_default=False)
    ],
    time_zone: Zone = None,
    payload: Payload = None,
    context: Context = None,
    overlap: Overlapping = None,
    paused: Annotated[bool, typer.Option("--paused", help="Do not fire yet.")] = False,
) -> None:
    """Creates a schedule, which triggers runs of a workflow by the clock."""
    _show(
        session,
        await session.client.create_schedule(
            cron,
            workflow,
            time_zone=time_zone,
            trigger_payload=payload,
            context=context,
            overlap=None if overlap is None else overlap.value,
            paused=paused,
        ),
    )


async def list_(session: Session) -> None:
    """Shows the schedules of the tenant."""
    found = await session.client.list_schedules()
    table, entries = new_table(), []
    for header in ("id", "cron", "time zone", "workflow", "next (UTC)"):
        table.add_column(header, no_wrap=True)
    for each in found:
        cells = plain(each.cron), plain(each.time_zone), plain(each.workflow_name), _next(each)
        table.add_row(each.id, *cells)
        entries.append(entry([Text(each.id)], [*cells]))
    view = first_that_fits(session.out, table) or Group(*entries)
    # Why a schedule has not fired, or not as it should.
    noted = [entry([Text(each.id)], [plain(each.note)]) for each in found if each.HasField("note")]
    notes = [Text(), Text("notes", "dim"), *noted] if noted else []
    shown = Group(view, *notes) if found else Text("no schedules", "dim")
    session.show(shown, schedules_json(ListSchedulesResponse(schedules=found)))


async def show(session: Session, schedule_id: ScheduleId) -> None:
    """Shows a schedule, with the next times at which it fires."""
    _show(session, await session.client.get_schedule(schedule_id))


async def update(
    session: Session,
    schedule_id: ScheduleId,
    cron: Annotated[str | None, typer.Option(metavar="CRON", help="When.")] = None,
    workflow: Annotated[
        str | None, typer.Option(metavar="WORKFLOW", help="Trigger runs of that workflow.")
    ] = None,
    time_zone: Zone = None,
    payload: Payload = None,
    context: Context = None,
    overlap: Overlapping = None,
    pause: Annotated[bool, typer.Option("--pause", help="Do not fire any more.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Fire again, from now on.")] = False,
) -> None:
    """Changes a schedule: what is given, and no more."""
    if pause and resume:
        raise ValueError("A schedule is either paused or resumed.")
    _show(
        session,
        await session.client.update_schedule(
            schedule_id,
            cron=cron,
            workflow_name=workflow,
            time_zone=time_zone,
            trigger_payload=payload,
            context=context,
            overlap=None if overlap is None else overlap.value,
            paused=pause or (False if resume else None),
        ),
    )


async def delete(session: Session, schedule_id: ScheduleId) -> None:
    """Deletes a schedule. Its runs stay as they are."""
    _show(session, await session.client.delete_schedule(schedule_id))


def _next(schedule: Schedule) -> Text:
    if schedule.paused:
        return Text("⊘ paused", "magenta")
    return Text(time_text(schedule.next_firings[0]) if schedule.next_firings else "")


def _show(session: Session, schedule: Schedule) -> None:
    rows = [
        ("id", Text(schedule.id)),
        ("cron", plain(schedule.cron)),
        ("zone", plain(schedule.time_zone)),
        ("workflow", plain(schedule.workflow_name)),
        ("overlap", Text(_OVERLAPS.get(schedule.overlap, str(schedule.overlap)))),
    ]
    if schedule.HasField("last_fired_at"):
        rows.append(("last", Text(f"{time_text(schedule.last_fired_at)} UTC")))
    if schedule.HasField("last_run_id"):
        rows.append(("last run", Text(schedule.last_run_id)))
    if schedule.HasField("note"):
        rows.append(("note", plain(schedule.note)))
    rows += [("next", Text(f"{time_text(each)} UTC")) for each in schedule.next_firings]
    if schedule.paused:
        rows.append(("next", _next(schedule)))
    view = Text("\n").join(Text.assemble((f"{label:<10}", "dim"), value) for label, value in rows)
    session.show(view, schedule_json(schedule))
