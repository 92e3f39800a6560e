"""Every key of the documented REST objects, in every status."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from runengine.v1.run_pb2 import Run

from tests.support.gates import Gates
from tests.support.patience import SECONDS

Check = Callable[[Any], bool]

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def null(value: Any) -> bool:
    return value is None


def is_uuid(value: Any) -> bool:
    return isinstance(value, str) and UUID.fullmatch(value) is not None


def is_time(value: Any) -> bool:
    return isinstance(value, str) and TIME.fullmatch(value) is not None


def is_number(value: Any) -> bool:
    return type(value) is int


def is_error(value: Any) -> bool:
    return (
        set(value) == {"code", "message", "stepId", "attempt", "retryable"} and type(value["attempt"]) is int
    )


def is_waiting_for(value: Any) -> bool:
    return all(
        set(each) == {"id", "stepId", "value", "since", "note"}
        and isinstance(each["id"], str)
        and (each["stepId"], each["value"], each["note"]) == ("ask", {"question": "Which colour?"}, None)
        and is_time(each["since"])
        for each in value
    )


def anything(value: Any) -> bool:
    return True


def equals(expected: Any) -> Check:
    return lambda value: bool(value == expected)


def run_shape(status: str, payload: Any) -> dict[str, Check]:
    """What the contract says of its keys; one that the proto has besides is there, whatever it holds. A
    running one that waits for somebody is "waiting".
    """
    started = status != "queued"
    ended = status in ("completed", "failed", "cancelled")
    return {
        **{field.json_name: anything for field in Run.DESCRIPTOR.fields},
        "id": is_uuid,
        "workflowName": equals({"queued": "unserved", "waiting": "asking"}.get(status, "gated")),
        "status": equals("running" if status == "waiting" else status),
        "triggerPayload": equals(payload),
        "context": equals({"team": "blue"}),
        "error": is_error if status == "failed" else null,
        "startedAt": is_time if started else null,
        "completedAt": is_time if ended else null,
        "durationMs": is_number if ended else null,
        "createdAt": is_time,
        "updatedAt": is_time,
        "attempt": equals(1),
        "priority": equals(0),
        "waitingFor": is_waiting_for if status == "waiting" else null,
    }


def step_shape(status: str) -> dict[str, Check]:
    return {
        "id": is_uuid,
        "stepId": lambda value: isinstance(value, str),
        "skillId": lambda value: isinstance(value, str),
        "status": equals(status),
        "cacheHit": equals(False),
        "durationMs": is_number if status in ("completed", "failed") else null,
        "attempt": is_number,
        "error": is_error if status == "failed" else null,
        "outputArtifactIds": lambda value: value is None or (bool(value) and all(map(is_uuid, value))),
        "createdAt": is_time,
        "updatedAt": is_time,
        "parentStepId": null,
    }


def check(value: dict[str, Any], shape: dict[str, Check]) -> None:
    assert set(value) == set(shape)
    for key, holds in shape.items():
        assert holds(value[key]), f"{key} = {value[key]!r}"


async def trigger(rest: httpx.AsyncClient, workflow: str, payload: Any) -> str:
    body = {"workflowName": workflow, "triggerPayload": payload, "context": {"team": "blue"}}
    response = await rest.post("/runs", json=body)
    assert response.status_code == 201
    return str(response.json()["id"])


async def until(rest: httpx.AsyncClient, path: str, holds: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(SECONDS):
        while not holds(answer := (await rest.get(path)).json()):
            pass
    return answer


async def test_a_queued_run(rest: httpx.AsyncClient) -> None:
    run_id = await trigger(rest, "unserved", None)
    check((await rest.get(f"/runs/{run_id}")).json(), run_shape("queued", None))
    steps = (await rest.get(f"/runs/{run_id}/steps")).json()
    assert steps == {"steps": [], "limit": 1000, "nextPageToken": None}


@pytest.mark.parametrize("word", ["go", "fail"])
async def test_a_running_and_an_ended_run(rest: httpx.AsyncClient, gates: Gates, word: str) -> None:
    payload = {"gates": gates.path, "nested": {"list": [1, 2.5, None, True, "ü"], "empty": {}}}
    run_id = await trigger(rest, "gated", payload)
    gate = await gates.next()
    check((await rest.get(f"/runs/{run_id}")).json(), run_shape("running", payload))
    first, held = (await rest.get(f"/runs/{run_id}/steps")).json()["steps"]
    check(first, step_shape("completed"))
    check(held, step_shape("running"))
    gate.open(word)
    status = "completed" if word == "go" else "failed"
    run = await until(rest, f"/runs/{run_id}", lambda run: run["status"] != "running")
    check(run, run_shape(status, payload))
    check((await rest.get(f"/runs/{run_id}/steps")).json()["steps"][1], step_shape(status))


async def test_a_waiting_run(rest: httpx.AsyncClient) -> None:
    run_id = await trigger(rest, "asking", None)
    path = f"/runs/{run_id}"
    run = await until(rest, path, lambda run: run["waitingFor"] is not None)
    assert len(run["waitingFor"]) == 1
    check(run, run_shape("waiting", None))
    response = await rest.post(f"{path}/resume", json={"value": "red"})
    assert response.status_code == 200
    assert set(response.json()) == set(run)
    assert response.json()["waitingFor"] is None


async def test_a_cancelled_run(rest: httpx.AsyncClient, gates: Gates) -> None:
    payload = {"gates": gates.path}
    run_id = await trigger(rest, "gated", payload)
    await gates.next()
    response = await rest.delete(f"/runs/{run_id}")
    assert response.status_code == 200
    check(response.json(), run_shape("cancelled", payload))
    check((await rest.get(f"/runs/{run_id}/steps")).json()["steps"][1], step_shape("failed"))


async def test_a_pending_and_a_skipped_step(rest: httpx.AsyncClient, gates: Gates) -> None:
    run_id = await trigger(rest, "patient", {"gates": gates.path})
    (await gates.next()).open("fail")
    path = f"/runs/{run_id}/steps"
    steps = await until(rest, path, lambda answer: answer["steps"][0]["status"] == "pending")
    check(steps["steps"][0], step_shape("pending"))
    await rest.delete(f"/runs/{run_id}")
    check((await rest.get(path)).json()["steps"][0], step_shape("skipped"))


async def test_a_campaign_and_a_page(rest: httpx.AsyncClient) -> None:
    response = await rest.post("/campaigns", json={})
    assert response.status_code == 201
    campaign = response.json()
    check(
        campaign,
        {
            "id": is_uuid,
            "status": equals("draft"),
            "bundleUrl": null,
            "latestRunId": null,
            "createdAt": is_time,
            "updatedAt": is_time,
        },
    )
    page = (await rest.get(f"/campaigns/{campaign['id']}/runs")).json()
    assert page == {
        "runs": [],
        "total": 0,
        "limit": 20,
        "offset": 0,
        "nextPageToken": None,
        "statusCounts": {"queued": 0, "running": 0, "completed": 0, "failed": 0, "cancelled": 0},
    }
