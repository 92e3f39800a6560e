"""A caller sees what a run waits for, and resumes it, over gRPC and REST."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Coroutine
from typing import Any

import asyncpg
import httpx
import pytest
from runengine.v1.run_pb2 import Run, RunStatus
from runengine_client import (
    IdempotencyKeyReused,
    InvalidArgument,
    PayloadTooLarge,
    RunActive,
    RunEngineClient,
    RunNotFound,
    RunNotWaiting,
)
from runengine_client.json_view import run_json

from tests.support.patience import SECONDS
from tests.support.stack import Stack

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def waiting(client: RunEngineClient, run_id: str) -> Run:
    """The run, once it waits for somebody."""
    async with asyncio.timeout(SECONDS):
        async for run in client.follow_run(run_id):
            if run.waiting_for:
                return run
    raise AssertionError(f"The run has ended without a question: {run}")


async def asked(client: RunEngineClient, workflow: str = "asking", **fields: Any) -> Run:
    """A run that waits for somebody."""
    return await waiting(client, (await client.trigger_run(workflow, **fields)).id)


async def seen(client: RunEngineClient, run_id: str) -> list[Any]:
    """What the nodes of the run were given, once it has completed."""
    run = await client.wait(run_id, timeout_seconds=SECONDS)
    assert run.status == RunStatus.RUN_STATUS_COMPLETED, run.error
    return list((await client.get_run_output(run_id)).value["seen"])


async def outcome(call: Coroutine[Any, Any, Run]) -> str:
    try:
        await call
    except RunNotWaiting as error:
        return error.reason
    return "resumed"


@pytest.mark.parametrize(
    "value",
    [None, False, 0, "", [], {}, "red", {"colours": ["red", None, 2.5], "nested": {"deep": [{}]}}],
    ids=repr,
)
async def test_a_node_gets_the_value_that_its_run_is_resumed_with(
    client: RunEngineClient, rest: httpx.AsyncClient, value: Any
) -> None:
    run = await asked(client)
    path = f"/runs/{run.id}"
    shown = (await rest.get(path)).json()
    (question,) = shown["waitingFor"]
    assert TIME.fullmatch(question.pop("since"))
    assert question == {
        "id": run.waiting_for[0].id, "stepId": "ask", "value": {"question": "Which colour?"}, "note": None,
    }  # fmt: skip
    assert (shown["status"], shown["completedAt"]) == ("running", None)
    response = await rest.post(f"{path}/resume", json={"value": value})
    assert response.status_code == 200, response.text
    resumed = response.json()
    assert (resumed["id"], resumed["status"], resumed["waitingFor"]) == (run.id, "running", None)
    assert resumed["updatedAt"] > shown["updatedAt"]
    assert await seen(client, run.id) == [value]
    assert (await rest.get(path)).json()["waitingFor"] is None


async def test_a_gate_of_the_graph_asks_nothing_and_any_value_passes_it(
    client: RunEngineClient, rest: httpx.AsyncClient
) -> None:
    for value in (None, {"approved": True}):
        run = await asked(client, "stopping")
        (gate,) = (await rest.get(f"/runs/{run.id}")).json()["waitingFor"]
        assert (gate["stepId"], gate["value"], gate["note"]) == ("last", None, None)
        assert [step.step_id for step in await client.list_run_steps(run.id)] == ["first"]
        await client.resume_run(run.id, value)
        assert await seen(client, run.id) == ["first", "last"]


async def test_questions_side_by_side_take_values_by_id_and_no_single_one(
    client: RunEngineClient, rest: httpx.AsyncClient
) -> None:
    run = await asked(client, "asking-twice")
    path = f"/runs/{run.id}/resume"
    ids = {each.step_id: each.id for each in run.waiting_for}
    assert sorted(ids) == ["ask_left", "ask_right"]
    refusals: list[tuple[dict[str, Any], str, str]] = [
        ({"value": 1}, "value", "is one, and the run waits for more than one thing; give values by id"),
        ({"values": {ids["ask_left"]: 1, "f" * 32: 2}}, "values", "has an id that the run does not wait for"),
    ]
    for body, field, description in refusals:
        response = await rest.post(path, json=body)
        assert response.status_code == 400
        assert response.json()["violations"] == [{"field": field, "description": description}]
        with pytest.raises(InvalidArgument) as refused:
            await client.resume_run(run.id, **body)
        assert [(each.field, each.description) for each in refused.value.violations] == [(field, description)]
    assert await client.get_run(run.id) == run

    assert (await rest.post(path, json={"values": {ids["ask_left"]: "red"}})).status_code == 200
    rest_of_it = await waiting(client, run.id)
    assert [each.id for each in rest_of_it.waiting_for] == [ids["ask_right"]]
    await client.resume_run(run.id, "blue")
    assert await seen(client, run.id) == ["red", "blue"]


async def test_values_for_all_questions_let_the_run_go_on_at_once(client: RunEngineClient) -> None:
    run = await asked(client, "asking-twice")
    values = {each.id: each.step_id for each in run.waiting_for}
    assert not (await client.resume_run(run.id, values=values)).waiting_for
    assert await seen(client, run.id) == ["ask_left", "ask_right"]
    reasons = [event.reason for event in await client.list_run_events(run.id)]
    assert reasons.count("WAITING") == reasons.count("RESUMED") == 1


async def test_a_run_that_waits_for_nobody_is_not_resumed(
    client: RunEngineClient, rest: httpx.AsyncClient
) -> None:
    queued = await client.trigger_run("unserved")
    completed = await asked(client)
    await client.resume_run(completed.id, "red")
    await client.wait(completed.id, timeout_seconds=SECONDS)
    cancelled = await asked(client)
    assert not (await client.cancel_run(cancelled.id)).waiting_for
    for run_id, status, allowed in (
        (queued.id, "queued", "cancel"),
        (completed.id, "completed", ""),
        (cancelled.id, "cancelled", "retry"),
    ):
        before = await client.get_run(run_id)
        expected = {"status": status, "attempt": "1", "allowed": allowed}
        for given in ({"value": None}, {"values": {"a": 1}}):
            with pytest.raises(RunNotWaiting, match=f"^The run is {status} and waits for nobody") as refused:
                await client.resume_run(run_id, **given)
            assert refused.value.metadata == expected
            response = await rest.post(f"/runs/{run_id}/resume", json=given)
            assert (response.status_code, response.json()["reason"]) == (409, "RUN_NOT_WAITING")
            assert response.json()["metadata"] == expected
        assert await client.get_run(run_id) == before


async def test_a_value_out_of_bounds_changes_nothing(
    client: RunEngineClient, rest: httpx.AsyncClient
) -> None:
    run = await asked(client)
    with pytest.raises(PayloadTooLarge):
        await client.resume_run(run.id, "x" * 262_145)
    with pytest.raises(InvalidArgument, match=r"value\.a\[1\]: contains"):
        await client.resume_run(run.id, {"a": [1, "\0"]})
    with pytest.raises(InvalidArgument, match="values: has 1001 keys"):
        await client.resume_run(run.id, values={f"{number}": None for number in range(1001)})
    response = await rest.post(f"/runs/{run.id}/resume", json={"value": {"a": "\0"}, "values": {}})
    assert {each["field"] for each in response.json()["violations"]} == {"value.a", "values"}
    assert await client.get_run(run.id) == run
    largest = "x" * (262_144 - len('{"value":""}'))
    assert (await rest.post(f"/runs/{run.id}/resume", json={"value": largest})).status_code == 200
    assert await seen(client, run.id) == [largest]


async def test_a_resume_with_a_key_acts_once(client: RunEngineClient, rest: httpx.AsyncClient) -> None:
    run = await asked(client)
    key = {"idempotency-key": uuid.uuid4().hex}
    path, body = f"/runs/{run.id}/resume", {"value": {"b": 1, "a": 2}}
    first = await rest.post(path, json=body, headers=key)
    again = await rest.post(path, json={"value": {"a": 2, "b": 1}}, headers=key)
    assert (first.status_code, first.json()) == (again.status_code, again.json()) == (200, first.json())
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    with pytest.raises(IdempotencyKeyReused):
        await client.resume_run(run.id, {"a": 3}, idempotency_key=key["idempotency-key"])
    assert await seen(client, run.id) == [{"a": 2, "b": 1}]
    assert (await rest.post(path, json=body, headers=key)).json() == first.json()


async def test_a_refused_resume_is_judged_anew_under_its_key(client: RunEngineClient) -> None:
    key = uuid.uuid4().hex
    run = await asked(client, "asking-twice")
    with pytest.raises(InvalidArgument):
        await client.resume_run(run.id, "red", idempotency_key=key)
    ids = {each.step_id: each.id for each in run.waiting_for}
    await client.resume_run(run.id, values={ids["ask_left"]: "blue"})
    await waiting(client, run.id)
    await client.resume_run(run.id, "red", idempotency_key=key)
    assert await seen(client, run.id) == ["blue", "red"]


_WAIT_FOR_A_LOCK = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'"""


async def test_one_of_many_who_resume_at_once_does(
    client: RunEngineClient, database: asyncpg.Connection
) -> None:
    run = await asked(client)
    async with asyncio.TaskGroup() as group, database.transaction():
        # All of them have begun, and come to the run only when this lets go of it.
        await database.execute("SELECT FROM runs WHERE id = $1 FOR UPDATE", uuid.UUID(run.id))
        calls = [group.create_task(outcome(client.resume_run(run.id, number))) for number in range(4)]
        async with asyncio.timeout(SECONDS):
            while await database.fetchval(_WAIT_FOR_A_LOCK) < len(calls):
                # Within a transaction it would not change.
                await database.execute("SELECT pg_stat_clear_snapshot()")
    outcomes = [call.result() for call in calls]
    assert sorted(outcomes) == ["RUN_NOT_WAITING"] * 3 + ["resumed"]
    assert await seen(client, run.id) == [outcomes.index("resumed")]


async def test_the_timeline_says_when_a_run_waited_and_who_resumed_it(
    stack: Stack, client: RunEngineClient
) -> None:
    run = await asked(client)
    await client.resume_run(run.id, "red")
    await client.wait(run.id, timeout_seconds=SECONDS)
    events = await client.list_run_events(run.id)
    reasons = [event.reason for event in events]
    assert reasons[:4] == ["TRIGGERED", "CLAIMED", "WAITING", "RESUMED"]
    assert reasons[-1] == "COMPLETED"
    _, claimed, waited, resumed, *_ = events
    running = RunStatus.RUN_STATUS_RUNNING
    assert [(each.from_status, each.to_status) for each in (waited, resumed)] == [(running, running)] * 2
    assert waited.actor == claimed.actor
    assert resumed.actor == events[0].actor


async def test_a_run_that_waits_is_neither_retried_nor_anothers(
    stack: Stack, client: RunEngineClient
) -> None:
    run = await asked(client)
    with pytest.raises(RunActive):
        await client.retry_run(run.id)
    async with stack.client(stack.token(f"org_{uuid.uuid4().hex}")) as stranger:
        with pytest.raises(RunNotFound):
            await stranger.resume_run(run.id, "red")
    assert await client.get_run(run.id) == run
    await client.cancel_run(run.id)


async def test_a_list_shows_for_what_its_runs_wait(client: RunEngineClient, rest: httpx.AsyncClient) -> None:
    campaign = await client.create_campaign()
    run = await asked(client, campaign_id=campaign.id)
    unserved = await client.trigger_run("unserved", campaign_id=campaign.id)
    page = (await rest.get(f"/campaigns/{campaign.id}/runs")).json()
    assert page["runs"] == [run_json(unserved), run_json(run)]
    assert (page["statusCounts"]["running"], page["total"]) == (1, 2)
    assert page["runs"][1]["waitingFor"][0]["value"] == {"question": "Which colour?"}
    page = (await rest.get(f"/campaigns/{campaign.id}/runs?status=running")).json()
    assert page["runs"] == [run_json(run)]
