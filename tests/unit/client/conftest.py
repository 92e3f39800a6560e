"""A server in this process that answers what each test tells it to, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runengine_client import RunEngineClient

from tests.support.answering_server import Engine, serving
from tests.support.client_command import Command


@pytest.fixture
async def engine() -> Engine:
    return Engine()


@pytest.fixture
async def address(engine: Engine) -> AsyncIterator[str]:
    async with serving(engine) as address:
        yield address


@pytest.fixture
async def client(address: str) -> AsyncIterator[RunEngineClient]:
    async with RunEngineClient(address, "the-token") as client:
        yield client


@pytest.fixture
async def runengine(address: str, tmp_path: Path) -> Command:
    return Command(address, tmp_path)
