"""What `runengine schedules` takes as the input of runs."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from runengine.v1 import schedule_service_pb2 as pb

from tests.support.answering_server import Engine
from tests.support.client_command import Command, uuid


@pytest.fixture
async def engine() -> Engine:
    return Engine()


async def test_an_input_may_be_a_file_and_names_a_key_that_is_there_twice(
    engine: Engine, runengine: Command
) -> None:
    engine.answers = [pb.UpdateScheduleResponse()]
    (runengine.folder / "input.json").write_text('{"n": 1}')
    changed = "--payload", "@input.json", "--workflow", "shop"
    await runengine("schedules", "update", uuid(1), *changed)
    payload = ParseDict({"n": 1}, Struct())
    assert engine.requests == [
        pb.UpdateScheduleRequest(schedule_id=uuid(1), workflow_name="shop", trigger_payload=payload)
    ]
    refused = await runengine("schedules", "create", "0 9 * * *", "shop", "--context", '{"a": 1, "a": 2}')
    assert refused.code == 2
    assert "appears twice" in refused.err
