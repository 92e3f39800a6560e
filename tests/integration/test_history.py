"""What a run has been through stays readable."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from rich.console import Console
from runengine.v1.run_pb2 import RunStatus, StepStatus
from runengine_client import InvalidArgument, RunEngineClient, RunNotFound
from runengine_client.json_view import events_json, steps_json
from runengine_client.tables import events_view
from runengine_server.auth import development

from tests.support.gates import Gates
from tests.support.stack import Stack
from tests.support.token_forge import Forge

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_every_attempt_of_a_step_can_be_read(
    client: RunEngineClient, rest: httpx.AsyncClient, gates: Gates
) -> None:
    run = await client.trigger_run("flaky", trigger_payload={"gates": gates.path})
    for _ in range(3):
        (await gates.next()).open("fail")
    await client.wait(run.id)
    await client.retry_run(run.id)
    (await gates.next()).open()
    await client.wait(run.id)
    (current,) = await client.list_run_steps(run.id)
    assert (current.attempt, current.status) == (4, StepStatus.STEP_STATUS_COMPLETED)
    for attempt in (1, 2, 3):
        (earlier,) = await client.list_run_steps(run.id, attempt=attempt)
        assert (earlier.id, earlier.attempt) == (current.id, attempt)
        assert earlier.error.message == "FlakyError: Not this time."
        assert earlier.HasField("duration_ms")
        answer = (await rest.get(f"/runs/{run.id}/steps", params={"attempt": attempt})).json()
        assert answer["steps"] == steps_json([earlier])["steps"]
    assert await client.list_run_steps(run.id, attempt=5) == []
    with pytest.raises(InvalidArgument):
        await client.list_run_steps(run.id, attempt=0)


async def test_artifacts_of_a_failed_attempt_stay_with_it(client: RunEngineClient, gates: Gates) -> None:
    run = await client.trigger_run("saves-then-fails", trigger_payload={"gates": gates.path})
    (await gates.next()).open("fail")
    await client.wait(run.id)
    await client.retry_run(run.id)
    (await gates.next()).open()
    await client.wait(run.id)
    (first,) = await client.list_run_steps(run.id, attempt=1)
    (second,) = await client.list_run_steps(run.id)
    assert len(first.output_artifact_ids) == len(second.output_artifact_ids) == 1
    assert first.output_artifact_ids != second.output_artifact_ids
    assert (await client.download_artifact(first.output_artifact_ids[0])).data == b"draft"


async def test_the_timeline_says_who_did_what_when_and_why(
    client: RunEngineClient, rest: httpx.AsyncClient, gates: Gates
) -> None:
    body = {"workflowName": "gated", "triggerPayload": {"gates": gates.path}}
    triggered = await rest.post(
        "/runs", json=body, headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    )
    run_id = triggered.json()["id"]
    (await gates.next()).open("fail")
    failed = await client.wait(run_id)
    await client.retry_run(run_id)
    await gates.next()
    cancelled = await client.cancel_run(run_id)
    events = await client.list_run_events(run_id)
    assert [(RunStatus.Name(each.to_status)[11:], each.attempt, each.reason) for each in events] == [
        ("QUEUED", 1, "TRIGGERED"),
        ("RUNNING", 1, "CLAIMED"),
        ("FAILED", 1, "STEP_FAILED"),
        ("QUEUED", 2, "RETRIED"),
        ("RUNNING", 2, "CLAIMED"),
        ("CANCELLED", 2, "CANCELLED"),
    ]
    for before, after in pairwise(events):
        assert after.from_status == before.to_status
        assert after.at.ToNanoseconds() > before.at.ToNanoseconds()
    assert not events[0].HasField("from_status")
    assert (events[0].actor, events[5].actor) == ("user_test", "user_test")
    assert events[1].actor.startswith("worker:")
    assert {each.trace_id for each in events} == {TRACE}
    assert events[2].error == failed.error
    assert events[5].at == cancelled.updated_at
    answer = (await rest.get(f"/runs/{run_id}/events")).json()
    assert answer["events"] == events_json(events)["events"]


async def test_the_timeline_says_who_acted_as_whom(
    stack: Stack, client: RunEngineClient, organisation: str, state_dir: Path
) -> None:
    forge = Forge(development.private_key(state_dir))
    as_their_user = forge.token(sub="user_b", o={"id": organisation}, act={"sub": "user_a"})
    body = {"workflowName": "unserved"}
    async with stack.rest(as_their_user) as rest:
        run = (await rest.post("/runs", json=body, headers={"idempotency-key": "k"})).json()
        await rest.delete(f"/runs/{run['id']}")
        answer = (await rest.get(f"/runs/{run['id']}/events")).json()
    await client.retry_run(run["id"])
    async with stack.rest(forge.token(sub="user_b", o={"id": organisation})) as rest:
        replayed = await rest.post("/runs", json=body, headers={"idempotency-key": "k"})
    assert (replayed.json(), replayed.headers["idempotency-replayed"]) == (run, "true")
    events = await client.list_run_events(run["id"])
    assert [(event.actor, event.impersonator, event.HasField("impersonator")) for event in events] == [
        ("user_b", "user_a", True),
        ("user_b", "user_a", True),
        ("user_test", "", False),
    ]
    assert [(each["actor"], each["impersonator"]) for each in answer["events"]] == [("user_b", "user_a")] * 2
    assert answer["events"] == events_json(events)["events"][:2]
    assert events_json(events)["events"][2]["impersonator"] is None
    console = Console(width=200)
    with console.capture() as table:
        console.print(events_view(events, console))
    assert table.get().count("user_b by user_a") == 2


async def test_a_malformed_traceparent_is_no_error(rest: httpx.AsyncClient) -> None:
    for value in ("x", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-xyz-1-01"):
        response = await rest.post("/runs", json={"workflowName": "unserved"}, headers={"traceparent": value})
        events = (await rest.get(f"/runs/{response.json()['id']}/events")).json()["events"]
        assert events[0]["traceId"] is None


async def test_events_of_an_absent_run_are_not_found(client: RunEngineClient) -> None:
    with pytest.raises(RunNotFound):
        await client.list_run_events("00000000-0000-7000-8000-000000000000")
