"""The steps and the timeline of a run come in pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from runengine.v1.run_pb2 import Run
from runengine.v1.run_service_pb2 import ListRunEventsRequest, ListRunStepsRequest
from runengine.v1.run_service_pb2_grpc import RunServiceStub
from runengine_client import RunEngineClient

from tests.support.patience import SECONDS
from tests.support.stack import Stack

REQUESTS: dict[str, Any] = {"steps": ListRunStepsRequest, "events": ListRunEventsRequest}
LISTS = pytest.mark.parametrize("kind", list(REQUESTS))


class Pages:
    """Asks for single pages."""

    def __init__(self, stub: RunServiceStub, token: str) -> None:
        self._methods: dict[str, Any] = {"steps": stub.ListRunSteps, "events": stub.ListRunEvents}
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def page(self, kind: str, run: Run, **more: Any) -> Any:
        request = REQUESTS[kind](run_id=run.id, **more)
        return await self._methods[kind](request, metadata=self._metadata, timeout=SECONDS)

    async def all(self, kind: str, run: Run, limit: int) -> list[Message]:
        found: list[Message] = []
        token = ""
        while True:
            page = await self.page(kind, run, limit=limit, page_token=token)
            assert len(getattr(page, kind)) <= page.limit == limit
            found += getattr(page, kind)
            if not page.HasField("next_page_token"):
                return found
            token = page.next_page_token


@pytest.fixture
async def pages(stack: Stack, organisation: str) -> AsyncIterator[Pages]:
    async with grpc.aio.insecure_channel(stack.grpc_address) as channel:
        yield Pages(RunServiceStub(channel), stack.token(organisation))


async def failed_twice(client: RunEngineClient) -> Run:
    run = await client.wait((await client.trigger_run("rejecting")).id)
    await client.retry_run(run.id)
    return await client.wait(run.id)


async def run_of(client: RunEngineClient, kind: str) -> Run:
    if kind == "events":
        return await failed_twice(client)
    return await client.wait((await client.trigger_run("everything")).id)


@LISTS
async def test_pages_of_any_size_make_up_the_whole_list(
    client: RunEngineClient, pages: Pages, kind: str
) -> None:
    run = await run_of(client, kind)
    whole = await pages.page(kind, run)
    assert whole.limit == 1000
    assert not whole.HasField("next_page_token")
    number = len(getattr(whole, kind))
    assert number > 5
    for limit in (1, 4, number, number + 1):
        assert await pages.all(kind, run, limit) == list(getattr(whole, kind))


async def test_the_pages_of_an_attempt_are_those_of_its_steps(client: RunEngineClient, pages: Pages) -> None:
    run = await failed_twice(client)
    first = await pages.page("steps", run, attempt=1, limit=1)
    assert [step.attempt for step in first.steps] == [1]
    assert not first.HasField("next_page_token")


@LISTS
async def test_a_token_belongs_to_its_run_and_its_list(
    client: RunEngineClient, rest: httpx.AsyncClient, pages: Pages, kind: str
) -> None:
    run, other = await run_of(client, kind), await run_of(client, kind)
    (another,) = REQUESTS.keys() - {kind}
    token = (await pages.page(kind, run, limit=1)).next_page_token
    for run_id, name, given in (
        (other.id, kind, token),
        (run.id, another, token),
        (run.id, kind, "nonsense"),
    ):
        refused = await rest.get(f"/runs/{run_id}/{name}", params={"pageToken": given})
        assert refused.status_code == 400
        assert refused.json()["violations"] == [
            {"field": "pageToken", "description": "is not a token of this run"}
        ]
    page = (await rest.get(f"/runs/{run.id}/{kind}", params={"pageToken": token, "limit": 1})).json()
    assert len(page[kind]) == page["limit"] == 1


async def test_the_client_and_the_command_read_all_pages(
    client: RunEngineClient, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await run_of(client, "steps")
    for request in REQUESTS.values():
        small = partial(request, limit=2)
        monkeypatch.setattr(f"runengine_client.client.{request.__name__}", small)
    assert await client.list_run_steps(run.id) == list((await pages.page("steps", run)).steps)
    assert await client.list_run_events(run.id) == list((await pages.page("events", run)).events)
