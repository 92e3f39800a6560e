"""Two tenants see nothing of each other."""

from __future__ import annotations

import asyncio
import uuid

import httpx
import pytest

from tests.support.patience import SECONDS
from tests.support.stack import Stack


@pytest.fixture
def foreign(stack: Stack) -> httpx.AsyncClient:
    """The gateway as another tenant sees it."""
    return stack.rest(stack.token(f"org_{uuid.uuid4().hex}"))


async def test_the_things_of_another_tenant_look_like_absent_ones_to_the_byte(
    rest: httpx.AsyncClient, foreign: httpx.AsyncClient
) -> None:
    campaign = (await rest.post("/campaigns", json={})).json()
    body = {"workflowName": "two-artifacts", "context": {"campaignId": campaign["id"]}}
    run = (await rest.post("/runs", json=body)).json()
    async with asyncio.timeout(SECONDS):
        while not (steps := (await rest.get(f"/runs/{run['id']}/steps")).json()["steps"]) or (
            steps[0]["status"] != "completed"
        ):
            pass
    artifact = steps[0]["outputArtifactIds"][0]
    absent = str(uuid.uuid4())
    assert (await rest.get(f"/artifacts/{artifact}")).content == b"one.txt"
    async with foreign:
        for method, path, own in [
            ("GET", "/runs/{}", run["id"]),
            ("GET", "/runs/{}/steps", run["id"]),
            ("POST", "/runs/{}/retry", run["id"]),
            ("POST", "/runs/{}/resume", run["id"]),
            ("DELETE", "/runs/{}", run["id"]),
            ("GET", "/campaigns/{}", campaign["id"]),
            ("GET", "/artifacts/{}", artifact),
        ]:
            given = {"value": True} if path.endswith("/resume") else None
            hidden = await foreign.request(method, path.format(own), json=given)
            missing = await foreign.request(method, path.format(absent), json=given)
            assert hidden.status_code == 404
            assert (hidden.content, hidden.headers) == (missing.content, missing.headers)
        page = (await foreign.get(f"/campaigns/{campaign['id']}/runs")).json()
        assert (page["runs"], page["total"]) == ([], 0)


async def test_the_same_campaign_id_is_two_campaigns(
    rest: httpx.AsyncClient, foreign: httpx.AsyncClient
) -> None:
    campaign_id = str(uuid.uuid4())
    assert (await rest.post("/campaigns", json={"id": campaign_id})).status_code == 201
    body = {"workflowName": "bundling", "context": {"campaignId": campaign_id}}
    await rest.post("/runs", json=body)
    async with asyncio.timeout(SECONDS):
        while (await rest.get(f"/campaigns/{campaign_id}")).json()["status"] == "draft":
            pass
    async with foreign:
        assert (await foreign.get(f"/campaigns/{campaign_id}")).status_code == 404
        created = await foreign.post("/campaigns", json={"id": campaign_id})
        assert (created.status_code, created.json()["status"]) == (201, "draft")


async def test_a_call_needs_a_token_with_an_organisation(stack: Stack, rest: httpx.AsyncClient) -> None:
    for headers in ({}, {"authorization": "Bearer x.y.z"}, {"authorization": "Basic eA=="}):
        async with stack.rest() as anonymous:
            response = await anonymous.get(f"/runs/{uuid.uuid4()}", headers=headers)
            assert (response.status_code, response.json()["reason"]) == (401, "UNAUTHENTICATED")
