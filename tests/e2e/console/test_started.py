"""What `runengine-server up` prints for the console, and pages of other origins, on real processes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.support.patience import SECONDS
from tests.support.stack import free_address
from tests.support.up import Up, running

expect.set_options(timeout=SECONDS * 1000)

CALL = """async ([url, token]) => {
  const authorization = `Bearer ${token}`;
  const headers = { authorization, "content-type": "application/json", "idempotency-key": "one" };
  const body = JSON.stringify({ workflowName: "campaign-bundle" });
  const responses = [];
  for (let time = 0; time < 2; time += 1) responses.push(await fetch(url, { method: "POST", headers, body }));
  return responses.map((each) => [each.status, each.headers.get("idempotency-replayed")]);
}"""


async def test_the_link_that_is_printed_just_works_and_a_named_origin_may_call(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory: Path = tmp_path_factory.mktemp("up")
    address = free_address()
    port = address.rpartition(":")[2]
    up = Up(directory, REST_ADDRESS=address, CORS_ORIGINS=f"http://localhost:{port}")
    async with running(up) as greeting:
        (link,) = re.findall(rf"^http://{address}/console#token=\S+$", greeting, re.MULTILINE)
        page = await browser.new_page()
        await page.goto(link)
        await expect(page.get_by_role("heading", name="Runs")).to_be_visible()
        await expect(page.get_by_role("button", name="org_demo")).to_be_visible()
        assert page.url == f"http://{address}/console#/runs"

        # The same gateway under another name is of another origin.
        token = link.partition("#token=")[2]
        other = await browser.new_page()
        await other.goto(f"http://localhost:{port}/openapi.json")
        answers = await other.evaluate(CALL, [f"http://{address}/runs", token])
        assert answers == [[201, None], [201, "true"]]
        await expect(page.locator("tbody tr")).to_have_count(1)
        # And one that is not named may not read a thing.
        await other.goto(f"http://{address}/openapi.json")
        refused = f"fetch('http://localhost:{port}/runs').then(() => 'read', (error) => error.name)"
        assert await other.evaluate(refused) == "TypeError"
        await page.close()
        await other.close()
