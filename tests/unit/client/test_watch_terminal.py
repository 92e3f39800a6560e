"""`runengine watch` in a terminal, where it draws, and elsewhere, where it prints lines."""

from __future__ import annotations

import asyncio
import json
import signal
from asyncio.subprocess import PIPE

import pytest
from runengine.v1.run_pb2 import Run, RunEvent, RunStatus, RunStep, StepStatus
from runengine.v1.run_service_pb2 import StatusCounts, WatchRunResponse
from runengine.v1.watch_runs_pb2 import RunTransition, StepOfRun, WatchRunsResponse

from tests.support.answering_server import NEVER
from tests.support.client_command import (
    COMPLETED,
    FAILED,
    MESSAGE,
    NINE_THIRTY,
    QUEUED,
    STEPS,
    WAITING,
    Command,
    Engine,
    run,
    uuid,
)
from tests.support.terminal import Terminal, terminal

RUNNING = RunStatus.RUN_STATUS_RUNNING
END = WatchRunResponse.SnapshotEnd()
PENDING = RunStep(
    id=uuid(70), step_id="publish", status=StepStatus.STEP_STATUS_PENDING, created_at=NINE_THIRTY
)


def event(to: RunStatus.ValueType, reason: str, before: RunStatus.ValueType = RUNNING) -> RunEvent:
    return RunEvent(at=NINE_THIRTY, from_status=before, to_status=to, attempt=1, reason=reason)


def watched(of: Run, *steps: RunStep) -> list[WatchRunResponse]:
    shown = [WatchRunResponse(step=step) for step in steps]
    return [WatchRunResponse(run=of), *shown, WatchRunResponse(snapshot_end=END, resume_token="one")]


@pytest.fixture
async def engine() -> Engine:
    return Engine()


async def ended(runengine: Command, screen: Terminal, *arguments: str, **env: str) -> int | None:
    """The exit code of the command, whose stdout is the terminal."""
    env = {"TERM": "xterm-256color", **env}
    process = await runengine.start(*arguments, stdout=screen.end, stderr=PIPE, **env)
    await process.communicate()
    return process.returncode


async def test_a_run_is_drawn_until_it_has_ended_with_its_whole_error(
    engine: Engine, runengine: Command
) -> None:
    engine.watched = watched(run(3, RUNNING), *STEPS)
    engine.watched.append(
        WatchRunResponse(transition=event(FAILED.status, "STEP_FAILED"), resume_token="two")
    )
    async with terminal(60) as screen:
        assert await ended(runengine, screen, "watch", FAILED.id) == 3
        await screen.until("goes on where it ended")
        last = screen.text.rpartition(f"campaign-bundle  {FAILED.id}")[2].split()
        assert "━" in screen.text
        assert [*last[:4]] == ["✗", "failed", "12m", "34s"]
        assert " ".join(last).count(f"STEP_FAILED: {MESSAGE}") == 1


async def test_a_run_that_waits_says_for_what_and_how_to_go_on(engine: Engine, runengine: Command) -> None:
    first = event(RUNNING, "WAITING")
    engine.watched = [
        *watched(run(5, RUNNING), PENDING),
        WatchRunResponse(transition=first, resume_token="two"),
        NEVER,
    ]
    async with terminal(60, 60) as screen:
        process = await runengine.start("watch", WAITING.id, stdout=screen.end, TERM="xterm-256color")
        await screen.until("waits for somebody")
        await screen.until(f"runengine resume {WAITING.id}")
        await screen.until("Publish the bundle of the campaign to all")
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert process.returncode == 130
        assert err.decode() == f"The run goes on. `runengine watch {WAITING.id}` shows it again.\n"


async def test_a_drawing_stays_within_the_terminal(engine: Engine, runengine: Command) -> None:
    steps = [
        RunStep(id=uuid(number), step_id=f"node-{number}", status=StepStatus.STEP_STATUS_RUNNING)
        for number in range(100, 1100)
    ]
    has_ended = asyncio.Event()
    engine.watched = [*watched(run(2, RUNNING), *steps), has_ended]
    async with terminal(80, 16) as screen:
        ending = asyncio.create_task(ended(runengine, screen, "watch", COMPLETED.id))
        await screen.until_drawn_again()
        has_ended.set()
        await ending
        await screen.until("shows what it returned")
        assert "… and " in screen.text
        # To draw again, it goes up no further than to the top.
        frames = screen.text.split(f"campaign-bundle  {COMPLETED.id}")[1:]
        assert max(frame.count("\n") for frame in frames[:-1]) < 16


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "TERM=dumb"])
async def test_a_terminal_that_is_not_to_be_drawn_on_gets_lines(
    engine: Engine, runengine: Command, env: dict[str, str]
) -> None:
    engine.watched = watched(COMPLETED, STEPS[0])
    async with terminal() as screen:
        assert await ended(runengine, screen, "watch", COMPLETED.id, **env) == 0
        await screen.until("cached")
        assert [line.rstrip() for line in screen.text.splitlines()] == [
            f"✓ completed  run {COMPLETED.id}",
            "✓ completed  generate_images  820 ms, cached",
        ]


async def test_a_trigger_is_watched_when_it_is_told_to(engine: Engine, runengine: Command) -> None:
    engine.watched = watched(QUEUED)
    both = await runengine("trigger", "w", "--watch", "--wait")
    assert (both.code, engine.requests) == (2, [])
    failed = await runengine("trigger", "w", "--watch")
    assert (failed.code, failed.out) == (3, f"○ queued     run {QUEUED.id}\n")
    engine.watched = watched(COMPLETED)
    assert (await runengine("trigger", "w", "--watch", "--json")).code == 0
    assert [type(each).__name__ for each in engine.requests] == ["TriggerRunRequest", "WatchRunRequest"] * 2


async def test_a_wait_that_is_interrupted_says_that_the_run_goes_on(
    engine: Engine, runengine: Command
) -> None:
    engine.watched_runs = [WatchRunsResponse(snapshot_end=WatchRunsResponse.SnapshotEnd()), NEVER]
    engine.end = run(1, RUNNING)
    process = await runengine.start("trigger", "w", "--wait")
    await engine.watching.wait()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert err.decode() == f"The run goes on. `runengine watch {QUEUED.id}` shows it.\n"


def of_campaign(to: RunStatus.ValueType, reason: str, of: Run) -> WatchRunsResponse:
    transition = RunTransition(run_id=of.id, workflow_name="campaign-bundle", event=event(to, reason))
    return WatchRunsResponse(transition=transition, resume_token="two")


CAMPAIGN_RUNS = [
    WatchRunsResponse(run=run(3, RUNNING)),
    WatchRunsResponse(step=StepOfRun(run_id=FAILED.id, step=STEPS[0])),
    WatchRunsResponse(snapshot_end=WatchRunsResponse.SnapshotEnd(), resume_token="one"),
    WatchRunsResponse(step_transition=StepOfRun(run_id=FAILED.id, step=STEPS[1]), resume_token="one"),
    of_campaign(RunStatus.RUN_STATUS_QUEUED, "TRIGGERED", QUEUED),
    of_campaign(RunStatus.RUN_STATUS_COMPLETED, "COMPLETED", QUEUED),
    of_campaign(RunStatus.RUN_STATUS_FAILED, "STEP_FAILED", FAILED),
    NEVER,
]


@pytest.mark.parametrize(("counts", "code"), [(StatusCounts(completed=2), 0), (StatusCounts(failed=1), 3)])
async def test_a_campaign_is_shown_until_none_of_its_runs_goes_on(
    engine: Engine, runengine: Command, counts: StatusCounts, code: int
) -> None:
    engine.watched_runs, engine.counts = CAMPAIGN_RUNS, counts
    lines = await runengine("watch", "--campaign", uuid(12))
    assert (lines.code, lines.err) == (code, "")
    assert [" ".join(line.split()) for line in lines.out.splitlines()] == [
        f"● running {FAILED.id} campaign-bundle",
        f"✗ failed render_bundle attempt 3 {FAILED.id}",
        f"○ queued {QUEUED.id} TRIGGERED",
        f"✓ completed {QUEUED.id} campaign-bundle",
        f"✗ failed {FAILED.id} campaign-bundle",
        "✓ 2 completed" if code == 0 else "✗ 1 failed",
    ]
    documents = await runengine("watch", "--campaign", uuid(12), "--json")
    kinds = [next(iter(json.loads(line))) for line in documents.out.splitlines()]
    assert kinds == ["run", "step", "snapshotEnd", "stepTransition", *["transition"] * 3]


async def test_a_campaign_is_drawn_in_a_terminal_and_what_has_ended_stays(
    engine: Engine, runengine: Command
) -> None:
    engine.watched_runs, engine.counts = CAMPAIGN_RUNS, StatusCounts(completed=7)
    async with terminal(60) as screen:
        assert await ended(runengine, screen, "watch", "--campaign", uuid(12)) == 0
        await screen.until("✓ 7 completed")
        assert f"✓ completed  {QUEUED.id}" in screen.text
        assert f"campaign  {uuid(12)}" in screen.text


async def test_watch_takes_a_run_or_a_campaign(runengine: Command) -> None:
    for arguments in ((), (QUEUED.id, "--campaign", uuid(12))):
        refused = await runengine("watch", *arguments)
        assert (refused.code, refused.err) == (2, "error: give either RUN or --campaign CAMPAIGN\n")
