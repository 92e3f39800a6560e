"""A worker that goes away in the middle of a run."""

from __future__ import annotations

import asyncpg
import pytest
from runengine.v1.run_pb2 import RunStatus, StepStatus
from runengine_client import RunEngineClient

from tests.support.gates import Gates
from tests.support.patience import SECONDS
from tests.support.stack import Stack

RESTARTED = {"WORKFLOWS": "tests.support.graphs:RESTARTED", "LEASE_SECONDS": "1"}


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_another_worker_goes_on_from_the_last_checkpoint(
    stack: Stack, client: RunEngineClient, gates: Gates, database: asyncpg.Connection, how: str
) -> None:
    (first,) = await stack.start("worker", **RESTARTED)
    run = await client.trigger_run("gated-restarted", trigger_payload={"gates": gates.path})
    await gates.next()
    if how == "killed":
        first.kill()
    else:
        await first.stop()
    assert (await client.get_run(run.id)).status == RunStatus.RUN_STATUS_RUNNING

    (second,) = await stack.start("worker", **RESTARTED)
    gate = await gates.next()
    assert (await client.get_run(run.id)).status == RunStatus.RUN_STATUS_RUNNING
    gate.open()
    done = await client.wait(run.id, timeout_seconds=SECONDS)
    assert (done.status, done.attempt) == (RunStatus.RUN_STATUS_COMPLETED, 1)
    steps = await client.list_run_steps(run.id)
    assert [(step.step_id, step.attempt) for step in steps] == [("first", 1), ("held", 2), ("last", 1)]
    assert {step.status for step in steps} == {StepStatus.STEP_STATUS_COMPLETED}
    losses = await database.fetchval("SELECT losses FROM runs WHERE id = $1", run.id)
    assert losses == (1 if how == "killed" else 0)
    await second.stop()


async def test_a_killed_worker_keeps_no_thread_from_going_on_in_order(
    stack: Stack, client: RunEngineClient, gates: Gates
) -> None:
    (first,) = await stack.start("worker", **RESTARTED)
    runs = [
        await client.trigger_run(
            "gated-restarted",
            trigger_payload={"gates": gates.path, "seen": [word]},
            context={"threadId": "thread"},
        )
        for word in ("one", "two", "three")
    ]
    await gates.next()
    (second,) = await stack.start("worker", **RESTARTED)
    first.kill()
    expected: list[str] = []
    for run, word in zip(runs, ("one", "two", "three"), strict=True):
        # Of all workers one has arrived: the one of the run whose turn it is.
        (await gates.next()).open()
        output = await client.wait_for_output(run.id, timeout_seconds=SECONDS)
        expected += [word, "first", "held", "last"]
        assert output.value["seen"] == expected
    await second.stop()
