"""The runs of a tenant, found by status, workflow, campaign, error, age and whether they wait."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from runengine.v1.run_pb2 import Run
from runengine_client import InvalidArgument, RunEngineClient
from runengine_server.domain.ids import NOT_A_UUID

from tests.support.stack import Stack

FILTERS: dict[str, Any] = {
    "status": "failed",
    "workflow_name": "unserved",
    "campaign_id": str(uuid.uuid4()),
    "error_code": "STEP_FAILED",
    "waiting": True,
}
TOGETHER_NOT = [
    ("campaign_id", "workflow_name"),
    ("error_code", "status"),
    ("waiting", "status"),
    ("waiting", "error_code"),
]


@pytest.fixture
async def alone(stack: Stack) -> AsyncIterator[RunEngineClient]:
    """A client of a tenant that has no runs yet."""
    token = stack.token(f"org_{uuid.uuid4().hex}")
    async with RunEngineClient(stack.grpc_address, token) as client:
        yield client


async def found(client: RunEngineClient, **wanted: Any) -> list[str]:
    return [run.id async for run in client.iterate_runs(**wanted, page_size=2)]


async def trigger(client: RunEngineClient, number: int, **of: Any) -> list[Run]:
    return [await client.trigger_run("unserved", **of) for _ in range(number)]


async def test_runs_are_found_most_recent_first_each_once_in_pages_of_any_size(
    alone: RunEngineClient, database: asyncpg.Connection
) -> None:
    ids = [run.id for run in await trigger(alone, 7)]
    for run_id in ids[::2]:
        await alone.cancel_run(run_id)
    await database.execute("UPDATE runs SET created_at = '2026-01-01' WHERE id = ANY($1::uuid[])", ids)
    ids += [run.id for run in await trigger(alone, 2)]
    for size in (1, 4, 9, 10):
        pages = [run.id async for run in alone.iterate_runs(page_size=size)]
        assert pages == ids[:6:-1] + sorted(ids[:7], reverse=True)


async def test_each_filter_takes_what_it_says_and_no_more(alone: RunEngineClient) -> None:
    campaign_id = str(uuid.uuid4())
    (queued,) = await trigger(alone, 1)
    (of_campaign,) = await trigger(alone, 1, campaign_id=campaign_id)
    cancelled = await alone.cancel_run((await trigger(alone, 1))[0].id)
    failed = await alone.wait((await alone.trigger_run("rejecting", campaign_id=campaign_id)).id)
    waits = await alone.trigger_run("asking")
    async for run in alone.follow_run(waits.id):
        if run.waiting_for:
            break
    assert await found(alone) == [waits.id, failed.id, cancelled.id, of_campaign.id, queued.id]
    assert await found(alone, status="queued") == [of_campaign.id, queued.id]
    assert await found(alone, status=("failed", "cancelled")) == [failed.id, cancelled.id]
    assert await found(alone, workflow_name="unserved") == [cancelled.id, of_campaign.id, queued.id]
    assert await found(alone, workflow_name="unserved", status="cancelled") == [cancelled.id]
    assert await found(alone, campaign_id=campaign_id.upper()) == [failed.id, of_campaign.id]
    assert await found(alone, campaign_id=campaign_id, status="queued") == [of_campaign.id]
    assert await found(alone, error_code=failed.error.code) == [failed.id]
    assert await found(alone, error_code="WORKER_LOST") == []
    assert await found(alone, error_code="\0") == await found(alone, workflow_name="a\0b") == []
    assert await found(alone, error_code=failed.error.code, workflow_name="rejecting") == [failed.id]
    assert await found(alone, error_code=failed.error.code, campaign_id=campaign_id) == [failed.id]
    assert await found(alone, waiting=True) == [waits.id]
    assert await found(alone, waiting=True, workflow_name="asking") == [waits.id]
    assert await found(alone, waiting=True, campaign_id=campaign_id) == []
    await alone.cancel_run(waits.id)
    assert await found(alone, waiting=True) == []


async def test_a_span_of_time_has_its_begin_and_not_its_end(alone: RunEngineClient) -> None:
    runs = await trigger(alone, 3)
    first, second, third = [run.created_at.ToDatetime(UTC) for run in runs]
    assert await found(alone, created_after=second, created_before=third) == [runs[1].id]
    assert await found(alone, created_before=first) == []
    assert await found(alone, created_after=third + timedelta(milliseconds=1)) == []
    with pytest.raises(ValueError, match="time zone"):
        await alone.list_runs(created_after=datetime(2026, 1, 1))


async def test_a_tenant_finds_its_own_runs_alone(alone: RunEngineClient, client: RunEngineClient) -> None:
    (other,) = await trigger(client, 1)
    (own,) = await trigger(alone, 1)
    assert await found(alone) == [own.id]
    assert other.id in await found(client)


@pytest.mark.parametrize(("refused", "first"), TOGETHER_NOT)
async def test_filters_without_an_index_are_refused_together(
    client: RunEngineClient, refused: str, first: str
) -> None:
    with pytest.raises(InvalidArgument) as error:
        await client.list_runs(**{name: FILTERS[name] for name in (refused, first)})
    assert [(each.field, each.description) for each in error.value.violations] == [
        (refused, f"goes with no {first}")
    ]


async def test_a_page_token_belongs_to_its_tenant_and_filters(
    alone: RunEngineClient, client: RunEngineClient
) -> None:
    await trigger(alone, 2)
    token = (await alone.list_runs(status=("queued", "failed"), limit=1)).next_page_token
    assert (await alone.list_runs(status=("failed", "queued"), limit=5, page_token=token)).runs
    for other, wanted in ((alone, {"status": "queued"}), (client, {"status": ("queued", "failed")})):
        with pytest.raises(InvalidArgument, match="page_token"):
            await other.list_runs(**wanted, page_token=token)
    with pytest.raises(InvalidArgument, match="page_token"):
        await alone.list_runs(page_token="nonsense")


async def test_rest_finds_what_grpc_finds(client: RunEngineClient, rest: httpx.AsyncClient) -> None:
    campaign_id = str(uuid.uuid4())
    runs = await trigger(client, 3, campaign_id=campaign_id)
    await client.cancel_run(runs[0].id)
    since = runs[0].created_at.ToJsonString()
    query: dict[str, Any] = {
        "campaignId": campaign_id,
        "status": ["queued", "cancelled"],
        "createdAfter": since,
        "limit": 2,
    }
    first = (await rest.get("/runs", params=query)).json()
    assert [run["id"] for run in first["runs"]] == [runs[2].id, runs[1].id]
    second = (await rest.get("/runs", params={**query, "pageToken": first["nextPageToken"]})).json()
    assert [run["id"] for run in second["runs"]] == [runs[0].id]
    assert (second["limit"], second["nextPageToken"]) == (2, None)
    assert (await rest.get("/runs", params={"waiting": "false", "limit": 1})).status_code == 200


@pytest.mark.parametrize(
    ("name", "value", "description"),
    [
        ("createdAfter", "yesterday", "must be a time such as 2026-01-31T09:30:00Z"),
        ("createdBefore", "2026-01-31", "must be a time such as 2026-01-31T09:30:00Z"),
        ("waiting", "yes", "must be true or false"),
        ("workflowName", "", "must not be empty"),
        ("campaignId", "mine", NOT_A_UUID),
        ("limit", "101", "must be 1 to 100"),
        ("offset", "1", "is no parameter of this path"),
    ],
)
async def test_a_query_that_is_wrong_is_refused_in_words(
    rest: httpx.AsyncClient, name: str, value: str, description: str
) -> None:
    response = await rest.get("/runs", params={name: value})
    assert response.status_code == 400
    assert response.json()["violations"] == [{"field": name, "description": description}]
