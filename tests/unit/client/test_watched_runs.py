"""Watching the runs of a campaign or of the tenant, and waiting for runs by one such stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.rpc.status_pb2 import Status
from runengine.v1.run_pb2 import Run, RunEvent, RunStatus
from runengine.v1.run_service_pb2 import GetRunResponse
from runengine.v1.watch_runs_pb2 import RunTransition, WatchRunsResponse
from runengine_client import RunEngineClient, errors

from tests.support.answering_server import CAMPAIGN_ID, NEVER, RUN, Engine, failure, info
from tests.support.patience import SECONDS

SNAPSHOT_END = WatchRunsResponse.SnapshotEnd()
AWAY = failure(grpc.StatusCode.UNAVAILABLE, "Away.", info("UNAVAILABLE"))
STOPS = failure(grpc.StatusCode.ABORTED, "Stops.", info("INTERRUPTED"))
EXPIRED = failure(grpc.StatusCode.FAILED_PRECONDITION, "Too old.", info("RESUME_TOKEN_EXPIRED"))
UNKNOWN = failure(grpc.StatusCode.INVALID_ARGUMENT, "Whose token?", info("INVALID_ARGUMENT"))
TOO_MANY = failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many.", info("QUOTA_EXCEEDED"))
RUNNING, ENDED = RunStatus.RUN_STATUS_RUNNING, RunStatus.RUN_STATUS_COMPLETED


def end_of_snapshot(token: str) -> WatchRunsResponse:
    return WatchRunsResponse(snapshot_end=SNAPSHOT_END, resume_token=token)


def transition(status: RunStatus.ValueType, token: str, run: Run = RUN) -> WatchRunsResponse:
    event = RunTransition(run_id=run.id, event=RunEvent(to_status=status))
    return WatchRunsResponse(transition=event, resume_token=token)


RUN_SHOWN = WatchRunsResponse(run=RUN)
BEGUN = [RUN_SHOWN, end_of_snapshot("one")]
RUNS, ENDS = transition(RUNNING, "two"), transition(ENDED, "three")


async def first(number: int, watch: Any) -> list[WatchRunsResponse]:
    async with aclosing(watch):
        return [await anext(watch) for _ in range(number)]


async def test_the_runs_of_a_campaign_are_watched_with_what_is_asked_for(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.streams = [*BEGUN, NEVER]
    watch = client.watch_campaign(CAMPAIGN_ID, snapshot_limit=0, with_progress=True, resume_token="a")
    assert await first(2, watch) == BEGUN
    (request,) = engine.stream_requests
    assert UUID(request.campaign_id) == CAMPAIGN_ID
    assert (request.snapshot_limit, request.with_progress, request.resume_token) == (0, True, "a")


async def test_a_watch_of_runs_goes_on_after_its_last_token(engine: Engine, client: RunEngineClient) -> None:
    engine.streams = [*BEGUN, AWAY, RUNS, STOPS, ENDS, NEVER]
    assert await first(4, client.watch_runs()) == [*BEGUN, RUNS, ENDS]
    assert [each.resume_token for each in engine.stream_requests] == ["", "one", "two"]
    assert not any(each.HasField("snapshot_limit") for each in engine.stream_requests)


async def test_a_watch_that_breaks_off_before_its_first_token_begins_anew(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.streams = [RUN_SHOWN, AWAY, *BEGUN, NEVER]
    assert await first(3, client.watch_runs()) == [RUN_SHOWN, *BEGUN]
    assert [each.resume_token for each in engine.stream_requests] == ["", ""]


@pytest.mark.parametrize("refusal", [EXPIRED, UNKNOWN], ids=["too old", "unknown"])
async def test_a_watch_whose_token_is_forgotten_begins_anew(
    engine: Engine, client: RunEngineClient, refusal: Status
) -> None:
    engine.streams = [*BEGUN, AWAY, refusal, *BEGUN, RUNS, NEVER]
    assert await first(5, client.watch_runs()) == [*BEGUN, *BEGUN, RUNS]
    assert [each.resume_token for each in engine.stream_requests] == ["", "one", ""]


async def test_a_token_of_the_caller_that_nobody_knows_is_refused(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.streams = [UNKNOWN]
    with pytest.raises(errors.InvalidArgument):
        await first(1, client.watch_runs(resume_token="mine"))


async def test_a_watch_that_is_one_too_many_raises_at_first_and_is_patient_later(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.streams = [TOO_MANY]
    with pytest.raises(errors.QuotaExceeded):
        await first(1, client.watch_runs())
    engine.streams = [*BEGUN, AWAY, TOO_MANY, RUNS, NEVER]
    assert await first(3, client.watch_runs()) == [*BEGUN, RUNS]


async def test_a_watch_asks_for_its_token_again_when_it_goes_on(engine: Engine, address: str) -> None:
    tokens = iter(["first", "second"])
    engine.streams = [*BEGUN, STOPS, RUNS, NEVER]
    async with RunEngineClient(address, lambda: next(tokens)) as client:
        assert await first(3, client.watch_runs()) == [*BEGUN, RUNS]
    assert next(tokens, None) is None


class Told(Engine):
    """Has runs by their ids, of which a test tells the one stream that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, Run] = {}
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self.open = self.opened = 0
        self.refuses = False
        self.closed = asyncio.Event()
        self.has_asked = asyncio.Condition()

    async def GetRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        async with self.has_asked:
            self.requests.append(request)
            self.has_asked.notify_all()
        return GetRunResponse(run=self.runs[request.run_id])

    async def WatchRuns(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.opened += 1
        self.open += 1
        try:
            if self.refuses:
                await self._given(TOO_MANY, context)
            yield end_of_snapshot("one")
            while True:
                yield await self._given(await self.told.get(), context)
        finally:
            self.open -= 1
            self.closed.set()

    def end(self, run: Run) -> None:
        self.runs[run.id] = Run(id=run.id, status=ENDED)
        self.told.put_nowait(transition(ENDED, "two", run))

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with self.has_asked, asyncio.timeout(SECONDS):
            await self.has_asked.wait_for(is_so)

    def asked(self, run: Run) -> int:
        return sum(each.run_id == run.id for each in self.requests)


class TestWaiting:
    @pytest.fixture
    async def engine(self) -> Told:
        return Told()

    async def test_many_waits_share_one_stream_which_ends_with_the_last(
        self, engine: Told, client: RunEngineClient
    ) -> None:
        runs = [Run(id=f"run-{number}", status=RUNNING) for number in range(50)]
        engine.runs = {run.id: run for run in runs}
        waits = [asyncio.create_task(client.wait(run.id, poll=(60, 60))) for run in runs]
        await engine.until(lambda: all(engine.asked(run) == 2 for run in runs))
        for run in runs:
            engine.end(run)
        assert {(await each).status for each in waits} == {ENDED}
        # Before the stream, when it had begun, and when it told of the end.
        assert {engine.asked(run) for run in runs} == {3}
        assert engine.opened == 1
        await engine.closed.wait()
        assert engine.open == 0

    async def test_a_run_that_has_ended_is_returned_without_a_stream(
        self, engine: Told, client: RunEngineClient
    ) -> None:
        engine.runs = {"run": Run(id="run", status=ENDED)}
        assert (await client.wait("run")).status == ENDED
        assert engine.opened == 0

    async def test_a_run_that_is_followed_is_yielded_when_it_has_changed(
        self, engine: Told, client: RunEngineClient
    ) -> None:
        engine.runs = {"run": (run := Run(id="run", status=RUNNING))}
        seen = []
        async for each in client.follow_run("run", poll=(60, 60)):
            seen.append(each.status)
            if each == run:
                engine.told.put_nowait(transition(RUNNING, "two", run))
                engine.end(run)
        assert seen == [RUNNING, ENDED]

    async def test_a_wait_without_a_stream_asks_again_and_again(
        self, engine: Told, client: RunEngineClient
    ) -> None:
        engine.runs = {"run": (run := Run(id="run", status=RUNNING))}
        wait = asyncio.create_task(client.wait("run", poll=(0.01, 0.01)))
        engine.refuses = True
        engine.told.put_nowait(TOO_MANY)
        await engine.until(lambda: engine.asked(run) == 10)
        engine.runs["run"] = Run(id="run", status=ENDED)
        assert (await wait).status == ENDED

    async def test_a_wait_survives_a_server_that_is_away_for_a_moment(
        self, engine: Told, client: RunEngineClient
    ) -> None:
        engine.runs = {"run": (run := Run(id="run", status=RUNNING))}
        wait = asyncio.create_task(client.wait("run", poll=(60, 60)))
        await engine.until(lambda: engine.asked(run) == 2)
        engine.told.put_nowait(AWAY)
        # Once because the stream has broken off, and once because there is another.
        await engine.until(lambda: engine.asked(run) == 4)
        engine.end(run)
        assert (await wait).status == ENDED
        assert engine.opened == 2
