"""The files of the console: how they are served, and what they may not have in them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from runengine_gateway.app import create_gateway
from runengine_gateway.console_files import console_files

# Of all files of our own together: scripts, styles and markup, comments and all, uncompressed.
MOST_BYTES = 80 * 1024
MOST_LINES = 400
FILES = dict(console_files())
# Files of others, by the digest of what is published: after the comments on what it is and its licence.
VENDORED = {
    "dagre.js": "b0ddaf4af1417bec9bd89373a3a3987f081727d6cc6d95fc40dbf85a19bdf3b0",
    "unzipit.js": "139a2cf79cc0eff42a2a43b8cc6c98a9632f3bbb6decdebecb6f41d8699e0f93",
}
OWN = [name for name in FILES if name not in VENDORED]


@pytest.fixture
async def caller() -> AsyncIterator[httpx.AsyncClient]:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        transport = httpx.ASGITransport(create_gateway(channel))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as caller:
            yield caller


async def test_the_page_is_served_without_a_token(caller: httpx.AsyncClient) -> None:
    page = await caller.get("/console")
    assert page.status_code == 200
    assert page.content == FILES["index.html"]
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cross-origin-opener-policy"] == "same-origin"
    assert page.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", FILES)
async def test_a_file_is_served_with_its_type_and_kept_until_it_changes(
    caller: httpx.AsyncClient, name: str
) -> None:
    types = {
        "html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8",
        "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml",
    }  # fmt: skip
    response = await caller.get(f"/console/{name}")
    assert response.status_code == 200
    assert response.content == FILES[name]
    assert response.headers["content-type"] == types[name.rpartition(".")[2]]
    assert response.headers.get_list("cache-control") == ["no-cache"]
    assert response.headers["x-content-type-options"] == "nosniff"
    etag = response.headers["etag"]
    for known in (etag, f"W/{etag}", f'"another", {etag}'):
        again = await caller.get(f"/console/{name}", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    other = await caller.get(f"/console/{name}", headers={"if-none-match": '"another"'})
    assert other.status_code == 200


@pytest.mark.parametrize("path", ["/console", "/docs"])
async def test_a_page_with_a_slash_leads_to_the_page(caller: httpx.AsyncClient, path: str) -> None:
    response = await caller.get(f"{path}/")
    assert response.status_code == 308
    assert response.next_request is not None
    assert response.next_request.url.path == path


async def test_the_root_names_the_pages(caller: httpx.AsyncClient) -> None:
    named = (await caller.get("/")).json()
    for name in ("console", "docs", "openapi"):
        assert (await caller.get(named[name])).status_code == 200


async def test_a_head_has_no_body(caller: httpx.AsyncClient) -> None:
    response = await caller.head("/console")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(len(FILES["index.html"]))


@pytest.mark.parametrize("path", ["/console//", "/console/none.js", "/console/..%2fapp.py", "/console/a/b"])
async def test_another_path_is_404(caller: httpx.AsyncClient, path: str) -> None:
    response = await caller.get(path)
    assert (response.status_code, response.json()["reason"]) == (404, "NOT_FOUND")
    assert response.headers.get_list("cache-control") == ["no-store"]


async def test_the_console_runs_its_own_files_alone(caller: httpx.AsyncClient) -> None:
    policy = directives((await caller.get("/console")).headers["content-security-policy"])
    assert policy["default-src"] == ["'none'"]
    for name in ("script-src", "style-src", "connect-src", "frame-src"):
        assert policy[name] == ["'self'"]
    assert set(policy["img-src"]) == {"'self'", "blob:", "data:"}
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert policy[name] == ["'none'"]
    assert policy["require-trusted-types-for"] == ["'script'"]


async def test_the_preview_is_of_no_origin_and_runs_its_own_script_alone(caller: httpx.AsyncClient) -> None:
    response = await caller.get("/console/preview.html")
    policy = directives(response.headers["content-security-policy"])
    scripts = re.findall(r"<script>(.*?)</script>", response.text, re.DOTALL)
    (digest,) = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy["sandbox"] == ["allow-scripts"]
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == [f"'sha256-{digest}'"]
    assert policy["img-src"] == policy["font-src"] == ["data:"]
    assert policy["frame-ancestors"] == ["'self'"]
    assert "connect-src" not in policy


def directives(policy: str) -> dict[str, list[str]]:
    return {name: values for name, *values in (each.split() for each in policy.split(";"))}


def test_the_console_is_small() -> None:
    assert sum(len(FILES[name]) for name in OWN) < MOST_BYTES


@pytest.mark.parametrize("name", VENDORED)
def test_a_vendored_file_is_as_it_is_published(name: str) -> None:
    notice, _, published = FILES[name].partition(b"*/\n")
    assert b"@license" in notice
    assert hashlib.sha256(published).hexdigest() == VENDORED[name]


@pytest.mark.parametrize("name", FILES)
def test_a_file_names_no_other_host(name: str) -> None:
    # A comment may: it is read by people.
    text = re.sub(r"^\s*//.*$", "", FILES[name].decode(), flags=re.MULTILINE)
    found = set(re.findall(r"(?:https?:|wss?:)?//[\w.-]+\.\w+[^\s\"')]*", text))
    assert found <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}


@pytest.mark.parametrize("name", OWN)
def test_a_file_keeps_the_rules_of_the_house(name: str) -> None:
    text = FILES[name].decode()
    assert len(text.splitlines()) <= MOST_LINES
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "new Function", "srcdoc"):
        assert forbidden not in text
    for storage in ("localStorage", "sessionStorage", "indexedDB", "document.cookie", "caches."):
        assert storage not in text


async def test_the_page_names_all_modules_at_once(caller: httpx.AsyncClient) -> None:
    modules = {name for name in FILES if name.endswith(".js")}
    links = (await caller.get("/console")).headers["link"]
    assert set(re.findall(r"<console/([\w.]+)>; rel=modulepreload", links)) == modules
    for name in modules:
        assert set(re.findall(r'from "\./([\w.]+)"', FILES[name].decode())) <= modules
