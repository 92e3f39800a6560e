"""The commands on schedules."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1 import schedule_service_pb2 as pb

from tests.support.answering_server import Engine
from tests.support.client_command import Command, uuid

AT = Timestamp(seconds=1_769_851_800)
SCHEDULE = pb.Schedule(
    id=uuid(1),
    cron="0 9 * * MON-FRI",
    time_zone="Europe/Berlin",
    workflow_name="greet\x1b[31m",
    overlap=pb.SCHEDULE_OVERLAP_QUEUE,
    next_firings=[AT],
    last_fired_at=AT,
    last_run_id=uuid(2),
    note="It is refused: \x1b[31mno worker serves it.",
    created_at=AT,
    updated_at=AT,
)
PAUSED = pb.Schedule(id=uuid(1), cron="@", paused=True, overlap=pb.SCHEDULE_OVERLAP_SKIP)


@pytest.fixture
async def engine() -> Engine:
    return Engine()


def struct(**fields: object) -> Struct:
    return ParseDict(fields, Struct())


CALLS: list[tuple[list[str], Any, Any, list[str]]] = [
    (
        [
            *("create", SCHEDULE.cron, "greet", "--time-zone", "Europe/Berlin", "--overlap", "queue"),
            *("--payload", '{"n": 1}', "--context", '{"campaignId": "one"}', "--paused"),
        ],
        pb.CreateScheduleRequest(
            cron=SCHEDULE.cron,
            workflow_name="greet",
            time_zone="Europe/Berlin",
            overlap=pb.SCHEDULE_OVERLAP_QUEUE,
            trigger_payload=struct(n=1),
            context=struct(campaignId="one"),
            paused=True,
        ),
        pb.CreateScheduleResponse(schedule=SCHEDULE),
        [
            *(f"id        {uuid(1)}", "cron      0 9 * * MON-FRI", "zone      Europe/Berlin"),
            *("workflow  greet�[31m", "overlap   queue", "last      2026-01-31 09:30:00 UTC"),
            *(
                f"last run  {uuid(2)}",
                "note      It is refused: �[31mno worker serves it.",
                "next      2026-01-31 09:30:00 UTC",
            ),
        ],
    ),
    (
        ["show", uuid(1)],
        pb.GetScheduleRequest(schedule_id=uuid(1)),
        pb.GetScheduleResponse(schedule=PAUSED),
        ["next      ⊘ paused"],
    ),
    (
        ["update", uuid(1), "--cron", "* * * * *", "--workflow", "other", "--resume"],
        pb.UpdateScheduleRequest(schedule_id=uuid(1), cron="* * * * *", workflow_name="other", paused=False),
        pb.UpdateScheduleResponse(schedule=SCHEDULE),
        [f"id        {uuid(1)}"],
    ),
    (
        ["delete", uuid(1)],
        pb.DeleteScheduleRequest(schedule_id=uuid(1)),
        pb.DeleteScheduleResponse(schedule=SCHEDULE),
        [f"id        {uuid(1)}"],
    ),
]


@pytest.mark.parametrize(
    ("arguments", "request_", "answer", "shown"), CALLS, ids=[each[0][0] for each in CALLS]
)
async def test_a_command_is_one_call_and_shows_what_it_returns(
    engine: Engine, runengine: Command, arguments: list[str], request_: Any, answer: Any, shown: list[str]
) -> None:
    engine.answers = [answer]
    ended = await runengine("schedules", *arguments)
    assert engine.requests == [request_]
    assert [line for line in ended.out.splitlines() if line in shown] == shown


async def test_the_list_says_which_fires_when(engine: Engine, runengine: Command) -> None:
    engine.answers = [pb.ListSchedulesResponse(schedules=[SCHEDULE, PAUSED]), pb.ListSchedulesResponse()]
    ended = await runengine("schedules", "list")
    assert "2026-01-31 09:30:00" in ended.out
    assert "⊘ paused" in ended.out
    assert json.loads((await runengine("--json", "schedules", "list")).out) == {"schedules": []}


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "* * * * *", "greet", "--payload", "[1]"],
        ["create", "* * * * *", "greet", "--context", "{"],
        ["update", uuid(1), "--pause", "--resume"],
    ],
)
async def test_a_mistake_is_told_without_a_call(
    engine: Engine, runengine: Command, arguments: list[str]
) -> None:
    ended = await runengine("schedules", *arguments)
    assert (ended.code, engine.requests) == (2, [])


async def test_the_list_says_why_a_schedule_does_not_fire(engine: Engine, runengine: Command) -> None:
    for columns in ("200", "50"):
        engine.answers = [pb.ListSchedulesResponse(schedules=[SCHEDULE])]
        ended = await runengine("schedules", "list", COLUMNS=columns)
        assert "refused: \ufffd[31mno worker serves it." in " ".join(ended.out.split())


async def test_an_input_may_be_a_file_and_names_a_key_that_is_there_twice(
    engine: Engine, runengine: Command
) -> None:
    engine.answers = [pb.UpdateScheduleResponse()]
    (runengine.folder / "input.json").write_text('{"n": 1}')
    await runengine("schedules", "update", uuid(1), "--payload", "@input.json")
    assert engine.requests == [pb.UpdateScheduleRequest(schedule_id=uuid(1), trigger_payload=struct(n=1))]
    refused = await runengine("schedules", "create", "0 9 * * *", "shop", "--context", '{"a": 1, "a": 2}')
    assert refused.code == 2
    assert "appears twice" in refused.err
