"""The same key and request answer the same, once; trigger, retry, resume and cancel alike."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import asyncpg
import grpc
import httpx
import pytest
from google.protobuf.struct_pb2 import Value
from runengine.v1 import run_service_pb2_grpc
from runengine.v1.run_service_pb2 import (
    CancelRunRequest,
    ResumeRunRequest,
    RetryRunRequest,
    TriggerRunRequest,
)
from runengine_client import IdempotencyKeyReused, InvalidArgument, RunActive, RunEngineClient
from runengine_server.database.database import Database
from runengine_server.repositories.queue_repository import QueueRepository

from tests.support.gates import Gates
from tests.support.patience import SECONDS
from tests.support.stack import Stack


def key() -> str:
    return uuid.uuid4().hex


async def waiting(rest: httpx.AsyncClient) -> str:
    """The id of a run that waits for somebody."""
    run = (await rest.post("/runs", json={"workflowName": "asking"})).json()
    async with asyncio.timeout(SECONDS):
        while run["waitingFor"] is None:
            run = (await rest.get(f"/runs/{run['id']}")).json()
    return str(run["id"])


async def test_fifty_triggers_at_once_make_one_run(
    client: RunEngineClient, database: asyncpg.Connection, organisation: str
) -> None:
    same = key()
    payload = {"b": 1, "a": {"y": 2, "x": 3}}
    runs = await asyncio.gather(
        *(client.trigger_run("unserved", trigger_payload=payload, idempotency_key=same) for _ in range(50))
    )
    assert len({run.SerializeToString(deterministic=True) for run in runs}) == 1
    assert await database.fetchval("SELECT count(*) FROM runs WHERE tenant_id = $1", organisation) == 1


async def test_a_replay_is_the_first_response_even_when_the_run_has_moved_on(
    client: RunEngineClient, gates: Gates
) -> None:
    same = key()
    first = await client.trigger_run("gated", trigger_payload={"gates": gates.path}, idempotency_key=same)
    (await gates.next()).open()
    await client.wait(first.id)
    again = await client.trigger_run("gated", trigger_payload={"gates": gates.path}, idempotency_key=same)
    assert again == first


async def test_another_request_under_the_key_is_refused_and_does_nothing(
    client: RunEngineClient, database: asyncpg.Connection, organisation: str
) -> None:
    same = key()
    run = await client.trigger_run("unserved", trigger_payload={"n": 1}, idempotency_key=same)
    with pytest.raises(IdempotencyKeyReused):
        await client.trigger_run("unserved", trigger_payload={"n": 2}, idempotency_key=same)
    with pytest.raises(IdempotencyKeyReused):
        await client.cancel_run(run.id, idempotency_key=same)
    assert await database.fetchval("SELECT count(*) FROM runs WHERE tenant_id = $1", organisation) == 1
    assert (await client.get_run(run.id)).status == run.status


async def test_validation_comes_before_the_key(client: RunEngineClient) -> None:
    same = key()
    await client.trigger_run("unserved", idempotency_key=same)
    with pytest.raises(InvalidArgument):
        await client.trigger_run("unserved", context={"campaignId": "x"}, idempotency_key=same)


async def test_a_cancel_and_a_retry_with_a_key_act_once(client: RunEngineClient) -> None:
    run = await client.trigger_run("unserved")
    cancel_key, retry_key = key(), key()
    cancelled = await client.cancel_run(run.id, idempotency_key=cancel_key)
    retried = await client.retry_run(run.id, idempotency_key=retry_key)
    assert await client.retry_run(run.id, idempotency_key=retry_key) == retried
    assert await client.cancel_run(run.id, idempotency_key=cancel_key) == cancelled
    assert (await client.get_run(run.id)) == retried


async def test_a_refusal_is_judged_anew(client: RunEngineClient) -> None:
    run = await client.trigger_run("unserved")
    same = key()
    with pytest.raises(RunActive):
        await client.retry_run(run.id, idempotency_key=same)
    await client.cancel_run(run.id)
    assert (await client.retry_run(run.id, idempotency_key=same)).attempt == 2


async def test_keys_are_each_tenants_own(stack: Stack, client: RunEngineClient) -> None:
    same = key()
    run = await client.trigger_run("unserved", idempotency_key=same)
    async with stack.client(stack.token(f"org_{key()}")) as other:
        assert (await other.trigger_run("unserved", idempotency_key=same)).id != run.id


async def test_a_replay_is_marked_in_grpc_and_rest(stack: Stack, token: str, rest: httpx.AsyncClient) -> None:
    async with grpc.aio.insecure_channel(stack.grpc_address) as channel:
        stub = run_service_pb2_grpc.RunServiceStub(channel)

        async def marked(method: Any, request: Any, same: str) -> bool:
            call = method(request, metadata=(("authorization", f"Bearer {token}"), ("idempotency-key", same)))
            await call
            return dict(await call.trailing_metadata()).get("idempotency-replayed") == "true"

        same = key()
        request = TriggerRunRequest(workflow_name="unserved")
        assert [await marked(stub.TriggerRun, request, same) for _ in range(2)] == [False, True]
        body = {"workflowName": "unserved"}
        headers = {"idempotency-key": same}
        response = await rest.post("/runs", json=body, headers=headers)
        assert (response.status_code, response.headers["idempotency-replayed"]) == (201, "true")
        run_id = response.json()["id"]
        cancel, retry = key(), key()
        cancelling, retrying = CancelRunRequest(run_id=run_id), RetryRunRequest(run_id=run_id)
        assert [await marked(stub.CancelRun, cancelling, cancel) for _ in range(2)] == [False, True]
        assert [await marked(stub.RetryRun, retrying, retry) for _ in range(2)] == [False, True]
        resuming = ResumeRunRequest(run_id=await waiting(rest), value=Value(bool_value=True))
        resume = key()
        assert [await marked(stub.ResumeRun, resuming, resume) for _ in range(2)] == [False, True]
        fresh = await rest.post("/runs", json=body, headers={"idempotency-key": key()})
        assert "idempotency-replayed" not in fresh.headers
        other = await rest.post("/runs", json={**body, "triggerPayload": {"n": 1}}, headers=headers)
        assert (other.status_code, other.json()["reason"]) == (409, "IDEMPOTENCY_KEY_REUSED")


async def test_a_key_is_forgotten_after_seven_days_and_not_before(
    client: RunEngineClient, database: asyncpg.Connection, database_url: str, organisation: str
) -> None:
    old, young = key(), key()
    runs = {same: await client.trigger_run("unserved", idempotency_key=same) for same in (old, young)}
    for same, age in ((old, "7 days 1 minute"), (young, "6 days 23 hours")):
        await database.execute(
            f"UPDATE idempotency_keys SET created_at = now() - interval '{age}' "
            "WHERE tenant_id = $1 AND key = $2",
            organisation,
            same,
        )
    pool = Database(database_url, 1)
    await pool.open()
    await QueueRepository(pool, "test", [], 1).purge_expired()
    await pool.close()
    assert (await client.trigger_run("unserved", idempotency_key=young)).id == runs[young].id
    assert (await client.trigger_run("unserved", idempotency_key=old)).id != runs[old].id
