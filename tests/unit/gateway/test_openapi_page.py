"""The page that shows the OpenAPI document to people."""

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from runengine_gateway.app import create_gateway
from runengine_gateway.docs_page import docs_endpoint
from runengine_gateway.openapi import openapi_document
from runengine_gateway.routes import bindings
from starlette.requests import Request


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_document(bindings())


@pytest.fixture
async def answer() -> AsyncIterator[httpx.Response]:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        transport = httpx.ASGITransport(create_gateway(channel))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as caller:
            yield await caller.get("/docs")


async def test_the_page_shows_every_operation_error_and_schema(
    answer: httpx.Response, document: dict[str, Any]
) -> None:
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for path, item in document["paths"].items():
        for operation in item.values():
            assert f'id="{operation["operationId"]}"' in answer.text
            assert f">{path}</a>" in answer.text
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in answer.text
    for response in document["components"]["responses"]:
        for reason in response.split("."):
            assert f"<code>{reason}</code>" in answer.text


async def test_the_headings_of_the_page_are_words(answer: httpx.Response) -> None:
    assert answer.text.count("<h2>Bulk operations</h2>") == 2
    assert not re.search("<h2>[A-Z][a-z]+[A-Z]", answer.text)


async def test_the_links_of_the_page_lead_somewhere(answer: httpx.Response) -> None:
    anchors = set(re.findall(r'id="([^"]+)"', answer.text))
    links = set(re.findall(r'href="([^"]+)"', answer.text))
    assert {link for link in links if link.removeprefix("#") not in anchors} == {"/openapi.json"}


async def test_the_page_loads_nothing_and_runs_no_script(answer: httpx.Response) -> None:
    assert not re.search(r"<script|<link|<img|<iframe|\bsrc=|\bstyle=|\bon\w+=|@import|url\(", answer.text)
    policy = answer.headers["content-security-policy"]
    style = re.search("<style>(.*?)</style>", answer.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"style-src 'sha256-{digest}'" in policy


async def test_words_of_the_document_are_shown_as_text(document: dict[str, Any]) -> None:
    evil = "<b onclick='x()'>`&\"</b>"

    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            # Words that the page looks for stay; whatever it shows is poisoned.
            shown = {"title", "version", "description", "summary"}
            return {
                key: evil if key in shown and isinstance(each, str) else poisoned(each)
                for key, each in value.items()
            }
        return [poisoned(each) for each in value] if isinstance(value, list) else value

    served = await docs_endpoint(poisoned(document))(Request({"type": "http", "method": "GET"}))
    page = bytes(served.body).decode()
    assert "<b " not in page
    assert "</b>" not in page
    assert "&lt;b onclick=&#x27;x()&#x27;&gt;" in page
