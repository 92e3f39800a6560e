"""Brings the pools of a process to their size, so that what it has is known."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from runengine.v1.run_pb2 import RunStatus
from runengine_client import CampaignNotFound, RunEngineClient

from tests.faults.arrivals import Arrivals
from tests.faults.leak_graphs import WIDTH
from tests.support.patience import SECONDS

# What app.py gives to each: connections of serve, and of a worker with ten places; threads for its nodes.
_SERVER_POOL = 20
_WORKER_POOL = 13
_NODE_THREADS = 10


@asynccontextmanager
async def locked(superuser_url: str, table: str) -> AsyncIterator[None]:
    """Whatever reads or writes the table waits until the end of the block."""
    connection = await asyncpg.connect(superuser_url)
    try:
        await connection.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        await connection.close()


async def until_waiting(admin: Any, application: str, count: int) -> None:
    """Returns when so many connections of the application wait for a lock."""
    async with asyncio.timeout(SECONDS):
        while count > await admin.fetchval(  # noqa: ASYNC110
            """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND application_name = $1 AND wait_event_type = 'Lock'""",
            application,
        ):
            await asyncio.sleep(0.01)


async def _until_waiting(superuser_url: str, application: str, count: int) -> None:
    admin = await asyncpg.connect(superuser_url)
    try:
        await until_waiting(admin, application, count)
    finally:
        await admin.close()


async def fill_server(client: RunEngineClient, superuser_url: str, application: str) -> None:
    """The connections of serve, whose application's name that is."""
    calls: list[asyncio.Task[Any]] = []
    try:
        async with locked(superuser_url, "campaigns"):
            calls += [asyncio.create_task(client.get_campaign(uuid.uuid4())) for _ in range(2 * _SERVER_POOL)]
            await _until_waiting(superuser_url, application, _SERVER_POOL)
    finally:
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, CampaignNotFound) for each in answers), answers


async def fill_worker(client: RunEngineClient, superuser_url: str, application: str, workflow: str) -> None:
    """The connections of a worker and the threads for its nodes. `workflow` is `leaks-wide` of
    tests/faults/leak_graphs.py, by whatever name that worker alone knows it.
    """
    async with Arrivals() as arrivals:
        async with locked(superuser_url, "step_cache"):
            run = await client.trigger_run(workflow, trigger_payload=wide_payload(arrivals))
            await _until_waiting(superuser_url, application, _WORKER_POOL)
        for count in (_NODE_THREADS, WIDTH - _NODE_THREADS):
            arrived = await arrivals.until(lambda each: not each.left.is_set(), count)
            for arrival in arrived:
                arrival.let_go()
            for arrival in arrived:
                await arrival.gone()
        run = await client.wait(run.id, timeout_seconds=SECONDS)
        assert run.status == RunStatus.RUN_STATUS_COMPLETED, run


async def fill_notifier(client: RunEngineClient, workflow: str) -> None:
    """The connection on which a worker tells who watches a run that it has ended."""
    async with asyncio.timeout(SECONDS):
        has_told = False
        while not has_told:
            run = await client.trigger_run(workflow)
            async for message in client.watch_run(run.id):
                has_told |= message.HasField("progress")


def wide_payload(arrivals: Arrivals) -> dict[str, str]:
    """Of a run of `leaks-wide`, whose nodes arrive there."""
    return {"gates": arrivals.path, "key": str(uuid.uuid4())}
