"""What the commands on schedules show."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1 import schedule_service_pb2 as pb

from tests.support.answering_server import Engine
from tests.support.client_command import Command, uuid

AT = Timestamp(seconds=1_769_851_800)
SCHEDULE = pb.Schedule(
    id=uuid(1),
    cron="* * * * *",
    time_zone="UTC",
    workflow_name="greet",
    overlap=pb.SCHEDULE_OVERLAP_SKIP,
    next_firings=[AT],
    note="It is refused: \x1b[31mworkflow_name is not the name of a registered workflow.",
    created_at=AT,
    updated_at=AT,
)


@pytest.fixture
async def engine() -> Engine:
    return Engine()


async def test_the_list_says_why_a_schedule_does_not_fire(engine: Engine, runengine: Command) -> None:
    for columns in ("200", "50"):
        engine.answers = [pb.ListSchedulesResponse(schedules=[SCHEDULE])]
        ended = await runengine("schedules", "list", COLUMNS=columns)
        words = " ".join(ended.out.split())
        assert "refused: \ufffd[31mworkflow_name is not the name of a registered workflow." in words
