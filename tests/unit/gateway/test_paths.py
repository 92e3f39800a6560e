"""Paths and methods: which there are, and what becomes of all others."""

from __future__ import annotations

import json

import httpx
import pytest
from runengine.v1 import (
    run_service_pb2,
)

from tests.support.scripted_server import RUN_ID, Running, Server, ask, problem


@pytest.mark.parametrize(
    ("path", "run_id"),
    [
        ("/runs/a%2Fb", "a/b"),
        ("/runs/a%2fsteps", "a/steps"),
        ("/runs/%20", " "),
        ("/runs/%00", "\0"),
        ("/runs/%ff", "\ufffd"),
        ("/runs/%C3%BC", "ü"),
        ("/runs/a%3Fb", "a?b"),
        ("/runs/a+b", "a+b"),
        ("/runs/...", "..."),
        ("/r%75ns/x", "x"),
    ],
)
async def test_a_segment_reaches_the_server_decoded_and_whole(
    client: httpx.AsyncClient, server: Server, path: str, run_id: str
) -> None:
    problem(await client.get(path), 404, "RUN_NOT_FOUND")
    assert server.received[0][1] == run_service_pb2.GetRunRequest(run_id=run_id)


@pytest.mark.parametrize(
    "raw_path",
    [b"", b"/run", b"/runs/", b"/runs/x/", b"//runs/x", b"/runs//x", b"/runs//steps", b"/runs/x/steps/",
     b"/runs/.", b"/runs/..", b"/runs/%2e%2e", b"/runs/../runs/x", b"/runs/./x", b"/runs%2Fx", b"/RUNS/x",
     b"/runs/x/steps/y", b"*", b"/healthz/", b"/v1/runs/x"],
)  # fmt: skip
async def test_any_other_path_is_404_and_no_call(running: Running, server: Server, raw_path: bytes) -> None:
    status, headers, body = await ask(running.app, "GET", raw_path)
    assert status == 404
    assert json.loads(body)["reason"] == "NOT_FOUND"
    assert headers[b"content-type"] == b"application/problem+json"
    assert server.received == []


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", f"/runs/{RUN_ID}", "DELETE, GET, HEAD"),
        ("PUT", "/runs", "GET, HEAD, POST"),
        ("HEAD", "/campaigns", "POST"),
        ("OPTIONS", "/campaigns", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("GET", f"/runs/{RUN_ID}/retry", "POST"),
        ("BREW", f"/campaigns/{RUN_ID}/runs", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_with_those_that_the_path_has(
    client: httpx.AsyncClient, server: Server, method: str, path: str, allow: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allow
    if method != "HEAD":
        problem(response, 405, "METHOD_NOT_ALLOWED")
    assert server.received == []


async def test_the_root_names_the_service_and_its_documents_without_a_token(
    client: httpx.AsyncClient, server: Server
) -> None:
    response = await client.get("/", headers={"authorization": ""})
    assert response.status_code == 200
    root = response.json()
    assert root["name"] == "runengine"
    for document in ("docs", "openapi"):
        assert (await client.get(root[document])).status_code == 200
    assert server.received == []


async def test_head_answers_the_headers_of_get(client: httpx.AsyncClient, server: Server) -> None:
    server.replies(run_service_pb2.GetRunResponse())
    get, head = await client.get(f"/runs/{RUN_ID}"), await client.head(f"/runs/{RUN_ID}")
    assert head.content == b""
    assert head.headers == get.headers
