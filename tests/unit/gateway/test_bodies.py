"""The body of a request: its type, its size, and what there may be in it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from runengine.v1 import (
    campaign_service_pb2,
    run_pb2,
    run_service_pb2,
)

from tests.support.scripted_server import RUN_ID, Server, problem, violations


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=UTF-8",
        'application/json;charset="utf-8"',
        "application/json; charset=utf8",
        "application/json; charset=US-ASCII",
        "application/json;charset=",
        " application/json ;; Charset = 'Utf-8' ;",
        'application/json; profile="https://example.com/a;charset=latin-1"',
        'application/json; profile="a\\";charset=latin-1"; charset=utf-8',
        "application/json; odata.metadata=minimal; IEEE754Compatible=true",
        "application/json; nonsense",
    ],
)
async def test_a_json_content_type_is_taken(
    client: httpx.AsyncClient, server: Server, content_type: str
) -> None:
    server.replies(campaign_service_pb2.CreateCampaignResponse())
    response = await client.post("/campaigns", content=b"{}", headers={"content-type": content_type})
    assert response.status_code == 201


@pytest.mark.parametrize(
    ("headers", "wrong"),
    [
        ({}, "content-type"),
        ({"content-type": ""}, "content-type"),
        ({"content-type": "text/plain"}, "content-type"),
        ({"content-type": "application/jsonx"}, "content-type"),
        ({"content-type": "application/json, application/json"}, "content-type"),
        ({"content-type": "application/x-www-form-urlencoded"}, "content-type"),
        ([("content-type", "application/json"), ("content-type", "application/json")], "content-type"),
        ({"content-type": "application/json; charset=latin-1"}, "charset"),
        ({"content-type": 'application/json; CHARSET = "UTF-16"'}, "charset"),
        ({"content-type": "application/json; charset=utf-8; charset=utf-7"}, "charset"),
        ({"content-type": "application/json; profile=x; charset=utf-8x"}, "charset"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, "content-encoding"),
    ],
)
async def test_any_other_content_type_is_415_and_says_what_is_wrong(
    client: httpx.AsyncClient, server: Server, headers: Any, wrong: str
) -> None:
    response = await client.post("/campaigns", content=b"{}", headers=headers)
    detail = problem(response, 415, "UNSUPPORTED_MEDIA_TYPE")["detail"]
    assert re.findall("content-type|charset|content-encoding", detail) == [wrong]
    assert server.names == ["GetRun"]


BODYLESS: list[dict[str, Any]] = [
    {},
    {"content": b""},
    {"content": b"", "headers": {"content-type": "application/json"}},
    {"content": b"", "headers": {"content-type": "text/plain;charset=UTF-8"}},
    {"content": b"", "headers": {"content-length": "0", "content-encoding": "gzip"}},
]


@pytest.mark.parametrize("sent", BODYLESS)
async def test_a_campaign_is_created_without_a_body(
    client: httpx.AsyncClient, server: Server, sent: dict[str, Any]
) -> None:
    server.replies(campaign_service_pb2.CreateCampaignResponse())
    assert (await client.post("/campaigns", **sent)).status_code == 201
    assert server.received[-1][1] == campaign_service_pb2.CreateCampaignRequest()


@pytest.mark.parametrize("sent", BODYLESS)
async def test_fields_of_a_missing_body_are_missed_by_the_server(
    client: httpx.AsyncClient, server: Server, sent: dict[str, Any]
) -> None:
    server.replies(run_service_pb2.TriggerRunResponse())
    await client.post("/runs", **sent)
    assert server.received[-1][1] == run_service_pb2.TriggerRunRequest()


async def test_null_counts_as_absent_for_every_member_of_a_body(
    client: httpx.AsyncClient, server: Server
) -> None:
    server.replies(run_service_pb2.TriggerRunResponse())
    nothing = {"workflowName": None, "triggerPayload": None, "context": None, "priority": None}
    await client.post("/runs", json=nothing)
    server.replies(campaign_service_pb2.CreateCampaignResponse())
    await client.post("/campaigns", json={"id": None})
    assert [request for _, request, _ in server.received] == [
        run_service_pb2.TriggerRunRequest(),
        campaign_service_pb2.CreateCampaignRequest(),
    ]
    response = await client.post("/campaigns", json={"nope": None})
    assert violations(response) == {"nope": "is no field of this request"}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_body_where_none_is_due_must_be_empty(
    client: httpx.AsyncClient, server: Server, method: str
) -> None:
    server.replies(run_service_pb2.GetRunResponse())
    if method == "DELETE":
        server.replies(run_service_pb2.CancelRunResponse())
    assert (await client.request(method, f"/runs/{RUN_ID}", json={})).status_code == 200
    response = await client.request(method, f"/runs/{RUN_ID}", json={"runId": "x"})
    assert violations(response) == {"runId": "is no field of this request"}
    assert set(violations(await client.request(method, f"/runs/{RUN_ID}", json=[]))) == {"body"}


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_may_have_256_kib_and_no_more(
    client: httpx.AsyncClient, server: Server, declared: bool
) -> None:
    server.replies(run_service_pb2.TriggerRunResponse())
    consumed = 0

    async def chunks(size: int) -> AsyncIterator[bytes]:
        nonlocal consumed
        consumed = 0
        start = b'{"workflowName":"'
        yield start
        rest = size - len(start) - 2
        while rest > 0:
            consumed += 1
            yield b"x" * min(rest, 65_536)
            rest -= 65_536
        yield b'"}'

    async def post(size: int) -> httpx.Response:
        headers = {"content-type": "application/json", **({"content-length": str(size)} if declared else {})}
        return await client.post("/runs", content=chunks(size), headers=headers)

    assert (await post(262_144)).status_code == 201
    problem(await post(262_145), 413, "PAYLOAD_TOO_LARGE")
    problem(await post(100_000_000), 413, "PAYLOAD_TOO_LARGE")
    assert consumed <= 5, "what is over the limit is not read"


async def test_a_message_too_large_for_the_transport_is_413_and_the_token_comes_first(
    client: httpx.AsyncClient, server: Server
) -> None:
    body = {"workflowName": "w", "triggerPayload": {"list": [1] * 60_000}}  # 120 KiB of JSON, 640 of Struct
    problem(await client.post("/runs", json=body), 413, "PAYLOAD_TOO_LARGE")
    client.headers["authorization"] = "Bearer bad"
    problem(await client.post("/runs", json=body), 401, "UNAUTHENTICATED")
    assert server.names == ["GetRun", "GetRun"]


@pytest.mark.parametrize("running", ["over the network"], indirect=True)  # the other takes any
async def test_a_reply_too_large_for_the_channel_is_no_fault_of_the_caller(
    client: httpx.AsyncClient, server: Server
) -> None:
    server.replies(run_service_pb2.GetRunResponse(run=run_pb2.Run(workflow_name="x" * 5_000_000)))
    problem(await client.get(f"/runs/{RUN_ID}"), 500, "INTERNAL")
