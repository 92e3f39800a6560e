"""A PostgreSQL of each version that is there, for each module."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.postgresql_servers import Server, installed, postgresql


@pytest.fixture(scope="module", params=[15, 18], ids=["15", "18"])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    if not installed(number):
        pytest.skip(f"needs PostgreSQL {number}")
    return number


@pytest.fixture(scope="module")
async def server(version: int) -> AsyncIterator[Server]:
    async with postgresql(version) as server:
        yield server
