"""Calls from pages of other origins: which may read what, and that by default none may."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from runengine_gateway.app import create_gateway
from runengine_server.settings import SettingsError, read_settings

ORIGIN = "https://shop.example"


@pytest.fixture
async def caller() -> AsyncIterator[httpx.AsyncClient]:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        transport = httpx.ASGITransport(
            create_gateway(channel, cors_origins=(ORIGIN, "http://localhost:5173"))
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as caller:
            yield caller


def asks(origin: str, method: str = "GET", headers: str = "authorization") -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": headers,
    }


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "DELETE"])
async def test_a_page_may_call_each_method_with_each_header_of_the_api(
    caller: httpx.AsyncClient, method: str
) -> None:
    headers = "authorization, content-type, idempotency-key, last-event-id, traceparent"
    answer = await caller.options("/runs/x", headers=asks(ORIGIN, method, headers))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert method in answer.headers["access-control-allow-methods"]
    assert set(headers.split(", ")) <= set(answer.headers["access-control-allow-headers"].lower().split(", "))
    assert "access-control-allow-credentials" not in answer.headers


async def test_a_page_may_read_errors_and_the_headers_that_callers_need(caller: httpx.AsyncClient) -> None:
    # The server behind the gateway is away: 503 for all.
    answer = await caller.get("/runs", headers={"origin": ORIGIN})
    assert answer.status_code == 503
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["vary"] == "Origin"
    assert set(answer.headers["access-control-expose-headers"].split(", ")) == {
        "content-disposition", "idempotency-replayed", "retry-after", "runengine-campaign",
        "runengine-workers", "www-authenticate",
    }  # fmt: skip


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://shop.example", "https://shop.example.evil.example", "null",
               "https://shop.example:8443", "https://SHOP.example"],
)  # fmt: skip
async def test_another_origin_is_not_named(caller: httpx.AsyncClient, origin: str) -> None:
    preflight = await caller.options("/runs", headers=asks(origin))
    assert preflight.status_code == 400
    answer = await caller.get("/runs", headers={"origin": origin})
    for each in (preflight, answer):
        assert "access-control-allow-origin" not in each.headers
        assert "Origin" in each.headers["vary"]


async def test_a_response_to_no_page_says_that_it_depends_on_the_origin(caller: httpx.AsyncClient) -> None:
    assert (await caller.get("/console")).headers["vary"] == "Origin"


@pytest.mark.parametrize(("method", "headers"), [("PUT", "authorization"), ("GET", "x-tenant-id")])
async def test_another_method_or_header_is_refused(
    caller: httpx.AsyncClient, method: str, headers: str
) -> None:
    assert (await caller.options("/runs", headers=asks(ORIGIN, method, headers))).status_code == 400


async def test_no_origin_is_named_by_default() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        transport = httpx.ASGITransport(create_gateway(channel))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as caller:
            answers = [
                await caller.get("/runs", headers={"origin": ORIGIN}),
                await caller.options("/runs", headers=asks(ORIGIN)),
            ]
    assert [each.status_code for each in answers] == [503, 405]
    for answer in answers:
        assert not any(name.startswith("access-control") or name == "vary" for name in answer.headers)


def test_the_setting_takes_origins_as_browsers_send_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "RUNENGINE_CORS_ORIGINS", "https://shop.example, http://localhost:5173,http://[::1]:80801"
    )
    with pytest.raises(SettingsError):
        read_settings()
    monkeypatch.setenv(
        "RUNENGINE_CORS_ORIGINS", "https://shop.example, http://localhost:5173,http://[::1]:8080"
    )
    assert read_settings().cors_origins == (ORIGIN, "http://localhost:5173", "http://[::1]:8080")
    monkeypatch.delenv("RUNENGINE_CORS_ORIGINS")
    assert read_settings().cors_origins == ()


@pytest.mark.parametrize(
    "value", ["", "*", "null", "shop.example", "https://shop.example/", "https://Shop.example", "ftp://shop.example",
              "https://shop.example:443", "http://shop.example:80", "https://*.shop.example", "https://a@b.example",
              "https://", "https://shop.example:", "https://shop.example:0", "https://shop.example?x"],
)  # fmt: skip
def test_the_setting_refuses_what_no_browser_sends(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RUNENGINE_CORS_ORIGINS", value)
    with pytest.raises(SettingsError, match=r"^RUNENGINE_CORS_ORIGINS "):
        read_settings()
