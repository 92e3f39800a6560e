"""What REST takes from clients that write their requests in another way than ours."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.stack import OVER_BOTH


async def no_chunks() -> AsyncIterator[bytes]:
    """A body that is sent in chunks, of which there are none."""
    return
    yield b""


@OVER_BOTH
@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"content": b"", "headers": {"content-type": "application/json"}},
        {"content": b"", "headers": {"content-type": "application/x-www-form-urlencoded"}},
        {"content": no_chunks()},
        {"content": no_chunks(), "headers": {"content-type": "application/json; charset=utf8"}},
        {"json": {"id": None}},
    ],
)
async def test_a_campaign_needs_no_body(rest: httpx.AsyncClient, sent: dict[str, Any]) -> None:
    created = await rest.post("/campaigns", **sent)
    assert (created.status_code, created.json()["status"]) == (201, "draft")


@OVER_BOTH
async def test_a_run_whose_optional_members_are_null_is_one_without_them(rest: httpx.AsyncClient) -> None:
    body = {"workflowName": "unserved", "triggerPayload": None, "context": None, "priority": None}
    run = await rest.post("/runs", json=body)
    assert run.status_code == 201
    given = {name: run.json()[name] for name in body}
    assert given == {**body, "priority": 0}


@OVER_BOTH
async def test_null_for_a_required_member_is_refused_as_if_it_were_missing(rest: httpx.AsyncClient) -> None:
    null, missing = [await rest.post("/runs", json=body) for body in ({"workflowName": None}, {})]
    assert null.status_code == missing.status_code == 400
    assert [each["field"] for each in null.json()["violations"]] == ["workflowName"]
    assert null.json() == missing.json()


@OVER_BOTH
@pytest.mark.parametrize(
    ("charset", "status"), [("utf8", 201), ('"UTF-8"; profile=a', 201), ("iso-8859-1", 415)]
)
async def test_a_body_is_taken_by_its_charset(rest: httpx.AsyncClient, charset: str, status: int) -> None:
    body = '{"workflowName": "unserved", "triggerPayload": {"name": "Grüße"}}'
    headers = {"content-type": f"application/json; charset={charset}"}
    run = await rest.post("/runs", content=body.encode(), headers=headers)
    assert run.status_code == status
    if status == 201:
        assert run.json()["triggerPayload"] == {"name": "Grüße"}
