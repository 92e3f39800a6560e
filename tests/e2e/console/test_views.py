"""Each view, light and dark, narrow and wide: axe-core finds no fault, and nothing is cut off."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import expect
from runengine_client import RunEngineClient

from tests.e2e.console.browser import Console, Scheme, faults_of
from tests.e2e.console.views import Views, prepared
from tests.support.gates import Gates
from tests.support.patience import SECONDS
from tests.support.stack import ROOT

PICTURES = ROOT / ".pictures"

expect.set_options(timeout=SECONDS * 1000)


@pytest.fixture
async def views(client: RunEngineClient, gates: Gates) -> Views:
    return await prepared(client, gates)


@pytest.mark.parametrize("width", [360, 1360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_each_view_is_accessible_and_fits(
    console: Console, token: str, views: Views, scheme: Scheme, width: int
) -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, (to, ready) in views.items():
        page = await console.open(None if name == "sign-in" else token, to, scheme=scheme, width=width)
        await expect(page.locator(ready).first).to_be_visible()
        # No more than one at a time comes from the server then.
        await expect(page.get_by_text("Loading…")).to_have_count(0)
        await page.screenshot(path=PICTURES / f"{name}-{scheme}-{width}.png", full_page=True)
        assert await faults_of(page) == [], name
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, name
        await page.context.close()


def test_pictures_are_not_committed() -> None:
    assert f"{PICTURES.name}/" in Path(ROOT / ".gitignore").read_text().splitlines()
