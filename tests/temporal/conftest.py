"""One development server and two workers that have their runs of it, for all tests of a test worker."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
from runengine_server.processes.children import Child

from tests.support.stack import Stack
from tests.support.temporal_server import MISSING, TemporalServer

LEASE_SECONDS = 2.0


@pytest.fixture(scope="session")
async def temporal() -> AsyncIterator[TemporalServer]:
    if MISSING is not None:
        pytest.skip(MISSING)
    server = TemporalServer()
    await server.start()
    os.environ["TEMPORAL_ADDRESS"] = server.address
    yield server
    del os.environ["TEMPORAL_ADDRESS"]
    server.kill()


@dataclass
class Team:
    """The workers, by their process ids."""

    members: dict[int, Child]

    async def kill_holder(self, database: asyncpg.Connection, run_id: str) -> None:
        """Kills -9 the one that holds the run."""
        actor = await database.fetchval(
            "SELECT actor FROM run_events WHERE run_id = $1 ORDER BY seq DESC LIMIT 1", run_id
        )
        self.members.pop(int(actor.rpartition(":")[2])).kill()


@pytest.fixture(scope="session")
async def team(temporal: TemporalServer, stack: Stack) -> Team:
    workers = await stack.start(
        "worker",
        "worker",
        DISPATCH="temporal",
        WORKFLOWS="tests.temporal.graphs:WORKFLOWS",
        LEASE_SECONDS=str(LEASE_SECONDS),
    )
    return Team({each.pid: each for each in workers})
