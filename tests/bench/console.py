"""`python -m tests.bench.console`: how long a person waits for the console, by how many runs there are.

PostgreSQL, `serve`, gateway and Chromium are on one machine. Each tenant has one campaign, with 9 of 10
runs completed and 1 failed. Each figure is the median of rounds in turn, in ms until what was asked for is
drawn: of the first view from the first byte of the page, of the others from the click.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from statistics import median
from uuid import UUID

import asyncpg
from playwright.async_api import Page
from runengine_client import RunEngineClient

from tests.bench.data import run_columns, settle
from tests.e2e.console.browser import started_browser
from tests.support.patience import SECONDS
from tests.support.stack import Stack, open_directory, own_postgres

# A thousand fill a page too, of each kind: what a million take more than they is the million's.
_TENANTS = {"org_ten": 10, "org_thousand": 1000, "org_million": 1_000_000}
_ROUNDS = 9

_ROWS = "document.querySelector('tbody tr')"
# What is done in the page, and what is to be seen then. The small tenant has no second page.
_VIEWS = {
    "filter chip": (
        "document.querySelector('.chip.is-failed').click()",
        f"{_ROWS} && !document.querySelector('tbody .is-completed')",
    ),
    "next page": (
        "[...document.querySelectorAll('.pager button')].at(-1).click()",
        "document.querySelector('.pager .soft').textContent === 'Page 2'",
    ),
    "campaign": (
        "location.hash = '/campaigns/CAMPAIGN'",
        f"document.title.startsWith('Campaign') && document.querySelector('.count') && {_ROWS}",
    ),
}
_FIRST = "first view"
_FIRST_DRAWN = f"""
const look = () => {{ {_ROWS} ? window.drawnAt = performance.now() : requestAnimationFrame(look); }};
look();"""


async def _fill(database: asyncpg.Connection, run_id: UUID, count: int, apart: int) -> None:
    """Copies of an ended run, so many ms apart, the newest first."""
    at = f"run.created_at - n * {apart} * interval '1 ms'"
    # Field 1 of the encoded run is its id, as text after two bytes.
    own = {"id": "made.id", "encoded_input": "overlay(run.encoded_input placing made.id::text::bytea from 3)"}
    own |= dict.fromkeys(("created_at", "queued_at", "updated_at", "started_at", "completed_at"), at)
    names = await run_columns(database)
    await database.execute(
        f"""INSERT INTO runs ({", ".join(names)})
        SELECT {", ".join(own.get(name, f"run.{name}") for name in names)}
        FROM runs AS run, generate_series(1, {count}) AS n,
            LATERAL (SELECT uuidv7({at} - now()) OFFSET 0) AS made (id)
        WHERE run.id = '{run_id}'"""
    )


async def _prepare(stack: Stack, database: asyncpg.Connection, tenant: str, count: int) -> str:
    """Returns the tenant's campaign."""
    async with RunEngineClient(stack.grpc_address, stack.token(tenant)) as client:
        campaign = await client.create_campaign()
        runs = [
            await client.trigger_run(workflow, context={"campaignId": campaign.id})
            for workflow in ("two-artifacts", "rejecting")
        ]
        for run in runs:
            await client.wait(run.id, timeout_seconds=SECONDS)
    # One failed run in ten, so that a page has both.
    for run, copies, apart in zip(runs, (count * 9 // 10, count // 10), (1, 10), strict=True):
        await _fill(database, UUID(run.id), copies - 1, apart)
    await database.execute(
        """INSERT INTO campaign_run_counts AS known (tenant_id, campaign_id, slot, completed, failed)
        SELECT tenant_id, campaign_id, get_byte(uuid_send(id), 15) % 16 AS slot,
            count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'failed')
        FROM runs WHERE tenant_id = $1 GROUP BY tenant_id, campaign_id, slot
        ON CONFLICT (tenant_id, campaign_id, slot)
        DO UPDATE SET completed = excluded.completed, failed = excluded.failed""",
        tenant,
    )
    return campaign.id


async def _until(page: Page, act: str, seen: str) -> float:
    """Acts, and returns the ms until it is seen. Not `wait_for_function`, which the page's policy forbids."""
    took: float = await page.evaluate(f"""async () => {{
      const begun = performance.now();
      {act};
      while (!({seen})) {{
        await new Promise(requestAnimationFrame);
        if (performance.now() - begun > {SECONDS * 1000}) throw new Error("It is not to be seen.");
      }}
      return performance.now() - begun;
    }}""")
    return took


async def _look(page: Page, campaign: str) -> AsyncIterator[tuple[str, float]]:
    await _until(page, "", "window.drawnAt")
    yield _FIRST, await page.evaluate("drawnAt - performance.getEntriesByType('navigation')[0].responseStart")
    for name, (act, seen) in _VIEWS.items():
        if name == "next page":
            await _until(page, "location.hash = '/runs'", "document.querySelector('tbody .is-completed')")
            if not await page.locator(".pager").count():
                continue
        yield name, await _until(page, act.replace("CAMPAIGN", campaign), seen)


async def main() -> None:
    """Measures, and prints."""
    figures: dict[tuple[str, str], list[float]] = {}
    with open_directory() as directory:
        async with own_postgres(directory) as (_, url):
            stack = Stack(url, directory)
            children = await stack.start("serve", "gateway", "worker")
            database = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
            campaigns = {
                each: await _prepare(stack, database, each, count) for each, count in _TENANTS.items()
            }
            await children[-1].stop()
            await settle(database)
            async with started_browser() as browser:
                for _ in range(_ROUNDS):
                    for tenant, campaign in campaigns.items():
                        context = await browser.new_context(viewport={"width": 1360, "height": 860})
                        await context.add_init_script(_FIRST_DRAWN)
                        page = await context.new_page()
                        await page.goto(f"http://{stack.rest_address}/console#token={stack.token(tenant)}")
                        async for name, took in _look(page, campaign):
                            figures.setdefault((name, tenant), []).append(took)
                        await context.close()
            await database.close()
            await stack.stop()
    print(f"{'ms':12}", *(f"{count:>10,} runs" for count in _TENANTS.values()))
    for name in (_FIRST, *_VIEWS):
        medians = [median(figures.get((name, tenant), [float("nan")])) for tenant in _TENANTS]
        print(f"{name:12}", *(f"{each:15.0f}" for each in medians))


if __name__ == "__main__":
    asyncio.run(main())
