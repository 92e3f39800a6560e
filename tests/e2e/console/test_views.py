"""Each view, light and dark, narrow and wide: axe-core finds no fault, and nothing is cut off."""

from __future__ import annotations

from itertools import product
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

WIDTHS = (360, 1360)
SCHEMES: tuple[Scheme, ...] = ("light", "dark")

# What follows the size of the page is drawn in the frame of the new size; the second callback comes after it.
DRAWN = "new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))"

expect.set_options(timeout=SECONDS * 1000)


@pytest.fixture
async def views(client: RunEngineClient, gates: Gates) -> Views:
    return await prepared(client, gates)


async def test_each_view_is_accessible_and_fits(console: Console, token: str, views: Views) -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, (to, ready) in views.items():
        # Loaded once: to load it costs as much as to look at it three times.
        page = await console.open(None if name == "sign-in" else token, to, width=WIDTHS[0])
        await expect(page.locator(ready).first).to_be_visible()
        # No more than one at a time comes from the server then.
        await expect(page.get_by_text("Loading…")).to_have_count(0)
        for width, scheme in product(WIDTHS, SCHEMES):
            seen = f"{name}-{scheme}-{width}"
            await page.set_viewport_size({"width": width, "height": 860})
            await page.emulate_media(color_scheme=scheme)
            await page.evaluate(DRAWN)
            await expect(page.locator(ready).first).to_be_visible()
            await page.screenshot(path=PICTURES / f"{seen}.png", full_page=True)
            assert await faults_of(page) == [], seen
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, seen
        await page.context.close()


def test_pictures_are_not_committed() -> None:
    assert f"{PICTURES.name}/" in Path(ROOT / ".gitignore").read_text().splitlines()
