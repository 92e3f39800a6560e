"""A node that blocks the event loop of its worker costs its own run a worker, and nobody else anything."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import asyncpg
import pytest
from runengine.v1.run_pb2 import RunStatus
from runengine_client import RunEngineClient

from tests.support.gates import Gates
from tests.support.own_worker import until
from tests.support.patience import SECONDS
from tests.support.stack import Stack, logging_to

WORKER = {"WORKFLOWS": "tests.support.child_graphs:WORKFLOWS", "LEASE_SECONDS": "3"}


def is_deaf(pid: int) -> bool:
    """Whether the main thread of the process blocks SIGTERM, by Linux's /proc."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
    return bool(int(mask, 16) & 1 << (signal.SIGTERM - 1))


@pytest.mark.parametrize(
    "how",
    [
        "block",
        pytest.param(
            "block, deaf",
            marks=pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc"),
        ),
    ],
)
async def test_a_worker_whose_event_loop_is_blocked_stops_when_it_is_told_to_and_hands_back_all(
    stack: Stack, client: RunEngineClient, gates: Gates, database: asyncpg.Connection, how: str
) -> None:
    # Neither its bound nor its leases end within this test.
    settings = {**WORKER, "LEASE_SECONDS": "300", "BLOCKED_SECONDS": "300"}
    (blocked,) = await stack.start("worker", **settings)
    payload = {"gates": gates.path}
    waiting = await client.trigger_run("wait", trigger_payload=payload)
    assert (await gates.next()).name == "waiting"
    blocking = await client.trigger_run("block", trigger_payload=payload)
    gate = await gates.next()
    gate.open(how)
    if how == "block, deaf":
        await until(lambda: asyncio.to_thread(is_deaf, blocked.pid), bool)
    os.kill(blocked.pid, signal.SIGTERM)
    async with asyncio.timeout(SECONDS):
        await blocked.until_ended()
    (other,) = await stack.start("worker", **settings)
    for _ in range(2):
        (await gates.next()).open()
    for run in (waiting, blocking):
        ended = await client.wait(run.id, timeout_seconds=SECONDS)
        assert ended.status == RunStatus.RUN_STATUS_COMPLETED
        assert await database.fetchval("SELECT losses FROM runs WHERE id = $1", run.id) == 0
    await other.stop()


async def test_the_runs_beside_a_node_that_blocks_go_on_elsewhere_and_lose_nothing(
    stack: Stack, client: RunEngineClient, gates: Gates, database: asyncpg.Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with logging_to(log):
        (blocked,) = await stack.start("worker", BLOCKED_SECONDS="1", **WORKER)
    payload = {"gates": gates.path}
    waiting = await client.trigger_run("wait", trigger_payload=payload)
    assert (await gates.next()).name == "waiting"
    blocking = await client.trigger_run("block", trigger_payload=payload)
    gate = await gates.next()
    assert gate.name == "blocking"
    # Another worker, so that nobody has to start the first one again.
    (other,) = await stack.start("worker", **WORKER)
    gate.open("block")
    async with asyncio.timeout(SECONDS):
        assert await blocked.until_ended() == 1
    for _ in range(2):
        gate = await gates.next()
        gate.open()
    for run in (waiting, blocking):
        ended = await client.wait(run.id, timeout_seconds=SECONDS)
        assert ended.status == RunStatus.RUN_STATUS_COMPLETED
    losses = {
        str(row["id"]): row["losses"]
        for row in await database.fetch(
            "SELECT id, losses FROM runs WHERE id = ANY($1::uuid[])", [waiting.id, blocking.id]
        )
    }
    assert losses == {waiting.id: 0, blocking.id: 1}
    (told,) = [
        line for line in log.read_text().splitlines() if "event loop is blocked" in line and "place" in line
    ]
    assert blocking.id in told
    assert '"step":"block"' in told
    assert "child_graphs.py" in told
    await other.stop()
