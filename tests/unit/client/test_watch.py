"""Watching a run by the client and by `runengine watch`, against servers in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from runengine.v1.run_pb2 import ProgressEvent, ProgressKind, Run, RunError, RunEvent, RunStatus
from runengine.v1.run_service_pb2 import WatchRunResponse
from runengine_client import RunEngineClient, errors

from tests.support.answering_server import RUN, RUN_ID, Engine, failure, info, serving
from tests.support.client_command import FAILED, MESSAGE, QUEUED, STEPS, Command
from tests.support.client_command import Engine as CommandsEngine

END = WatchRunResponse.SnapshotEnd()
SNAPSHOT = [WatchRunResponse(run=RUN), WatchRunResponse(snapshot_end=END, resume_token="one")]
AWAY = failure(grpc.StatusCode.UNAVAILABLE, "Away.", info("UNAVAILABLE"))
STOPS = failure(grpc.StatusCode.ABORTED, "Stops.", info("INTERRUPTED"))
COMPLETED = RunStatus.RUN_STATUS_COMPLETED


def transition(
    status: RunStatus.ValueType, token: str = "two", error: RunError | None = None
) -> WatchRunResponse:
    event = RunEvent(to_status=status, attempt=1, reason=RunStatus.Name(status)[11:], error=error)
    return WatchRunResponse(transition=event, resume_token=token)


def progress(kind: str, data: object, step: str = "outer:inner", **fields: object) -> WatchRunResponse:
    number = ProgressKind.Value(f"PROGRESS_KIND_{kind}")
    event = ProgressEvent(kind=number, step_id=step, data=json.dumps(data), **fields)  # type: ignore[arg-type]
    return WatchRunResponse(progress=event)


async def test_a_watch_that_breaks_off_goes_on_after_its_last_token(
    engine: Engine, client: RunEngineClient
) -> None:
    running, ended = transition(RunStatus.RUN_STATUS_RUNNING), transition(COMPLETED, "three")
    engine.answers = [*SNAPSHOT, AWAY, running, STOPS, ended]
    assert [each async for each in client.watch_run(RUN_ID)] == [*SNAPSHOT, running, ended]
    assert [each.resume_token for each in engine.requests] == ["", "one", "two"]
    assert {each.run_id for each in engine.requests} == {str(RUN_ID)}


async def test_a_watch_that_cannot_begin_raises(engine: Engine, client: RunEngineClient) -> None:
    engine.answers = [AWAY]
    with pytest.raises(errors.Unavailable):
        await anext(client.watch_run(RUN_ID))


async def test_a_watch_that_is_refused_raises_also_where_it_would_go_on(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.answers = [failure(grpc.StatusCode.NOT_FOUND, "No such run.", info("RUN_NOT_FOUND"))]
    with pytest.raises(errors.RunNotFound):
        await anext(client.watch_run(RUN_ID, resume_token="one"))
    assert engine.requests[0].resume_token == "one"


@pytest.fixture
async def server() -> CommandsEngine:
    return CommandsEngine()


@pytest.fixture
async def runengine(server: CommandsEngine, tmp_path: Path) -> AsyncIterator[Command]:
    async with serving(server) as address:
        yield Command(address, tmp_path)


async def test_watch_prints_a_line_an_event(server: CommandsEngine, runengine: Command) -> None:
    server.watched = [
        WatchRunResponse(run=QUEUED),
        WatchRunResponse(step=STEPS[0]),
        SNAPSHOT[1],
        transition(RunStatus.RUN_STATUS_RUNNING),
        progress("STEP", {"status": "running"}),
        WatchRunResponse(step_transition=STEPS[0], resume_token="two"),
        WatchRunResponse(step_transition=STEPS[1], resume_token="three"),
        progress("CUSTOM", {"half": "w\u00f6rd"}),
        progress("MESSAGE", {"content": "hel"}, message_id="1"),
        progress("MESSAGE", {"content": [{"type": "text", "text": "lo\nwor"}]}, message_id="1"),
        progress("MESSAGE", {"content": "ld"}, message_id="1"),
        progress("MESSAGE", {"content": "other \x1b[31m"}, message_id="2"),
        progress("DROPPED", None, dropped=1200),
        transition(COMPLETED),
    ]
    ended = await runengine("watch", QUEUED.id)
    assert (ended.code, ended.err) == (0, "")
    assert [line.rstrip() for line in ended.out.splitlines()] == [
        f"○ queued     run {QUEUED.id}",
        "✓ completed  generate_images  820 ms, cached",
        "● running    run, attempt 1, RUNNING",
        "✗ failed     render_bundle  attempt 3",
        'says         outer:inner  {"half": "w\u00f6rd"}',
        "says         outer:inner  hello",
        "says         outer:inner  world",
        "says         outer:inner  other \ufffd[31m",
        "dropped      1,200 events",
        "✓ completed  run, attempt 1, COMPLETED",
    ]


async def test_watch_exits_with_3_when_the_run_failed(server: CommandsEngine, runengine: Command) -> None:
    error = RunError(code="STEP_FAILED", message="No audience.")
    server.watched = [*SNAPSHOT, transition(RunStatus.RUN_STATUS_FAILED, error=error)]
    ended = await runengine("watch", QUEUED.id)
    assert ended.code == 3
    assert "FAILED: No audience." in ended.out


async def test_a_failed_run_is_shown_with_its_error(server: CommandsEngine, runengine: Command) -> None:
    server.watched = [WatchRunResponse(run=FAILED), WatchRunResponse(step=STEPS[1]), SNAPSHOT[1]]
    ended = await runengine("watch", FAILED.id)
    assert ended.code == 3
    assert f"✗ failed     run {FAILED.id}, attempt 1, STEP_FAILED: {MESSAGE}" in ended.out


async def test_watch_prints_what_rest_has_with_json(server: CommandsEngine, runengine: Command) -> None:
    server.watched = [
        WatchRunResponse(run=Run(id="one", status=COMPLETED)),
        SNAPSHOT[1],
        progress("CUSTOM", [1]),
    ]
    ended = await runengine("watch", "one", "--json")
    assert ended.code == 0
    run, end, told = [json.loads(line) for line in ended.out.splitlines()]
    assert run["run"]["status"] == "completed"
    assert end == {"snapshotEnd": {}, "resumeToken": "one"}
    assert told["progress"]["data"] == [1]
