"""WatchRun sends the run as it is, and each of its transitions once and in order, whatever is lost."""

from __future__ import annotations

import time
from uuid import uuid4

import asyncpg
import grpc
import pytest
from runengine.v1.run_pb2 import RunEvent
from runengine.v1.run_service_pb2 import WatchRunResponse
from runengine_client import RunEngineClient
from runengine_server.domain.caller import Caller
from runengine_server.domain.changes import Scope
from runengine_server.domain.errors import Interrupted
from runengine_server.rpc.run_watches import RunWatches
from runengine_server.rpc.watch_streams import watch_runs

from tests.support.own_worker import Engine, Held, Ran, chain, serving
from tests.support.stack import Stack
from tests.support.watching import Telling, Watched, watching


def transitions(responses: list[WatchRunResponse]) -> list[RunEvent]:
    return [each.transition for each in responses if each.HasField("transition")]


def without_progress(watched: Watched[WatchRunResponse]) -> list[str | None]:
    return [each for each in watched.kinds() if each != "progress"]


def client_of(stack: Stack, engine: Engine) -> RunEngineClient:
    return stack.client(stack.token(engine.tenant_id))


async def test_a_watch_begins_with_the_run_and_its_steps_and_ends_with_the_run(
    stack: Stack, database_url: str
) -> None:
    held = Held()
    async with serving(database_url, chain(one=Ran().node("one"), held=held.node)) as engine:
        run_id = await engine.trigger()
        async with (
            engine.working(),
            client_of(stack, engine) as client,
            watching(stack, engine.tenant_id, run_id) as watched,
        ):
            execution = await held.next()
            async with watching(stack, engine.tenant_id, run_id) as later:
                await later.until("snapshot_end")
                execution.go.set()
                await watched.to_the_end()
                await later.to_the_end()
            events = await client.list_run_events(run_id)
            assert later.responses[0].run.id == str(run_id)
            assert [each.step.step_id for each in later.responses if each.HasField("step")] == ["one", "held"]
        assert without_progress(later) == [
            "run", "step", "step", "snapshot_end", "step_transition", "transition",
        ]  # fmt: skip
        assert transitions(later.responses) == events[-1:]
        assert events[-len(transitions(watched.responses)) :] == transitions(watched.responses)


async def test_a_watch_of_a_run_that_has_ended_ends_after_the_snapshot(
    stack: Stack, database_url: str
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run = await engine.execute()
        async with watching(stack, engine.tenant_id, run.id) as watched:
            await watched.to_the_end()
        assert watched.kinds() == ["run", "step", "snapshot_end"]
        token = watched.responses[-1].resume_token
        async with watching(stack, engine.tenant_id, run.id, token) as again:
            assert await again.to_the_end() == []


async def test_a_watch_goes_on_where_its_token_says(stack: Stack, database_url: str) -> None:
    async with (
        serving(database_url, chain(one=Ran().node("one"))) as engine,
        client_of(stack, engine) as client,
    ):
        run_id = await engine.trigger()
        async with watching(stack, engine.tenant_id, run_id) as watched:
            token = (await watched.until("snapshot_end")).resume_token
        await engine.cancel(run_id)
        await engine.retry(run_id)
        async with watching(stack, engine.tenant_id, run_id, token) as watched:
            await watched.to_the_end()
        token = watched.responses[-1].resume_token
        await engine.process(await engine.claim())
        async with watching(stack, engine.tenant_id, run_id, token) as again:
            await again.to_the_end()
        seen = [*watched.responses, *again.responses]
        assert transitions(seen) == (await client.list_run_events(run_id))[1:]
        assert [each.reason for each in transitions(seen)] == ["CANCELLED", "RETRIED", "CLAIMED", "COMPLETED"]


async def test_a_cancel_ends_a_watch(stack: Stack, database_url: str) -> None:
    held = Held()
    async with serving(database_url, chain(held=held.node)) as engine, engine.working():
        run_id = await engine.trigger()
        await held.next()
        async with watching(stack, engine.tenant_id, run_id) as watched:
            await watched.until("snapshot_end")
            await engine.cancel(run_id)
            await watched.to_the_end()
    assert [each.reason for each in transitions(watched.responses)] == ["CANCELLED"]


async def test_a_change_that_no_notification_tells_is_found(stack: Stack, database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        async with watching(stack, engine.tenant_id, run_id) as watched:
            await watched.until("snapshot_end")
            await engine.cancel(run_id)
            await watched.to_the_end()
    assert [each.reason for each in transitions(watched.responses)] == ["CANCELLED"]


async def test_a_watch_ends_when_its_token_expires(engine: Engine) -> None:
    run_id = await engine.trigger()
    watches = RunWatches(engine.database)
    caller = Caller(engine.tenant_id, "user", expires=time.time() + 0.5)
    seen: list[WatchRunResponse] = []

    async def watch() -> None:
        async for each in watch_runs(watches, caller, Scope(engine.tenant_id, run_id), None):
            seen.append(WatchRunResponse.FromString(each or b""))  # noqa: PERF401 - until it raises

    with pytest.raises(Interrupted):
        await watch()
    assert seen[-1].HasField("snapshot_end")


async def test_a_token_of_another_run_is_refused(stack: Stack, database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        one, other = await engine.trigger(), await engine.trigger()
        async with watching(stack, engine.tenant_id, one) as watched:
            token = (await watched.until("snapshot_end")).resume_token
        await engine.cancel(other)
        for wrong in (token, "x"):
            async with watching(stack, engine.tenant_id, other, wrong) as refused:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await refused.next()
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_run_of_another_tenant_cannot_be_watched(stack: Stack, database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        answers = set()
        for run_id in (await engine.trigger(), uuid4()):
            async with watching(stack, "org_other", run_id) as refused:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await refused.next()
            answers.add((error.value.code(), error.value.details()))
    assert answers == {(grpc.StatusCode.NOT_FOUND, "There is no such run.")}


async def test_a_lost_connection_loses_no_transition_and_is_made_again(
    stack: Stack, database_url: str, database: asyncpg.Connection
) -> None:
    first, second = Telling(), Telling()
    async with (
        serving(database_url, chain(first=first.node, second=second.node)) as engine,
        engine.working(),
        watching(stack, engine.tenant_id, await engine.trigger()) as watched,
    ):
        await watched.until("progress")
        # It also says from time to time what is watched. Other connections that do the same are lost too.
        lost = await database.fetch(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND query ~ '^(LISTEN|NOTIFY) '"""
        )
        assert lost
        first.go.set()
        while (await watched.until("progress")).progress.step_id != "second":
            pass
        second.go.set()
        await watched.to_the_end()
    assert [each.reason for each in transitions(watched.responses)][-1] == "COMPLETED"
