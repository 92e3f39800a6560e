# ruff: noqa: ASYNC110 - it waits for what other processes do to the database
"""Temporal is away under load: `python -m tests.faults.temporal_outage [--seconds N]`.

Every run that is acknowledged must complete, once, those too that Temporal knew of and has forgotten.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter

import asyncpg
from runengine_client import RunEngineClient
from runengine_server.logs import configure_logging

from tests.support.patience import SECONDS
from tests.support.stack import Stack, open_directory, own_postgres
from tests.support.temporal_server import TemporalServer, dispatching

_TENANT = "org_outage"
_RUNS_A_SECOND = 20.0
# Before and after, in which Temporal is there.
_AROUND_SECONDS = 10.0
ONCE = ("TRIGGERED", "CLAIMED", "COMPLETED")


class Load:
    """Runs that are triggered one after the other at a pace."""

    def __init__(self, client: RunEngineClient) -> None:
        self.acknowledged: list[str] = []
        self._client = client

    async def trigger_for(self, seconds: float) -> None:
        began = time.monotonic()
        for number in range(int(seconds * _RUNS_A_SECOND)):
            await asyncio.sleep(began + number / _RUNS_A_SECOND - time.monotonic())
            run = await self._client.trigger_run("dispatched-short", trigger_payload={})
            self.acknowledged.append(run.id)


async def trial(temporal: TemporalServer, seconds: float) -> list[str]:
    """What came of it, in lines."""
    with open_directory() as directory:
        async with own_postgres(directory) as (_, url):
            stack = Stack(url, directory)
            admin = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
            try:
                workflows = {"WORKFLOWS": "tests.temporal.graphs:WORKFLOWS", "LEASE_SECONDS": "5"}
                await stack.start("serve", "worker", "worker", **workflows)
                async with stack.client(stack.token(_TENANT)) as client:
                    load = Load(client)
                    await load.trigger_for(_AROUND_SECONDS)
                    temporal.kill()
                    away_since = len(load.acknowledged)
                    await load.trigger_for(seconds)
                    waiting = await admin.fetchval("SELECT count(*) FROM runs WHERE status = 'queued'")
                    away_until = len(load.acknowledged)
                    await temporal.start()
                    back = time.monotonic()
                    await load.trigger_for(_AROUND_SECONDS)
                    ended_in = await until_ended(admin) - back
                return [
                    f"{len(load.acknowledged)} runs acknowledged, {away_until - away_since} of them while "
                    f"Temporal was away for {seconds:g} s, at the end of which {waiting} were queued",
                    f"all ended {ended_in:.1f} s after it was back, with {_AROUND_SECONDS:g} s more of load",
                    *await violations(admin, load.acknowledged),
                ]
            finally:
                await admin.close()
                await stack.stop()


async def until_ended(admin: asyncpg.Connection) -> float:
    """When all runs had ended."""
    async with asyncio.timeout(SECONDS):
        while await admin.fetchval("SELECT 1 FROM runs WHERE status IN ('queued', 'running')"):
            await asyncio.sleep(0.05)
    return time.monotonic()


async def violations(admin: asyncpg.Connection, acknowledged: list[str]) -> list[str]:
    """Counts what became of the runs."""
    rows = await admin.fetch(
        "SELECT run_id::text, array_agg(reason ORDER BY seq) AS reasons FROM run_events GROUP BY run_id"
    )
    found = {row["run_id"]: tuple(row["reasons"]) for row in rows}
    counts = Counter(found.get(run_id, ()) for run_id in acknowledged)
    executions = await admin.fetchval("SELECT count(*) FROM run_steps")
    lines = [f"  {count:5} {' '.join(reasons)}" for reasons, count in counts.most_common()]
    lines.append(f"  {executions:5} executions of their steps, of which each has one")
    if set(counts) != {ONCE} or executions != len(acknowledged):
        lines.append("VIOLATION: not every run completed once")
    return lines


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.temporal_outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    seconds: float = parser.parse_args().seconds
    configure_logging("warning")

    async def dispatched() -> list[str]:
        async with dispatching("temporal") as temporal:
            assert temporal is not None
            return await trial(temporal, seconds)

    lines = asyncio.run(dispatched())
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(any(line.startswith("VIOLATION") for line in lines))


if __name__ == "__main__":
    main()
