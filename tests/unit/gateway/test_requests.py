"""A request of REST and the message that it becomes, and the response."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from google.protobuf.struct_pb2 import Value
from runengine.v1 import (
    campaign_pb2,
    campaign_service_pb2,
    run_pb2,
    run_service_pb2,
)

from tests.support.scripted_server import RUN_ID, Server, problem, violations


async def test_a_trigger_sends_the_message_and_returns_201_with_the_run(
    client: httpx.AsyncClient, server: Server
) -> None:
    server.replies(
        run_service_pb2.TriggerRunResponse(run=run_pb2.Run(id=RUN_ID, status=run_pb2.RUN_STATUS_QUEUED))
    )
    response = await client.post(
        "/runs",
        json={"workflowName": "w", "triggerPayload": {"n": 1, "list": []}, "context": None},
        headers={
            "idempotency-key": "k 1",
            "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
            "x-tenant": "t",
        },
    )
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.json()["id"] == RUN_ID
    assert response.json()["status"] == "queued"

    expected = run_service_pb2.TriggerRunRequest(workflow_name="w")
    expected.trigger_payload.update({"n": 1, "list": []})
    [(_, sent, metadata)] = server.received
    assert sent == expected
    assert metadata["authorization"] == "Bearer good"
    assert metadata["idempotency-key"] == "k 1"
    assert metadata["traceparent"].startswith("00-")
    assert "x-tenant" not in metadata


@pytest.mark.parametrize(
    ("method", "path", "rpc", "reply", "status"),
    [
        ("GET", f"/runs/{RUN_ID}", "GetRun", run_service_pb2.GetRunResponse, 200),
        ("POST", f"/runs/{RUN_ID}/retry", "RetryRun", run_service_pb2.RetryRunResponse, 200),
        ("POST", f"/runs/{RUN_ID}/resume", "ResumeRun", run_service_pb2.ResumeRunResponse, 200),
        ("DELETE", f"/runs/{RUN_ID}", "CancelRun", run_service_pb2.CancelRunResponse, 200),
        ("POST", "/campaigns", "CreateCampaign", campaign_service_pb2.CreateCampaignResponse, 201),
        ("GET", f"/campaigns/{RUN_ID}", "GetCampaign", campaign_service_pb2.GetCampaignResponse, 200),
    ],
)
async def test_a_response_is_unwrapped_where_its_rule_says_so(
    client: httpx.AsyncClient, server: Server, method: str, path: str, rpc: str, reply: Any, status: int
) -> None:
    message = reply()
    getattr(message, message.DESCRIPTOR.fields[0].name).id = "the id"
    server.replies(message)
    response = await client.request(method, path, json={})
    assert (response.status_code, response.json()["id"]) == (status, "the id")
    assert server.names == [rpc]


@pytest.mark.parametrize(
    ("body", "given"),
    [
        ({"value": None}, {"value": Value(null_value=0)}),  # type: ignore[arg-type]
        ({"value": "yes"}, {"value": Value(string_value="yes")}),
        ({"values": {"a": None}}, {"values": {"a": Value(null_value=0)}}),  # type: ignore[arg-type]
        (
            {"values": {"a": True, "": 2}},
            {"values": {"a": Value(bool_value=True), "": Value(number_value=2)}},
        ),
    ],
    ids=str,
)
async def test_a_resume_sends_a_value_or_values_and_null_is_one(
    client: httpx.AsyncClient, server: Server, body: Any, given: Any
) -> None:
    server.replies(run_service_pb2.ResumeRunResponse())
    response = await client.post(f"/runs/{RUN_ID}/resume", json=body, headers={"idempotency-key": "k"})
    assert response.status_code == 200
    [(_, sent, metadata)] = server.received
    assert sent == run_service_pb2.ResumeRunRequest(run_id=RUN_ID, **given)
    assert metadata["idempotency-key"] == "k"


@pytest.mark.parametrize("values", [b"null", b"[]", b"{}", b'"a"'])
async def test_a_resume_with_values_that_are_none_by_id_is_refused(
    client: httpx.AsyncClient, server: Server, values: bytes
) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post(
        f"/runs/{RUN_ID}/resume", content=b'{"values":' + values + b',"runId":"x"}', headers=headers
    )
    assert violations(response) == {
        "values": "must be an object with a member or more",
        "runId": "is no field of this request",
    }
    assert server.names == ["GetRun"]


async def test_steps_are_returned_under_their_name(client: httpx.AsyncClient, server: Server) -> None:
    server.replies(run_service_pb2.ListRunStepsResponse(steps=[run_pb2.RunStep(step_id="draft")]))
    response = await client.get(f"/runs/{RUN_ID}/steps")
    [step] = response.json()["steps"]
    assert (step["stepId"], step["outputArtifactIds"], step["cacheHit"]) == ("draft", None, False)


async def test_a_campaign_may_be_created_with_its_id(client: httpx.AsyncClient, server: Server) -> None:
    campaign = campaign_pb2.Campaign(id=RUN_ID, status=campaign_pb2.CAMPAIGN_STATUS_DRAFT)
    server.replies(campaign_service_pb2.CreateCampaignResponse(campaign=campaign))
    response = await client.post("/campaigns", json={"id": RUN_ID})
    assert response.json() == {
        "id": RUN_ID,
        "status": "draft",
        "bundleUrl": None,
        "latestRunId": None,
        "createdAt": None,
        "updatedAt": None,
    }
    assert server.received[0][1] == campaign_service_pb2.CreateCampaignRequest(id=RUN_ID)


async def test_a_list_takes_its_query_and_tells_an_explicit_zero_from_an_absent_one(
    client: httpx.AsyncClient, server: Server
) -> None:
    server.replies(run_service_pb2.ListCampaignRunsResponse(limit=5))
    response = await client.get("/campaigns/c/runs?status=failed&status=queued&limit=0")
    page = {"runs": [], "total": 0, "limit": 5, "offset": 0, "nextPageToken": None, "statusCounts": None}
    assert response.json() == page
    [(_, sent, _)] = server.received
    assert isinstance(sent, run_service_pb2.ListCampaignRunsRequest)
    assert list(sent.status) == [run_pb2.RUN_STATUS_FAILED, run_pb2.RUN_STATUS_QUEUED]
    assert sent.HasField("limit")
    assert not sent.HasField("offset")


async def test_every_fault_of_a_query_is_reported_at_once(client: httpx.AsyncClient, server: Server) -> None:
    response = await client.get(
        "/campaigns/c/runs?status=dead&limit=1e3&offset=1&offset=2&Limit=1&campaignId=x"
    )
    assert violations(response) == {
        "status": "must be one of queued, running, completed, failed, cancelled",
        "limit": "must be an integer from -2147483648 to 2147483647",
        "offset": "is given more than once",
        "Limit": "is no parameter of this path",
        "campaignId": "is no parameter of this path",
    }
    assert server.names == ["GetRun"]


async def test_every_fault_of_a_body_is_reported_at_once(client: httpx.AsyncClient, server: Server) -> None:
    response = await client.post(
        "/runs?x=1",
        content=b'{"workflowName":1,"triggerPayload":{"items":[{"price":NaN}]},"context":[],"workflow_name":"w"}',
        headers={"content-type": "application/json"},
    )
    assert violations(response) == {
        "x": "is no parameter of this path",
        "triggerPayload.items[0].price": "is NaN, which is not JSON",
        "workflowName": "must be a string",
        "context": "must be an object or null",
        "workflow_name": "is no field of this request",
    }
    assert server.names == ["GetRun"], "nothing but the token is asked for"


async def test_violations_that_the_server_finds_are_reported_in_json_names(client: httpx.AsyncClient) -> None:
    assert violations(await client.get("/runs/bad")) == {"runId": "must be a UUID"}


BAD_REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/runs", {"content": b"{", "headers": {"content-type": "application/json"}}),
    ("POST", "/runs", {"content": b"{}"}),
    ("POST", "/runs", {"content": b" " * 300_000, "headers": {"content-type": "application/json"}}),
    ("POST", "/campaigns", {"json": {"nope": 1}}),
    ("GET", "/campaigns/c/runs?limit=x", {}),
    ("GET", "/artifacts/a?x=1", {}),
    ("POST", "/runs", {"json": {}, "headers": [("idempotency-key", "a"), ("idempotency-key", "b")]}),
]


@pytest.mark.parametrize(("method", "path", "more"), BAD_REQUESTS)
@pytest.mark.parametrize(
    ("token", "status", "reason"),
    [
        (None, 401, "UNAUTHENTICATED"),
        ("Bearer x", 401, "UNAUTHENTICATED"),
        ("Bearer stateless", 403, "NO_ORGANISATION"),
    ],
)
async def test_the_token_is_judged_before_the_request(
    client: httpx.AsyncClient,
    server: Server,
    method: str,
    path: str,
    more: dict[str, Any],
    token: str | None,
    status: int,
    reason: str,
) -> None:
    del client.headers["authorization"]
    if token is not None:
        client.headers["authorization"] = token
    problem(await client.request(method, path, **more), status, reason)
    assert server.names == ["GetRun"]


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer good"), ("authorization", "Bearer good")],
        [("authorization", "Bearer good"), ("Authorization", "Bearer other")],
        [(b"authorization", "Bearer gööd".encode())],
        [(b"authorization", b"Bearer good\xff")],
        [("authorization", "Bearer " + "x" * 20_000)],
        [("authorization", "")],
    ],
)
async def test_a_token_sent_twice_or_unfit_for_metadata_is_as_good_as_none(
    client: httpx.AsyncClient, server: Server, headers: Any
) -> None:
    del client.headers["authorization"]
    response = await client.get(f"/runs/{RUN_ID}", headers=headers)
    problem(response, 401, "UNAUTHENTICATED")
    assert response.headers["www-authenticate"] == "Bearer"
    assert "authorization" not in server.received[0][2]


@pytest.mark.parametrize(
    "keys", [["a", "b"], ["ä"], ["a" * 1025], [""]], ids=["two", "not ASCII", "too long", "empty"]
)
async def test_an_unfit_idempotency_key_is_a_violation(client: httpx.AsyncClient, keys: list[str]) -> None:
    headers = [(b"Idempotency-Key", key.encode()) for key in keys]
    response = await client.post("/runs", json={"workflowName": "w"}, headers=headers)
    assert set(violations(response)) == {"Idempotency-Key"}


async def test_a_traceparent_that_is_none_is_left_out(client: httpx.AsyncClient, server: Server) -> None:
    await client.get(f"/runs/{RUN_ID}", headers={b"traceparent": b"\xff" * 60})
    assert "traceparent" not in server.received[0][2]
