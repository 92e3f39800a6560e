"""Makes the picture of the README: `make pictures`. A run of the sample, half way."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from playwright.async_api import expect
from runengine_client import RunEngineClient
from runengine_server.auth import development

from tests.e2e.console.browser import Console, started_browser
from tests.e2e.console.views import BRIEF
from tests.support.patience import SECONDS
from tests.support.stack import ROOT, free_address
from tests.support.up import Up, running

PICTURE = ROOT / "docs" / "pictures" / "run.png"
# Long enough for the picture to find several steps side by side.
PACE = {"paceSeconds": 3}


async def main() -> None:
    """Starts everything on free ports, and stops it again."""
    with tempfile.TemporaryDirectory(prefix="runengine-pictures-") as directory:
        up = Up(Path(directory), REST_ADDRESS=(address := free_address()))
        async with running(up), started_browser() as browser:
            token = development.sign(Path(directory), "org_demo", "user_demo", 3600)
            async with RunEngineClient(up.grpc_address, token) as client:
                campaign = await client.create_campaign()
                run = await client.trigger_run(
                    "campaign-bundle", trigger_payload=BRIEF | PACE, context={"campaignId": campaign.id}
                )
            page = await Console(browser, address).open(token, f"/runs/{run.id}", height=700)
            await expect(page.locator(".bar.is-running")).to_have_count(3, timeout=SECONDS * 1000)
            await page.wait_for_timeout(1500)  # so that the bars are to be seen; proves nothing
            PICTURE.parent.mkdir(exist_ok=True)
            await page.screenshot(path=PICTURE)


if __name__ == "__main__":
    asyncio.run(main())
