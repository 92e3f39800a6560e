"""A worker that was stopped while it heard that its step begins does not enter the node when it goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from pathlib import Path

import asyncpg
from runengine.v1.run_pb2 import RunStatus

from tests.faults.arrivals import SECONDS, Arrivals
from tests.faults.history import History
from tests.stack import UNDER_TEST, Stack

RUNS = 20
DOOR = "after_begin_step"


async def test_no_zombie_enters_a_node(stack: Stack, tmp_path: Path, database: asyncpg.Connection) -> None:
    history = History(tmp_path / "history")
    tenant = f"org_{uuid.uuid4().hex}"
    async with (
        stack.client(stack.token(tenant)) as client,
        Arrivals() as arrivals,
    ):
        settings = {
            "WORKFLOWS": "tests.faults.graphs:ZOMBIES",
            "LEASE_SECONDS": "30",
            "WORKER_CONCURRENCY": str(2 * RUNS),
            "FAULT_SOCKET": arrivals.path,
            "HISTORY": str(tmp_path / "history"),
        }
        clock = tmp_path / "clock"
        clock.touch()
        (first,) = await stack.start(
            "worker", module=UNDER_TEST, FAULT_POINTS=DOOR, CLOCK=str(clock), **settings
        )
        workflows = ("zombie", "zombie-on-thread")
        payload = {"gates": arrivals.path, "stop_at": DOOR, "third": {"save": True}}
        runs = [
            (await client.trigger_run(workflows[number % 2], trigger_payload=payload)).id
            for number in range(RUNS)
        ]
        # The step has begun, and the first worker is about to hear of it.
        held = [await arrivals.at(DOOR, run_id, first.pid) for run_id in runs]
        os.kill(first.pid, signal.SIGSTOP)
        # Time has passed for the database and, when it goes on, for the first worker.
        clock.write_text("3600")
        await database.execute(
            "UPDATE runs SET lease_expires_at = '2000-01-01' WHERE tenant_id = $1 AND status = 'running'",
            tenant,
        )
        (second,) = await stack.start("worker", module=UNDER_TEST, **settings)

        async def let_go() -> None:
            while True:
                (arrival,) = await arrivals.until(lambda each: each.pid == second.pid, seconds=3 * SECONDS)
                arrival.let_go()
                await arrival.gone()

        letting_go = asyncio.create_task(let_go())
        for run_id in runs:
            ended = await client.wait(run_id, timeout_seconds=SECONDS)
            assert ended.status == RunStatus.RUN_STATUS_COMPLETED
        letting_go.cancel()

        # Half of them find their word when they wake, and so are faster than the worker's look at its clock.
        for arrival in held[::2]:
            arrival.let_go()
        os.kill(first.pid, signal.SIGCONT)
        for arrival in held[1::2]:
            arrival.let_go()
        async with asyncio.timeout(SECONDS):
            while len(left(history, first.pid)) < RUNS:  # noqa: ASYNC110 - another process writes the file
                await asyncio.sleep(0.01)
        entered = [note for note in history.read() if (note["what"], note["pid"]) == ("entered", first.pid)]
        assert entered == []
        first.kill()
        await second.stop()
    history.close()


def left(history: History, pid: int) -> set[str]:
    """The runs that the worker is done with."""
    return {note["run"] for note in history.read() if (note["what"], note["pid"]) == ("left", pid)}
