"""How long a run waits for its next worker when its worker is killed -9."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass

from runengine_client import RunEngineClient
from runengine_server.processes.children import Child

from tests.faults.arrivals import Arrival, Arrivals
from tests.support.patience import SECONDS
from tests.support.stack import UNDER_TEST, Stack

LEASE_SECONDS = 2.0


@dataclass
class Recovery:
    """Two workers, of which the one that has the run is killed, and started again."""

    stack: Stack
    client: RunEngineClient
    arrivals: Arrivals
    workers: dict[int, Child]

    async def add_worker(self) -> None:
        """One more, ready."""
        (worker,) = await self.stack.start(
            "worker",
            module=UNDER_TEST,
            WORKFLOWS="tests.faults.graphs:RECOVERY",
            LEASE_SECONDS=str(LEASE_SECONDS),
        )
        self.workers[worker.pid] = worker

    async def hold(self) -> tuple[str, Child]:
        """A run, and the worker that is in its step, which is no longer one of these workers."""
        payload = {"gates": self.arrivals.path, "first": {"manner": "gate"}}
        run = await self.client.trigger_run("recovery", trigger_payload=payload)
        held = await self.arrivals.at("first", run.id)
        return run.id, self.workers.pop(held.pid)

    async def kill_once(self) -> float:
        """Seconds from the kill to the successor's entry into the step."""
        run_id, killed = await self.hold()
        killed.kill()
        began = time.monotonic()
        await killed.until_ended()
        taken = await self.taken_over(run_id)
        seconds = time.monotonic() - began
        await self.complete(taken)
        return seconds

    async def taken_over(self, run_id: str) -> Arrival:
        """Where its successor is in the step."""
        (taken,) = await self.arrivals.until(lambda each: each.run_id == run_id and each.pid in self.workers)
        return taken

    async def complete(self, taken: Arrival) -> None:
        """Lets the successor end it."""
        taken.let_go()
        await self.client.wait(taken.run_id, timeout_seconds=SECONDS)


async def start(stack: Stack, client: RunEngineClient, arrivals: Arrivals) -> Recovery:
    """With two workers."""
    recovery = Recovery(stack, client, arrivals, {})
    await asyncio.gather(recovery.add_worker(), recovery.add_worker())
    return recovery


async def measure(recovery: Recovery, kills: int) -> tuple[float, float]:
    """Median and worst of so many kills, in leases."""
    leases = []
    for _ in range(kills):
        leases.append(await recovery.kill_once() / LEASE_SECONDS)
        await recovery.add_worker()
    return statistics.median(leases), max(leases)
