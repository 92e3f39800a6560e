"""WatchCampaignRuns and WatchRuns send each transition of several runs and of their steps once, those of one
run in order, whatever is lost and whichever transaction commits last.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
from runengine.error_reasons import REASONS
from runengine.v1.run_pb2 import RunStatus, StepStatus
from runengine.v1.watch_runs_pb2 import WatchRunsResponse
from runengine_server.database.functions import schema
from runengine_server.domain import page_token
from runengine_server.domain.caller import Caller
from runengine_server.domain.changes import Change, Changes, Position, Scope
from runengine_server.domain.errors import ResumeTokenExpired
from runengine_server.rpc.run_watch import MAX_WAITING, RunWatch
from runengine_server.rpc.run_watches import RunWatches
from runengine_server.rpc.watch_streams import watch_runs

from tests.support.own_worker import Engine, Held, Ran, chain, fork, serving
from tests.support.stack import Stack
from tests.support.watching import Telling, Watched, watching_runs

NUMBERED = """SELECT run_id, what, status FROM (
    SELECT run_id, 'run' AS what, to_status AS status, seq FROM run_events WHERE tenant_id = $1
    UNION ALL SELECT run_id, id || ' ' || attempt, status, seq FROM step_events WHERE tenant_id = $1
) AS logged ORDER BY seq"""

Shown = tuple[str, str, str]


def shown(responses: Iterable[WatchRunsResponse]) -> list[Shown]:
    """The transitions among them: run, what has changed, and to which status."""
    found = []
    for each in responses:
        if each.HasField("transition"):
            status = RunStatus.Name(each.transition.event.to_status).removeprefix("RUN_STATUS_")
            found.append((each.transition.run_id, "run", status.lower()))
        elif each.HasField("step_transition"):
            step = each.step_transition.step
            status = StepStatus.Name(step.status).removeprefix("STEP_STATUS_")
            found.append((each.step_transition.run_id, f"{step.id} {step.attempt}", status.lower()))
    return found


def by_run(transitions: Iterable[Shown]) -> dict[str, list[Shown]]:
    found = defaultdict(list)
    for each in transitions:
        found[each[0]].append(each)
    return dict(found)


async def logged(database: asyncpg.Connection, engine: Engine) -> list[Shown]:
    """All transitions of the tenant, from the tables."""
    return [
        (str(run), what, status) for run, what, status in await database.fetch(NUMBERED, engine.tenant_id)
    ]


async def until_ended(watched: Watched[WatchRunsResponse], run_ids: Sequence[UUID]) -> None:
    """Reads until each of them has ended."""
    running = {str(each) for each in run_ids}
    while running:
        transition = (await watched.until("transition")).transition
        if transition.event.to_status not in (RunStatus.RUN_STATUS_QUEUED, RunStatus.RUN_STATUS_RUNNING):
            running.discard(transition.run_id)


async def test_a_watch_of_a_campaign_has_each_transition_of_its_runs_and_of_no_other(
    stack: Stack, database_url: str, database: asyncpg.Connection
) -> None:
    graph = fork(one=Ran().node("one"), two=Ran().node("two"))
    async with serving(database_url, graph) as engine:
        campaign_id = uuid4()
        async with watching_runs(stack, engine.tenant_id, campaign_id) as watched:
            await watched.until("snapshot_end")
            assert len(watched.responses) == 1
            async with engine.working():
                others = [await engine.trigger() for _ in range(3)]
                run_ids = [await engine.trigger(campaign_id=campaign_id) for _ in range(10)]
                await until_ended(watched, run_ids)
        of_campaign = [each for each in await logged(database, engine) if UUID(each[0]) not in others]
        assert by_run(shown(watched.responses)) == by_run(of_campaign)
        (first, *_) = [each.transition for each in watched.responses if each.HasField("transition")]
        assert (first.workflow_name, first.campaign_id) == (engine.workflow, str(campaign_id))


async def test_a_watch_of_all_runs_begins_with_the_last_ones_and_steps_of_those_that_run(
    stack: Stack, database_url: str
) -> None:
    held = Held()
    async with (
        serving(database_url, chain(one=Ran().node("one"), held=held.node)) as engine,
        engine.working(),
    ):
        run_ids = [await engine.trigger() for _ in range(3)]
        executions = [await held.next() for _ in run_ids]
        oldest = next(each for each in executions if each.run_id == run_ids[0])
        async with watching_runs(stack, engine.tenant_id) as watched:
            await watched.until("snapshot_end")
            assert [each.run.id for each in watched.responses[:3]] == [str(each) for each in run_ids[::-1]]
            steps = [each.step for each in watched.responses if each.HasField("step")]
            assert [(each.run_id, each.step.step_id) for each in steps] == [
                (str(run_id), name) for run_id in run_ids[::-1] for name in ("one", "held")
            ]
        async with watching_runs(stack, engine.tenant_id, snapshot_limit=1) as watched:
            await watched.until("snapshot_end")
            assert [each.WhichOneof("event") for each in watched.responses] == [
                "run", "step", "step", "snapshot_end",
            ]  # fmt: skip
            oldest.go.set()
            await until_ended(watched, run_ids[:1])


async def test_a_transition_that_commits_after_a_later_one_comes_once(
    stack: Stack, database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        late, early, last = [await engine.trigger() for _ in range(3)]
        async with watching_runs(stack, engine.tenant_id) as watched:
            await watched.until("snapshot_end")
            async with database.transaction():
                await database.fetch(
                    f"SELECT * FROM {schema()}.cancel_run($1, $2, 'user_late', NULL, NULL, NULL)",
                    engine.tenant_id,
                    late,
                )
                await engine.cancel(early)
                token = (await watched.until("transition")).resume_token
            # What is missed before the last one would not come after it.
            await engine.cancel(last)
            await until_ended(watched, [last])
        ended = [each for each, _, _ in shown(watched.responses)]
        assert ended == [str(early), str(late), str(last)]
        async with watching_runs(stack, engine.tenant_id, resume_token=token) as again:
            await until_ended(again, [last])
        assert [each for each, _, _ in shown(again.responses)] == ended[1:]


async def test_a_watch_goes_on_after_any_of_its_messages_with_those_after_it(
    stack: Stack, database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, fork(one=Ran().node("one"), two=Ran().node("two"))) as engine:
        async with watching_runs(stack, engine.tenant_id) as watched, engine.working():
            await watched.until("snapshot_end")
            await until_ended(watched, [await engine.trigger() for _ in range(4)])
        expected = await logged(database, engine)
        assert Counter(shown(watched.responses)) == Counter(expected)
        for number, response in enumerate(watched.responses):
            rest = shown(watched.responses[number + 1 :])
            async with watching_runs(stack, engine.tenant_id, resume_token=response.resume_token) as again:
                while len(shown(again.responses)) < len(rest):
                    assert await again.next()
            assert by_run(shown(again.responses)) == by_run(rest)
            assert {each.WhichOneof("event") for each in again.responses} <= {"transition", "step_transition"}


async def test_a_watch_shows_nothing_of_another_tenant(stack: Stack, database_url: str) -> None:
    campaign_id = uuid4()
    async with (
        serving(database_url, chain(one=Ran().node("one"))) as engine,
        serving(database_url, chain(one=Ran().node("one"))) as other,
        watching_runs(stack, engine.tenant_id, campaign_id) as own,
        watching_runs(stack, other.tenant_id, campaign_id) as of_campaign,
        watching_runs(stack, other.tenant_id) as of_all,
    ):
        for watched in (own, of_campaign, of_all):
            await watched.until("snapshot_end")
        await engine.trigger(campaign_id=campaign_id)
        await own.until("transition")
        theirs = await other.trigger(campaign_id=campaign_id)
        for watched in (of_campaign, of_all):
            await watched.until("transition")
            assert shown(watched.responses) == [(str(theirs), "run", "queued")]


async def refusal(watched: Watched[Any]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await watched.next()
    return str(error.value.code().name)


async def test_a_token_of_another_stream_is_refused(stack: Stack, database_url: str) -> None:
    campaign_id = uuid4()
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        async with watching_runs(stack, engine.tenant_id, campaign_id) as watched:
            token = (await watched.until("snapshot_end")).resume_token
        for tenant_id, of in (
            (engine.tenant_id, None),
            (engine.tenant_id, uuid4()),
            ("org_other", campaign_id),
        ):
            async with watching_runs(stack, tenant_id, of, resume_token=token) as refused:
                assert await refusal(refused) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("snapshot", ["8999999999999999999:9000000000000000000:", "1:1:"])
async def test_a_token_of_the_future_or_of_too_long_ago_has_expired(
    stack: Stack, database_url: str, database: asyncpg.Connection, snapshot: str
) -> None:
    assert REASONS["RESUME_TOKEN_EXPIRED"].code is grpc.StatusCode.OUT_OF_RANGE
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        await engine.execute()
        await database.execute(
            "UPDATE run_events SET at = at - interval '2 days' WHERE tenant_id = $1", engine.tenant_id
        )
        token = page_token.encode_position(Position(snapshot), Scope(engine.tenant_id))
        async with watching_runs(stack, engine.tenant_id, resume_token=token) as refused:
            assert await refusal(refused) == "OUT_OF_RANGE"


async def test_a_watch_of_several_runs_has_their_progress_where_it_asks_for_it(
    stack: Stack, database_url: str
) -> None:
    telling, campaign_id = Telling(), uuid4()
    async with (
        serving(database_url, chain(telling=telling.node)) as engine,
        engine.working(),
        watching_runs(stack, engine.tenant_id, campaign_id, with_progress=True) as told,
        watching_runs(stack, engine.tenant_id, campaign_id) as untold,
    ):
        for watched in (told, untold):
            await watched.until("snapshot_end")
        run_id = await engine.trigger(campaign_id=campaign_id)
        assert (await told.until("progress")).progress.run_id == str(run_id)
        telling.go.set()
        for watched in (told, untold):
            await until_ended(watched, [run_id])
    assert untold.progress() == []


async def next_of(stream: AsyncIterator[bytes | None]) -> WatchRunsResponse:
    encoded = await anext(stream)
    return WatchRunsResponse.FromString(encoded or b"")


def test_a_watch_keeps_a_bounded_number_of_transitions() -> None:
    watch, change = RunWatch(Scope("org")), Change(1, uuid4(), "workflow", None, 1, None, None)
    for number in range(1, 4):
        batch = [change] * MAX_WAITING
        watch.add_changes(
            Changes("1:1:", f"{number + 1}:{number + 1}:", batch, is_whole=True, is_latest=True)
        )
    assert watch.is_behind
    assert watch.position == Position("2:2:")
    assert len(list(watch.take_changes())) == MAX_WAITING


async def test_a_reader_who_is_slow_gets_all_of_it_once(
    engine: Engine, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runengine_server.rpc.run_watch.MAX_WAITING", 4)
    monkeypatch.setattr("runengine_server.repositories.change_repository.MAX_CHANGES", 3)
    run_id = await engine.trigger()
    watches, scope = RunWatches(engine.database), Scope(engine.tenant_id)
    stream = watch_runs(watches, Caller(engine.tenant_id, "user"), scope, None, limit=0)
    assert await anext(stream)
    # The reader runs from the first wait on.
    await engine.cancel(run_id)
    responses = [await next_of(stream)]
    for _ in range(15):
        await engine.retry(run_id)
        await engine.cancel(run_id)
    # By now it has read as much as may wait, and no more.
    expected = (await logged(database, engine))[1:]
    while len(responses) < len(expected):
        responses.append(await next_of(stream))
    assert shown(responses) == expected
    await stream.aclose()


async def test_a_token_after_which_too_much_has_happened_has_expired(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await engine.trigger()
    watches, scope = RunWatches(engine.database), Scope(engine.tenant_id)
    position = (await watches.changes.begin(scope, 0)).position
    assert (await watches.changes.resume(scope, position)).can_go_on
    await engine.cancel(run_id)
    monkeypatch.setattr("runengine_server.repositories.change_repository.MAX_MISSED", 1)
    stream = watch_runs(watches, Caller(engine.tenant_id, "user"), scope, position)
    with pytest.raises(ResumeTokenExpired):
        await anext(stream)
