"""A browser, and the console in it as a person sees it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import quote

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright

from tests.support.patience import SECONDS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

Scheme = Literal["light", "dark"]


@asynccontextmanager
async def started_browser() -> AsyncIterator[Browser]:
    """Debian's Chromium; none is downloaded."""
    async with async_playwright() as playwright:
        # Root may not have a sandbox; it is our own page that is shown.
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


class Console:
    """Opens the console of one gateway. Each page is of its own context: they share no token."""

    def __init__(self, browser: Browser, rest_address: str) -> None:
        self._browser = browser
        self.url = f"http://{rest_address}/console"
        self.faults: list[str] = []

    async def open(
        self,
        token: str | None,
        to: str = "/runs",
        *,
        scheme: Scheme = "light",
        width: int = 1280,
        height: int = 860,
    ) -> Page:
        context = await self._browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": height}, reduced_motion="reduce"
        )
        context.set_default_timeout(SECONDS * 1000)
        page = await context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on(
            "console", lambda said: self.faults.append(said.text) if "Content Security" in said.text else None
        )
        fragment = f"#{to}" if token is None else f"#token={token}&to={quote(to, safe='')}"
        await page.goto(self.url + fragment)
        return page


async def faults_of(page: Page) -> list[str]:
    """What axe-core finds wrong with the page, each with its place and what would be right."""
    results = await Axe().run(page, options={"iframes": False, "resultTypes": ["violations"]})
    return [
        f"{found['id']}: {node['html']} {node['failureSummary']}"
        for found in results.response["violations"]
        for node in found["nodes"]
    ]
