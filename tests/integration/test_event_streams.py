"""REST streams what WatchRun sends, as Server-Sent Events. Streams are bounded, and end with the process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import httpx
import pytest
from runengine_client import RunEngineClient

from tests.support.own_worker import until
from tests.support.patience import SECONDS
from tests.support.stack import OVER_BOTH, Stack
from tests.support.watching import watching

Event = dict[str, str]


async def events_of(response: httpx.Response) -> AsyncIterator[Event]:
    """The events of a stream, by the rules of HTML."""
    event: Event = {}
    async for line in response.aiter_lines():
        if not line:
            if "data" in event:
                yield event
            event = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


async def all_events(rest: httpx.AsyncClient, path: str, **headers: str) -> list[Event]:
    async with rest.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return [each async for each in events_of(response)]


@OVER_BOTH
async def test_a_stream_of_rest_has_what_rest_shows(client: RunEngineClient, rest: httpx.AsyncClient) -> None:
    run = await client.wait((await client.trigger_run("rejecting")).id)
    path = f"/runs/{run.id}"
    events = await all_events(rest, f"{path}/watch")
    assert [each["event"] for each in events][::2] == ["run", "snapshotEnd"]
    assert json.loads(events[0]["data"]) == (await rest.get(path)).json()
    assert [json.loads(events[1]["data"])] == (await rest.get(f"{path}/steps")).json()["steps"]
    token = events[-1]["id"]
    assert (await rest.get(f"{path}/watch", headers={"Last-Event-ID": token})).status_code == 204
    await client.retry_run(run.id)
    await client.wait(run.id)
    again = await all_events(rest, f"{path}/watch", **{"Last-Event-ID": token})
    timeline = (await rest.get(f"{path}/events")).json()["events"]
    shown = [json.loads(each["data"]) for each in again if each["event"] == "transition"]
    assert shown == timeline[-len(shown) :]
    assert [each["reason"] for each in shown] == ["RETRIED", "CLAIMED", "STEP_FAILED"]
    by_query = await all_events(rest, f"{path}/watch?resumeToken={token}")
    assert [each["data"] for each in by_query] == [each["data"] for each in again]


@OVER_BOTH
async def test_a_stream_that_cannot_begin_is_a_problem(rest: httpx.AsyncClient) -> None:
    absent = await rest.get(f"/runs/{uuid4()}/watch")
    assert (absent.status_code, absent.json()["reason"]) == (404, "RUN_NOT_FOUND")
    malformed = await rest.get(f"/runs/{uuid4()}/watch?resumeToken=x")
    assert malformed.status_code == 400
    assert [each["field"] for each in malformed.json()["violations"]] == ["resumeToken"]


async def test_a_caller_watches_sixteen_runs_at_once(
    stack: Stack, client: RunEngineClient, organisation: str
) -> None:
    run_id = UUID((await client.trigger_run("unserved")).id)
    async with AsyncExitStack() as exits:
        for _ in range(16):
            watched = await exits.enter_async_context(watching(stack, organisation, run_id))
            await watched.until("snapshot_end")
        async with watching(stack, organisation, run_id) as refused:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await refused.next()
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.value.details() == "At most 16 streams may watch runs at once."

    async def again() -> Any:
        async with watching(stack, organisation, run_id) as watched:
            try:
                return await watched.next()
            except grpc.aio.AioRpcError:
                return None

    assert await until(again, bool)


@pytest.mark.parametrize("commands", [["serve"], ["serve", "gateway"]], ids=" ".join)
async def test_a_process_that_stops_ends_its_streams(
    stack: Stack,
    client: RunEngineClient,
    organisation: str,
    database_url: str,
    state_dir: Path,
    commands: list[str],
) -> None:
    run = await client.trigger_run("unserved")
    own = Stack(database_url, state_dir)
    await own.start(*commands, rest_by=commands[-1])
    async with (
        watching(own, organisation, UUID(run.id)) as watched,
        own.rest(own.token(organisation)) as rest,
        rest.stream("GET", f"/runs/{run.id}/watch") as response,
    ):
        token = (await watched.until("snapshot_end")).resume_token
        events = events_of(response)
        while (await anext(events))["event"] != "snapshotEnd":
            pass
        async with asyncio.timeout(SECONDS):
            await own.stop()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await watched.to_the_end()
        assert error.value.code() is grpc.StatusCode.ABORTED
        last = [each async for each in events]
        assert [each["event"] for each in last] == ["problem"]
        assert json.loads(last[0]["data"])["reason"] == "INTERRUPTED"
    await client.cancel_run(run.id)
    async with watching(stack, organisation, UUID(run.id), token) as watched:
        await watched.to_the_end()
    assert [each.transition.reason for each in watched.responses] == ["CANCELLED"]


async def test_a_gateway_that_stops_alone_ends_its_streams_at_once(
    stack: Stack, client: RunEngineClient, organisation: str, database_url: str, state_dir: Path
) -> None:
    run = await client.trigger_run("unserved")
    own = Stack(database_url, state_dir)
    await own.start("gateway", GRPC_ADDRESS=stack.grpc_address)
    async with (
        own.rest(stack.token(organisation)) as rest,
        rest.stream("GET", f"/runs/{run.id}/watch") as response,
    ):
        events = events_of(response)
        while (await anext(events))["event"] != "snapshotEnd":
            pass
        stopping = asyncio.create_task(own.stop())
        assert [json.loads(each["data"])["reason"] async for each in events] == ["INTERRUPTED"]
        await stopping


@OVER_BOTH
async def test_a_stream_that_goes_on_begins_before_there_is_anything_to_say(
    client: RunEngineClient, rest: httpx.AsyncClient
) -> None:
    run = await client.trigger_run("unserved")
    async with rest.stream("GET", f"/runs/{run.id}/watch") as response:
        events = events_of(response)
        while (event := await anext(events))["event"] != "snapshotEnd":
            pass
    headers = {"Last-Event-ID": event["id"]}
    async with rest.stream("GET", f"/runs/{run.id}/watch", headers=headers) as response:
        assert response.status_code == 200
        await client.cancel_run(run.id)
        reasons = [json.loads(each["data"])["reason"] async for each in events_of(response)]
    assert reasons == ["CANCELLED"]


async def test_a_stream_without_a_server_is_one_that_says_so_and_when_to_come_again(
    organisation: str, stack: Stack, database_url: str, state_dir: Path
) -> None:
    own = Stack(database_url, state_dir)
    await own.start("gateway")
    async with own.rest(stack.token(organisation)) as rest:
        (event,) = await all_events(rest, "/runs/watch")
    assert (event["event"], event["retry"]) == ("problem", "1000")
    assert json.loads(event["data"])["reason"] == "UNAVAILABLE"
    await own.stop()
