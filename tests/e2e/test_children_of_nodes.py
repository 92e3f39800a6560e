"""What a node starts and leaves behind is no part of its worker: it neither ends it nor keeps it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from runengine.v1.run_pb2 import RunStatus
from runengine_client import RunEngineClient
from runengine_server.processes.children import Child

from tests.support.gates import Gates
from tests.support.patience import SECONDS
from tests.support.stack import Stack, logging_to


@pytest.fixture
async def worker(stack: Stack) -> AsyncIterator[Child]:
    (worker,) = await stack.start(
        "worker", WORKFLOWS="tests.support.child_graphs:WORKFLOWS", LEASE_SECONDS="1"
    )
    yield worker
    await worker.stop()


async def test_a_signal_to_a_forked_child_ends_the_child_and_not_the_worker(
    client: RunEngineClient, worker: Child
) -> None:
    for _ in range(2):
        run = await client.trigger_run("terminate-child", trigger_payload={})
        waiting = asyncio.create_task(client.wait(run.id, timeout_seconds=SECONDS))
        ending = asyncio.create_task(worker.until_ended())
        # A worker that took the signal ends soon, though its node blocks the event loop.
        await asyncio.wait({waiting, ending}, return_when=asyncio.FIRST_COMPLETED)
        assert not worker.has_ended
        ending.cancel()
        try:
            ended = await waiting
        except TimeoutError:
            raise AssertionError("the signal has not ended the child") from None
        assert ended.status == RunStatus.RUN_STATUS_COMPLETED, ended.error.message


async def test_a_worker_that_dies_is_seen_to_be_dead_although_a_child_of_it_lives(
    stack: Stack, database_url: str, client: RunEngineClient, gates: Gates, database: asyncpg.Connection
) -> None:
    name = uuid4().hex
    (worker,) = await stack.start(
        "worker",
        WORKFLOWS="tests.support.child_graphs:WORKFLOWS",
        DATABASE_URL=f"{database_url}&application_name={name}",
    )
    run = await client.trigger_run("leave-child", trigger_payload={"gates": gates.path})
    child = int((await gates.next()).name)
    try:
        worker.kill()
        async with asyncio.timeout(SECONDS):
            assert await worker.until_ended() == -signal.SIGKILL
            sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
            while await database.fetchval(sessions, name):
                pass
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
    await client.cancel_run(run.id)


@pytest.mark.parametrize("what", ["child", "thread"])
async def test_a_worker_that_is_stopped_does_not_wait_for_what_a_node_has_left(
    stack: Stack, client: RunEngineClient, gates: Gates, tmp_path: Path, what: str
) -> None:
    log = tmp_path / "log"
    with logging_to(log):
        (worker,) = await stack.start(
            "worker", WORKFLOWS="tests.support.child_graphs:WORKFLOWS", DRAIN_SECONDS="0", LEASE_SECONDS="30"
        )
    run = await client.trigger_run(f"leave-{what}", trigger_payload={"gates": gates.path})
    gate = await gates.next()
    os.kill(worker.pid, signal.SIGTERM)
    async with asyncio.timeout(SECONDS):
        assert await worker.until_ended() == 0
        while gate.name != "thread" and os.path.exists(f"/proc/{gate.name}"):  # noqa: ASYNC240
            pass
    assert "left running" in log.read_text()
    await client.cancel_run(run.id)
