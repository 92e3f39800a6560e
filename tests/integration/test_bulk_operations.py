"""Many runs, retried and cancelled by one operation, as callers see it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from runengine.v1 import bulk_operation_service_pb2 as pb
from runengine.v1.list_runs_pb2 import ListRunsRequest
from runengine.v1.run_pb2 import Run, RunStatus
from runengine_client import (
    BulkOperationCompleted,
    BulkOperationNotFound,
    BulkOperationTooLarge,
    IdempotencyKeyReused,
    InvalidArgument,
    RunEngineClient,
)
from runengine_server.domain.bulk_operation import MAX_RUNS
from runengine_server.domain.ids import NOT_A_UUID

from tests.support.patience import SECONDS
from tests.support.stack import Stack

# So slow that the test is over before the second batch.
SLOW = 1


async def queued(client: RunEngineClient, number: int, **of: Any) -> list[Run]:
    return [await client.trigger_run("unserved", **of) for _ in range(number)]


async def ended(client: RunEngineClient, operation: pb.BulkOperation) -> pb.BulkOperation:
    return await client.wait_for_bulk_operation(operation.id, timeout_seconds=SECONDS)


async def outcomes(client: RunEngineClient, operation: pb.BulkOperation, **of: Any) -> dict[str, str]:
    """By the id of each run, what became of it."""
    return {
        item.run_id: item.reason or pb.BulkOutcome.Name(item.outcome)[13:].lower()
        async for item in client.iterate_bulk_operation_items(operation.id, page_size=2, **of)
    }


def refused(operation: pb.BulkOperation) -> dict[str, int]:
    return {each.reason: each.count for each in operation.refused}


@pytest.fixture
async def other(stack: Stack) -> AsyncIterator[RunEngineClient]:
    """A client of another tenant."""
    async with stack.client(stack.token(f"org_{uuid.uuid4().hex}")) as client:
        yield client


async def test_runs_that_a_filter_finds_are_cancelled_or_refused_with_a_reason(
    client: RunEngineClient,
) -> None:
    campaign_id = str(uuid.uuid4())
    runs = await queued(client, 3, campaign_id=campaign_id)
    cancelled = await client.cancel_run((await queued(client, 1, campaign_id=campaign_id))[0].id)
    completed = await client.wait((await client.trigger_run("two-artifacts", campaign_id=campaign_id)).id)
    (outside,) = await queued(client, 1)
    operation = await client.create_bulk_operation("cancel", campaign_id=campaign_id, reason="wrong brief")
    assert (operation.matched, operation.done, operation.pending) == (5, 0, 5)
    operation = await ended(client, operation)
    assert operation.status == pb.BULK_OPERATION_STATUS_COMPLETED
    assert (operation.done, refused(operation), operation.pending) == (4, {"RUN_TERMINAL": 1}, 0)
    assert (operation.reason, operation.actor, operation.filter.campaign_id) == (
        "wrong brief",
        "user_test",
        campaign_id,
    )
    assert await outcomes(client, operation) == {
        **{run.id: "done" for run in runs},
        cancelled.id: "done",
        completed.id: "RUN_TERMINAL",
    }
    counts = (await client.list_campaign_runs(campaign_id)).status_counts
    assert (counts.queued, counts.cancelled, counts.completed) == (0, 4, 1)
    assert await client.get_run(cancelled.id) == cancelled
    assert (await client.get_run(outside.id)).status == RunStatus.RUN_STATUS_QUEUED


async def test_named_runs_are_retried_each_once(client: RunEngineClient, other: RunEngineClient) -> None:
    failed = await client.wait((await client.trigger_run("rejecting")).id)
    (cancelled,) = await queued(client, 1)
    await client.cancel_run(cancelled.id)
    (active,), (foreign,) = await queued(client, 1), await queued(other, 1)
    completed = await client.wait((await client.trigger_run("two-artifacts")).id)
    unknown = str(uuid.uuid4())
    ids = [failed.id, cancelled.id, active.id, completed.id, foreign.id, unknown]
    operation = await client.create_bulk_operation("retry", ids=[*ids, cancelled.id.upper(), failed.id])
    operation = await ended(client, operation)
    assert not operation.HasField("filter")
    assert operation.matched == len(ids)
    found = await outcomes(client, operation)
    assert list(found.items()) == [
        (failed.id, "done"),
        (cancelled.id, "done"),
        (active.id, "RUN_ACTIVE"),
        (completed.id, "RUN_NOT_RETRYABLE"),
        (foreign.id, "RUN_NOT_FOUND"),
        (unknown, "RUN_NOT_FOUND"),
    ]
    assert refused(operation) == {"RUN_ACTIVE": 1, "RUN_NOT_FOUND": 2, "RUN_NOT_RETRYABLE": 1}
    assert (await client.get_run(cancelled.id)).attempt == 2
    assert (await client.wait(failed.id)).attempt == 2
    assert (await other.get_run(foreign.id)).status == RunStatus.RUN_STATUS_QUEUED


async def test_each_transition_names_its_operation(client: RunEngineClient, rest: httpx.AsyncClient) -> None:
    (run,) = await queued(client, 1)
    cancelling = await ended(client, await client.create_bulk_operation("cancel", ids=[run.id]))
    retrying = await ended(client, await client.create_bulk_operation("retry", ids=[run.id]))
    await client.cancel_run(run.id)
    events = (await rest.get(f"/runs/{run.id}/events")).json()["events"]
    assert [(event["reason"], event["actor"], event["bulkOperationId"]) for event in events] == [
        ("TRIGGERED", "user_test", None),
        ("CANCELLED", "user_test", cancelling.id),
        ("RETRIED", "user_test", retrying.id),
        ("CANCELLED", "user_test", None),
    ]
    assert [event.bulk_operation_id for event in await client.list_run_events(run.id)] == [
        "",
        cancelling.id,
        retrying.id,
        "",
    ]


async def test_a_watch_tells_which_operation_cancels(client: RunEngineClient) -> None:
    (run,) = await queued(client, 1)
    operation = None
    async for response in client.watch_run(run.id):
        if response.HasField("snapshot_end"):
            operation = await client.create_bulk_operation("cancel", ids=[run.id])
        elif response.HasField("transition"):
            assert operation is not None
            assert response.transition.bulk_operation_id == operation.id
            return
    pytest.fail("the watch has ended without a transition")


async def test_a_dry_run_counts_and_stores_nothing(
    client: RunEngineClient, database: asyncpg.Connection, organisation: str
) -> None:
    runs = await queued(client, 3)
    await client.cancel_run(runs[0].id)
    ids = [runs[0].id, runs[1].id, str(uuid.uuid4())]
    found = await client.create_bulk_operation("retry", workflow_name="unserved", dry_run=True)
    named = await client.create_bulk_operation("cancel", ids=ids, dry_run=True, idempotency_key="dry")
    assert (found.matched, found.pending, refused(found)) == (3, 1, {"RUN_ACTIVE": 2})
    assert (named.matched, named.pending, refused(named)) == (3, 2, {"RUN_NOT_FOUND": 1})
    for operation in (found, named):
        assert operation.status == pb.BULK_OPERATION_STATUS_DRY_RUN
        assert not operation.HasField("id")
        assert operation.done == 0
    assert not (await client.list_bulk_operations()).operations
    keys = "SELECT count(*) FROM idempotency_keys WHERE tenant_id = $1"
    assert await database.fetchval(keys, organisation) == 0
    for run in runs[1:]:
        assert (await client.get_run(run.id)).status == RunStatus.RUN_STATUS_QUEUED


async def test_the_same_key_is_the_same_operation(client: RunEngineClient) -> None:
    runs = await queued(client, 2)
    wanted: dict[str, Any] = {"ids": [run.id for run in runs], "idempotency_key": uuid.uuid4().hex}
    created = await asyncio.gather(*(client.create_bulk_operation("cancel", **wanted) for _ in range(5)))
    await ended(client, created[0])
    created.append(await client.create_bulk_operation("cancel", **wanted))
    assert len({each.SerializeToString(deterministic=True) for each in created}) == 1
    assert (created[0].status, created[0].pending) == (pb.BULK_OPERATION_STATUS_RUNNING, 2)
    assert len((await client.list_bulk_operations()).operations) == 1
    with pytest.raises(IdempotencyKeyReused):
        await client.create_bulk_operation("retry", **wanted)


async def test_a_replay_over_rest_is_marked(client: RunEngineClient, rest: httpx.AsyncClient) -> None:
    (run,) = await queued(client, 1)
    body = {"action": "cancel", "ids": [run.id]}
    headers = {"idempotency-key": uuid.uuid4().hex}
    first = await rest.post("/bulk-operations", json=body, headers=headers)
    second = await rest.post("/bulk-operations", json=body, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"


async def test_a_key_of_a_trigger_is_refused(client: RunEngineClient) -> None:
    same = uuid.uuid4().hex
    (run,) = await queued(client, 1, idempotency_key=same)
    with pytest.raises(IdempotencyKeyReused):
        await client.create_bulk_operation("cancel", ids=[run.id], idempotency_key=same)


async def test_an_operation_is_its_tenants_alone(client: RunEngineClient, other: RunEngineClient) -> None:
    await queued(client, 3)
    operation = await client.create_bulk_operation("cancel", status="queued", pace=SLOW)
    assert not (await other.list_bulk_operations()).operations
    for call in (
        other.get_bulk_operation(operation.id),
        other.list_bulk_operation_items(operation.id),
        other.abort_bulk_operation(operation.id),
        client.get_bulk_operation(uuid.uuid4()),
    ):
        with pytest.raises(BulkOperationNotFound):
            await call
    assert (await client.abort_bulk_operation(operation.id)).status == pb.BULK_OPERATION_STATUS_ABORTED


async def test_nothing_happens_once_an_operation_is_aborted(client: RunEngineClient) -> None:
    runs = await queued(client, 40)
    operation = await client.create_bulk_operation("cancel", ids=[run.id for run in runs], pace=SLOW)
    aborted = await client.abort_bulk_operation(operation.id)
    assert aborted.status == pb.BULK_OPERATION_STATUS_ABORTED
    assert aborted.HasField("ended_at")
    assert (aborted.matched, aborted.pending) == (40, 0)
    assert aborted.aborted == 40 - aborted.done
    assert aborted.aborted > 0
    found = await outcomes(client, aborted)
    assert list(found.values()) == ["done"] * aborted.done + ["aborted"] * aborted.aborted
    assert len(await outcomes(client, aborted, outcome="aborted")) == aborted.aborted
    for run in runs:
        is_done = found[run.id] == "done"
        expected = RunStatus.RUN_STATUS_CANCELLED if is_done else RunStatus.RUN_STATUS_QUEUED
        assert (await client.get_run(run.id)).status == expected
    assert await client.abort_bulk_operation(operation.id) == aborted


async def test_a_completed_operation_cannot_be_aborted(client: RunEngineClient) -> None:
    nothing = await client.create_bulk_operation("cancel", workflow_name="never registered")
    assert (nothing.status, nothing.matched) == (pb.BULK_OPERATION_STATUS_COMPLETED, 0)
    assert nothing.HasField("ended_at")
    with pytest.raises(BulkOperationCompleted):
        await client.abort_bulk_operation(nothing.id)


async def test_more_runs_than_an_operation_may_have_are_an_error(
    client: RunEngineClient, database: asyncpg.Connection, organisation: str
) -> None:
    assert MAX_RUNS == 100_000
    async with database.transaction():
        await database.execute("SET LOCAL session_replication_role = replica")
        await database.execute(
            """INSERT INTO runs (tenant_id, id, workflow_name, encoded_input, status, completed_at)
            SELECT $1, gen_random_uuid(), 'unserved', '', 'completed', now()
            FROM generate_series(1, 100001)""",
            organisation,
        )
    for dry_run in (False, True):
        with pytest.raises(BulkOperationTooLarge) as error:
            await client.create_bulk_operation(
                "cancel", workflow_name="unserved", dry_run=dry_run, idempotency_key="too many"
            )
        assert error.value.metadata == {"limit": "100000"}
    assert not (await client.list_bulk_operations()).operations
    one = "DELETE FROM runs WHERE ctid IN (SELECT ctid FROM runs WHERE tenant_id = $1 LIMIT 1)"
    await database.execute(one, organisation)
    operation = await client.create_bulk_operation(
        "cancel", workflow_name="unserved", pace=SLOW, idempotency_key="too many"
    )
    assert operation.matched == 100_000
    await client.abort_bulk_operation(operation.id)
    await database.execute("DELETE FROM runs WHERE tenant_id = $1", organisation)


async def test_pages_make_up_the_whole(client: RunEngineClient, other: RunEngineClient) -> None:
    runs = await queued(client, 5)
    await client.cancel_run(runs[0].id)
    ids = [run.id for run in runs]
    created = [await client.create_bulk_operation("retry", ids=ids[:1]) for _ in range(3)]
    for each in created:
        await ended(client, each)
    listed = [each.id async for each in client.iterate_bulk_operations(page_size=1)]
    assert listed == [each.id for each in reversed(created)]
    mixed = await ended(
        client, await client.create_bulk_operation("retry", ids=[*ids[1:], str(uuid.uuid4())])
    )
    assert list(await outcomes(client, mixed)) == [*ids[1:], *(await outcomes(client, mixed)).keys() - {*ids}]
    assert not await outcomes(client, mixed, outcome="done")
    assert len(await outcomes(client, mixed, outcome=("refused", "pending"))) == 5
    page = await client.list_bulk_operation_items(mixed.id, outcome="refused", limit=2)
    token = page.next_page_token
    assert token
    for call in (
        client.list_bulk_operation_items(mixed.id, outcome="done", page_token=token),
        client.list_bulk_operation_items(created[0].id, outcome="refused", page_token=token),
        client.list_bulk_operation_items(mixed.id, page_token="nonsense"),
        client.list_bulk_operations(page_token=token),
        other.list_bulk_operations(page_token=(await client.list_bulk_operations(limit=1)).next_page_token),
    ):
        with pytest.raises(InvalidArgument, match="page_token"):
            await call
    with pytest.raises(ValueError, match="there are pending, done"):
        await client.list_bulk_operation_items(mixed.id, outcome="lost")


async def test_rest_shows_an_operation_whole(client: RunEngineClient, rest: httpx.AsyncClient) -> None:
    (run,) = await queued(client, 1)
    wanted = {
        "status": ["queued"],
        "workflowName": "unserved",
        "createdAfter": run.created_at.ToJsonString(),
        "waiting": None,
    }
    body = {"action": "cancel", "filter": wanted, "dryRun": False, "reason": "a test", "pace": 7}
    created = (await rest.post("/bulk-operations", json=body)).json()
    assert created["filter"] | wanted == created["filter"] | {"createdAfter": wanted["createdAfter"]}
    assert (created["action"], created["status"], created["pace"]) == ("cancel", "running", 7)
    await client.wait_for_bulk_operation(created["id"], timeout_seconds=SECONDS)
    path = f"/bulk-operations/{created['id']}"
    whole = (await rest.get(path)).json()
    assert (whole["status"], whole["done"], whole["refused"]) == ("completed", 1, [])
    items = (await rest.get(f"{path}/items", params={"outcome": ["done", "refused"], "limit": 5})).json()
    assert items["items"] == [
        {"runId": run.id, "outcome": "done", "reason": None, "at": items["items"][0]["at"]}
    ]
    assert (await rest.get("/bulk-operations", params={"limit": 1})).json()["operations"] == [whole]
    assert (await rest.delete(path)).json()["reason"] == "BULK_OPERATION_COMPLETED"


@pytest.mark.parametrize(
    ("body", "violations"),
    [
        ({"action": "cancel"}, {"filter": "is required, or ids in its place"}),
        ({"ids": [str(uuid.uuid4())]}, {"action": "must be one of retry, cancel"}),
        ({"action": "pause", "filter": {}}, {"action": "must be one of retry, cancel"}),
        ({"action": 1, "filter": {}}, {"action": "must be a string"}),
        (
            {"action": "cancel", "filter": {}, "ids": [str(uuid.uuid4())]},
            {"ids": "goes with no filter"},
        ),
        ({"action": "cancel", "ids": ["mine"]}, {"ids[0]": NOT_A_UUID}),
        (
            {"action": "cancel", "ids": [1, None]},
            {"ids[0]": "must be a string", "ids[1]": "must be a string"},
        ),
        ({"action": "cancel", "ids": "mine"}, {"ids": "must be a list"}),
        (
            {"action": "cancel", "ids": [str(uuid.UUID(int=number)) for number in range(5001)]},
            {"ids": "has more than 5,000"},
        ),
        (
            {
                "action": "cancel",
                "filter": {"status": ["done"], "createdAfter": "now", "waiting": 1, "more": 1},
            },
            {
                "filter.status[0]": "must be one of queued, running, completed, failed, cancelled",
                "filter.createdAfter": "must be a time such as 2026-01-31T09:30:00Z",
                "filter.waiting": "must be true or false",
                "filter.more": "is no field of this object",
            },
        ),
        (
            {"action": "cancel", "filter": {"campaignId": "mine"}, "pace": 0},
            {
                "pace": "must be 1 to 1000",
                "filter.campaignId": NOT_A_UUID,
            },
        ),
        (
            {"action": "cancel", "filter": {"status": ["failed"], "errorCode": "STEP_FAILED"}},
            {"filter.errorCode": "goes with no status"},
        ),
        ({"action": "cancel", "filter": []}, {"filter": "must be an object or null"}),
        (
            {"action": "cancel", "filter": {}, "reason": "x" * 1001},
            {"reason": "has more than 1,000 characters"},
        ),
    ],
)
async def test_a_body_that_is_wrong_is_refused_in_words(
    rest: httpx.AsyncClient, body: dict[str, Any], violations: dict[str, str]
) -> None:
    headers = {"content-type": "application/json"}
    response = await rest.post("/bulk-operations", content=json.dumps(body), headers=headers)
    assert response.status_code == 400
    told = {each["field"]: each["description"] for each in response.json()["violations"]}
    assert told == violations


async def test_text_that_no_text_of_the_database_holds_finds_nothing(client: RunEngineClient) -> None:
    for dry_run in (True, False):
        found = await client.create_bulk_operation("cancel", workflow_name="a\0b", dry_run=dry_run)
        assert found.matched == 0
    with pytest.raises(InvalidArgument, match="reason: contains"):
        await client.create_bulk_operation("cancel", workflow_name="a", reason="a\0b")


async def test_the_client_has_to_be_told_which_runs_are_meant(client: RunEngineClient) -> None:
    nothing: dict[str, Any] = {}
    for wanted in (nothing, {"ids": [], "status": "queued"}):
        with pytest.raises(ValueError, match="Say which runs"):
            await client.create_bulk_operation("cancel", **wanted)


def test_a_filter_has_the_fields_of_a_search() -> None:
    search, wanted = ListRunsRequest.DESCRIPTOR, pb.RunFilter.DESCRIPTOR
    assert [field.name for field in wanted.fields] == [
        field.name for field in search.fields if field.name not in ("limit", "page_token")
    ]
    for field in wanted.fields:
        of_search = search.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (
            of_search.number,
            of_search.type,
            of_search.is_repeated,
        )
        assert field.GetOptions() == of_search.GetOptions()
