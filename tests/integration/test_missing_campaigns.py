"""A trigger that names a campaign which does not exist says so, and is queued all the same."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from typing import Any

import httpx
import pytest
from runengine_client import RunEngineClient

from tests.support.stack import Stack, environment


@pytest.fixture
async def campaign(client: RunEngineClient) -> str:
    return (await client.create_campaign()).id


@pytest.fixture
async def anothers(stack: Stack) -> str:
    """A campaign of another tenant."""
    async with stack.client(stack.token(f"org_{uuid.uuid4().hex}")) as other:
        return (await other.create_campaign()).id


async def test_a_run_of_a_campaign_that_does_not_exist_is_triggered_and_the_response_says_so(
    rest: httpx.AsyncClient, campaign: str, anothers: str
) -> None:
    async def header(context: dict[str, Any] | None, key: str | None = None) -> str | None:
        headers = None if key is None else {"idempotency-key": key}
        body = {"workflowName": "unserved", "context": context}
        response = await rest.post("/runs", json=body, headers=headers)
        assert (response.status_code, response.json()["context"]) == (201, context)
        told: str | None = response.headers.get("runengine-campaign")
        return told

    absent, key = {"campaignId": str(uuid.uuid4())}, uuid.uuid4().hex
    assert await header(absent, key) == "missing"
    assert await header(absent, key) is None  # a replay
    assert await header({"campaignId": anothers}) == "missing"
    assert await header({"campaignId": campaign}) is None
    assert await header({}) is None
    assert await header(None) is None
    assert (await rest.post("/campaigns", json={"id": absent["campaignId"]})).status_code == 201
    assert await header(absent) is None


async def test_the_client_is_told_of_a_campaign_that_does_not_exist(
    client: RunEngineClient, campaign: str
) -> None:
    told: list[str] = []
    for campaign_id in (campaign, str(uuid.uuid4()), None):
        await client.trigger_run(
            "unserved", campaign_id=campaign_id, on_no_campaign=lambda: told.append("missing")
        )
    assert told == ["missing"]


async def test_the_command_says_that_a_campaign_does_not_exist_and_goes_on(stack: Stack, token: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runengine_client", "--json", "trigger", "rejecting",
        "--campaign", str(uuid.uuid4()),
        env={**environment(TOKEN=token, GRPC_ADDRESS=stack.grpc_address), "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, json.loads(out)["status"]) == (0, "queued")
    # A second line where the worker has said late that it serves the workflow.
    assert "there is no such campaign: the run updates none" in err.decode().splitlines()
