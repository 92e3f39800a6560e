"""An artifact, from the stream of gRPC to the bytes of HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from google.protobuf.message import Message
from runengine.v1 import (
    artifact_service_pb2,
)
from starlette.types import ASGIApp

from tests.support.patience import SECONDS
from tests.support.scripted_server import Context, Running, Server, problem


def artifact(
    *data: bytes, size: int | None = None, name: str = "bundle.zip", media_type: str = "application/zip"
) -> Any:
    """A download of this data."""
    response = artifact_service_pb2.DownloadArtifactResponse

    async def download(context: Context) -> AsyncIterator[Message]:
        total = sum(map(len, data)) if size is None else size
        yield response(header=response.Header(name=name, media_type=media_type, size=total))
        for part in data:
            yield response(data=part)

    return download


async def test_an_artifact_is_returned_as_its_bytes(client: httpx.AsyncClient, server: Server) -> None:
    server.download = artifact(b"a" * 65_536, b"bc")
    response = await client.get("/artifacts/the-id")
    assert response.status_code == 200
    assert response.content == b"a" * 65_536 + b"bc"
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-length"] == "65538"
    expected = "attachment; filename=\"bundle.zip\"; filename*=UTF-8''bundle.zip"
    assert response.headers["content-disposition"] == expected
    assert response.headers["content-security-policy"] == "sandbox"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert server.received[0][1] == artifact_service_pb2.DownloadArtifactRequest(artifact_id="the-id")


async def test_an_empty_artifact_is_returned(client: httpx.AsyncClient, server: Server) -> None:
    server.download = artifact()
    response = await client.get("/artifacts/a")
    assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize(
    ("name", "media_type", "disposition", "content_type"),
    [
        ('a"b\r\nset-cookie: x=1', "text/html", "a%22b%0D%0Aset-cookie%3A%20x%3D1", "text/html"),
        ("../ü.html", "text/html; charset=utf-8", "..%2F%C3%BC.html", "text/html; charset=utf-8"),
        ("", "text/html\r\nx: y", "", "application/octet-stream"),
        ("x", "", "x", "application/octet-stream"),
        ("x", "ü/ü", "x", "application/octet-stream"),
    ],
)
async def test_a_hostile_name_or_media_type_cannot_leave_its_header(
    client: httpx.AsyncClient, server: Server, name: str, media_type: str, disposition: str, content_type: str
) -> None:
    server.download = artifact(b"x", name=name, media_type=media_type)
    response = await client.get("/artifacts/a")
    plain = f'filename="{name}"; ' if name == "x" else ""
    expected = f"attachment; {plain}filename*=UTF-8''{disposition}"
    assert response.headers["content-disposition"] == expected
    assert response.headers["content-type"] == content_type


async def test_an_artifact_that_is_not_there_is_a_problem(client: httpx.AsyncClient) -> None:
    problem(await client.get("/artifacts/a"), 404, "ARTIFACT_NOT_FOUND")


async def test_head_of_an_artifact_ends_the_download(client: httpx.AsyncClient, server: Server) -> None:
    server.download = endless
    response = await client.head("/artifacts/a")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(2**40)
    await asyncio.wait_for(server.download_ended.wait(), SECONDS)


async def endless(context: Context) -> AsyncIterator[Message]:
    response = artifact_service_pb2.DownloadArtifactResponse
    yield response(header=response.Header(name="x", media_type="a/b", size=2**40))
    while True:
        yield response(data=b"x" * 65_536)
        await asyncio.sleep(0)


async def silent(context: Context) -> AsyncIterator[Message]:
    await asyncio.sleep(60)
    yield artifact_service_pb2.DownloadArtifactResponse()


async def nameless(context: Context) -> AsyncIterator[Message]:
    yield artifact_service_pb2.DownloadArtifactResponse(data=b"x")


async def nothing_at_all(context: Context) -> AsyncIterator[Message]:
    return
    yield


@pytest.mark.parametrize(
    ("download", "status", "reason"),
    [(silent, 504, "DEADLINE_EXCEEDED"), (nameless, 500, "INTERNAL"), (nothing_at_all, 500, "INTERNAL")],
)
async def test_a_download_that_does_not_begin_is_a_problem(
    client: httpx.AsyncClient, server: Server, download: Any, status: int, reason: str
) -> None:
    server.download = download
    problem(await client.get("/artifacts/a"), status, reason)


async def begin_download(app: ASGIApp, receive: Any, third: asyncio.Event | None = None) -> list[Any]:
    """Asks for an artifact; what the gateway sends before it ends. The third message is told."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if third is not None and len(sent) == 3:
            third.set()
        await asyncio.sleep(0)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/artifacts/a",
        "raw_path": b"/artifacts/a",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer good")],
    }
    await asyncio.wait_for(app(scope, receive, send), SECONDS)
    return sent


async def test_the_download_ends_when_the_caller_goes_away(running: Running, server: Server) -> None:
    server.download = endless
    requests = [{"type": "http.request", "body": b"", "more_body": False}]
    begun = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if requests:
            return requests.pop()
        await begun.wait()
        return {"type": "http.disconnect"}

    sent = await begin_download(running.app, receive, begun)
    assert len(sent) > 2
    await asyncio.wait_for(server.download_ended.wait(), SECONDS)


@pytest.mark.parametrize(("data", "size"), [((b"abc",), 4), ((b"abc", b"de"), 3)])
async def test_a_download_that_is_not_as_long_as_announced_is_cut_off(
    running: Running, server: Server, data: tuple[bytes, ...], size: int
) -> None:
    server.download = artifact(*data, size=size)
    requests = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if requests:
            return requests.pop()
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    sent = await begin_download(running.app, receive)
    assert b"".join(message.get("body", b"") for message in sent) == b"abc"
    assert sent[-1].get("more_body") is True, "the answer is never completed, so the caller sees it is short"
