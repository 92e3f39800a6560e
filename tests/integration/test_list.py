"""The list of a campaign: order, filter, totals and pages."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
from runengine.v1.run_pb2 import Run
from runengine_client import InvalidArgument, RunEngineClient

from tests.support.stack import Stack


async def trigger(client: RunEngineClient, campaign_id: str, number: int) -> list[Run]:
    room = asyncio.Semaphore(16)

    async def one() -> Run:
        async with room:
            return await client.trigger_run("unserved", campaign_id=campaign_id)

    return list(await asyncio.gather(*(one() for _ in range(number))))


async def pages(
    client: RunEngineClient, campaign_id: str, size: int, status: tuple[str, ...] = ()
) -> AsyncIterator[list[str]]:
    token: str | None = None
    while True:
        page = await client.list_campaign_runs(campaign_id, status=status, limit=size, page_token=token)
        yield [run.id for run in page.runs]
        if not page.HasField("next_page_token"):
            return
        token = page.next_page_token


async def test_a_thousand_runs_of_one_moment_each_appear_once_under_inserts(
    client: RunEngineClient, database: asyncpg.Connection
) -> None:
    campaign_id = str(uuid.uuid4())
    ids = [run.id for run in await trigger(client, campaign_id, 1000)]
    await database.execute(
        "UPDATE runs SET created_at = '2026-01-01T00:00:00Z' WHERE campaign_id = $1", campaign_id
    )
    expected = sorted(ids, reverse=True)
    for size in (7, 50):
        seen: list[str] = []
        async for page in pages(client, campaign_id, size):
            if len(seen) in (0, size * 3):
                await trigger(client, campaign_id, 3)
            seen += page
        new = [each for each in seen if each not in set(ids)]
        assert [each for each in seen if each not in set(new)] == expected
        assert len(seen) == len(set(seen))
    first = [page async for page in pages(client, str(uuid.uuid4()), 1)]
    assert first == [[]]


async def test_runs_of_one_moment_are_in_the_order_of_their_ids_whatever_their_status(
    client: RunEngineClient, database: asyncpg.Connection
) -> None:
    campaign_id = str(uuid.uuid4())
    ids = [run.id for run in await trigger(client, campaign_id, 20)]
    for run_id in ids[::2]:
        await client.cancel_run(run_id)
    await database.execute(
        "UPDATE runs SET created_at = '2026-01-01T00:00:00Z' WHERE campaign_id = $1", campaign_id
    )
    both = pages(client, campaign_id, 7, ("queued", "cancelled"))
    assert [run_id async for page in both for run_id in page] == sorted(ids, reverse=True)


async def test_pages_of_any_size_make_up_the_whole_list(client: RunEngineClient) -> None:
    campaign_id = str(uuid.uuid4())
    await trigger(client, campaign_id, 12)
    whole = [run.id for run in (await client.list_campaign_runs(campaign_id, limit=100)).runs]
    assert [page async for page in pages(client, campaign_id, 1)] == [[each] for each in whole]
    assert [page async for page in pages(client, campaign_id, 12)] == [whole]
    assert [page async for page in pages(client, campaign_id, 13)] == [whole]


async def test_statuses_are_counted_and_filtered_together(client: RunEngineClient) -> None:
    campaign_id = str(uuid.uuid4())
    queued = await trigger(client, campaign_id, 5)
    for run in queued[:2]:
        await client.cancel_run(run.id)
    rejected = await client.trigger_run("rejecting", campaign_id=campaign_id)
    await client.wait(rejected.id)
    everything = [run.id for run in (await client.list_campaign_runs(campaign_id)).runs]
    page = await client.list_campaign_runs(campaign_id, status=("failed", "cancelled", "failed"), limit=2)
    ended = {run.id for run in queued[:2]} | {rejected.id}
    assert page.total == 3
    assert [run.id for run in page.runs] == [each for each in everything if each in ended][:2]
    assert (page.status_counts.queued, page.status_counts.cancelled, page.status_counts.failed) == (3, 2, 1)
    following = [each async for each in pages(client, campaign_id, 2, ("cancelled", "failed"))]
    assert following == [
        [each for each in everything if each in ended][:2],
        [each for each in everything if each in ended][2:],
    ]
    past = await client.list_campaign_runs(campaign_id, status="failed", offset=50)
    assert (list(past.runs), past.total) == ([], 1)


async def test_a_page_token_belongs_to_its_query(stack: Stack, client: RunEngineClient) -> None:
    campaign_id, other = str(uuid.uuid4()), str(uuid.uuid4())
    await trigger(client, campaign_id, 3)
    token = (await client.list_campaign_runs(campaign_id, limit=1)).next_page_token
    async with stack.client(stack.token(f"org_{uuid.uuid4().hex}")) as foreign:
        for asking, arguments in (
            (client, {"campaign_id": other}),
            (client, {"campaign_id": campaign_id, "status": "failed"}),
            (client, {"campaign_id": campaign_id, "offset": 0}),
            (foreign, {"campaign_id": campaign_id}),
        ):
            with pytest.raises(InvalidArgument):
                await asking.list_campaign_runs(**arguments, page_token=token)
    for flawed in ("x", token[:-4], token + "AAAA", token.swapcase()):
        with pytest.raises(InvalidArgument) as refused:
            await client.list_campaign_runs(campaign_id, page_token=flawed)
        assert [each.field for each in refused.value.violations] == ["page_token"]


@pytest.mark.parametrize("offset", [None, 0, 1])
async def test_an_empty_page_token_is_none(
    client: RunEngineClient, rest: httpx.AsyncClient, offset: int | None
) -> None:
    campaign_id = str(uuid.uuid4())
    await trigger(client, campaign_id, 3)
    plain = await client.list_campaign_runs(campaign_id, limit=2, offset=offset)
    assert await client.list_campaign_runs(campaign_id, limit=2, offset=offset, page_token="") == plain
    query = "limit=2&pageToken=" + ("" if offset is None else f"&offset={offset}")
    page = (await rest.get(f"/campaigns/{campaign_id}/runs?{query}")).json()
    assert [run["id"] for run in page["runs"]] == [run.id for run in plain.runs]


async def test_the_total_and_the_page_are_of_one_moment(client: RunEngineClient) -> None:
    """While runs are triggered and cancelled, every answer adds up by itself."""
    campaign_id = str(uuid.uuid4())

    async def stir() -> None:
        for run in await trigger(client, campaign_id, 60):
            await client.cancel_run(run.id)

    stirring = asyncio.create_task(stir())
    looks = 0
    while not stirring.done() or looks == 0:
        page = await client.list_campaign_runs(campaign_id, limit=100)
        counts = page.status_counts
        assert page.total == len(page.runs) == counts.queued + counts.cancelled
        queued = await client.list_campaign_runs(campaign_id, status="queued", limit=100)
        assert queued.total == len(queued.runs) == queued.status_counts.queued
        looks += 1
    await stirring


async def test_rest_pages_with_camel_case_words(rest: httpx.AsyncClient) -> None:
    campaign_id = str(uuid.uuid4())
    for _ in range(3):
        body = {"workflowName": "unserved", "context": {"campaignId": campaign_id}}
        assert (await rest.post("/runs", json=body)).status_code == 201
    path = f"/campaigns/{campaign_id}/runs"
    first = (await rest.get(path, params={"limit": 2, "status": ["queued", "failed"]})).json()
    assert (len(first["runs"]), first["total"]) == (2, 3)
    token = {"limit": 2, "status": ["failed", "queued"], "pageToken": first["nextPageToken"]}
    second = (await rest.get(path, params=token)).json()
    assert (len(second["runs"]), second["nextPageToken"], second["offset"]) == (1, None, 0)
