"""One browser a test worker, and the console of the stack's gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from tests.e2e.console.browser import CHROMIUM, Console, started_browser
from tests.support.stack import Stack


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    async with started_browser() as browser:
        yield browser


@pytest.fixture
async def console(browser: Browser, stack: Stack) -> AsyncIterator[Console]:
    console = Console(browser, stack.rest_address)
    yield console
    for context in browser.contexts:
        await context.close()
    assert console.faults == []
