"""Workers that are stopped while they hear that their steps begin: `python -m tests.faults.zombies_enter`.

Their leases end, others complete the runs, and when they go on they must enter no node.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import uuid
from pathlib import Path

import asyncpg
from runengine.v1.run_pb2 import RunStatus
from runengine_server.logs import configure_logging

from tests.faults.arrivals import SECONDS, Arrivals
from tests.faults.history import History
from tests.support.stack import UNDER_TEST, Stack, open_directory, own_postgres
from tests.support.temporal_server import dispatching

DOOR = "after_begin_step"

# As many as one worker holds at once.
_ROUND = 20


async def entered_by_zombie(
    stack: Stack, directory: Path, database: asyncpg.Connection, runs_at_once: int
) -> int:
    """How many nodes a worker enters that was stopped at the door of so many, on which others went on.
    `database` is a superuser's connection.
    """
    history = History(directory / "history")
    tenant = f"org_{uuid.uuid4().hex}"
    async with (
        stack.client(stack.token(tenant)) as client,
        Arrivals() as arrivals,
    ):
        settings = {
            "WORKFLOWS": "tests.faults.graphs:ZOMBIES",
            "LEASE_SECONDS": "30",
            "WORKER_CONCURRENCY": str(2 * runs_at_once),
            "FAULT_SOCKET": arrivals.path,
            "HISTORY": str(directory / "history"),
        }
        clock = directory / "clock"
        clock.touch()
        (first,) = await stack.start(
            "worker", module=UNDER_TEST, FAULT_POINTS=DOOR, CLOCK=str(clock), **settings
        )
        workflows = ("zombie", "zombie-on-thread")
        payload = {"gates": arrivals.path, "stop_at": DOOR, "third": {"save": True}}
        runs = [
            (await client.trigger_run(workflows[number % 2], trigger_payload=payload)).id
            for number in range(runs_at_once)
        ]
        # The step has begun, and the first worker is about to hear of it.
        held = [await arrivals.at(DOOR, run_id, first.pid) for run_id in runs]

        def noted(what: str) -> set[str]:
            """The runs of which the first worker noted that."""
            return {
                note["run"] for note in history.read() if (note["what"], note["pid"]) == (what, first.pid)
            }

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
            # One that entered its node may stay in it.
            while len(noted("left") | noted("entered")) < runs_at_once:  # noqa: ASYNC110 - another process writes
                await asyncio.sleep(0.01)
        entered = noted("entered")
        first.kill()
        await second.stop()
    history.close()
    return len(entered)


async def measure(aimed: int) -> int:
    """How many of so many are entered, on a PostgreSQL of their own."""
    with open_directory() as directory:
        async with own_postgres(directory) as (_, url):
            stack = Stack(url, directory)
            try:
                await stack.start("serve")
                admin = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
                entered = 0
                for number, begin in enumerate(range(0, aimed, _ROUND)):
                    within = directory / f"round-{number}"
                    within.mkdir()
                    entered += await entered_by_zombie(stack, within, admin, min(_ROUND, aimed - begin))
                    sys.stderr.write(f"{min(begin + _ROUND, aimed)} aimed, {entered} entered\n")
                await admin.close()
                return entered
            finally:
                await stack.stop()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.zombies_enter", description=__doc__)
    parser.add_argument("--aimed", type=int, default=200)
    parser.add_argument("--dispatch", choices=("postgres", "temporal"), default="postgres")
    options = parser.parse_args()
    aimed: int = options.aimed
    configure_logging()

    async def dispatched() -> int:
        async with dispatching(options.dispatch):
            return await measure(aimed)

    entered = asyncio.run(dispatched())
    sys.stdout.write(f"{aimed} zombies aimed at a node: {entered} entered it\n")
    if entered:
        sys.stdout.write(f"VIOLATION I12: {entered} nodes were entered\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
