"""Runs come to workers by Temporal, on a real development server, and are held by their rows alone."""

from __future__ import annotations

import asyncio

import asyncpg
from runengine.v1.run_pb2 import RunStatus
from runengine_client import RunEngineClient

from tests.support.gates import Gates
from tests.support.patience import SECONDS
from tests.support.temporal_server import TemporalServer
from tests.temporal.conftest import Team

COMPLETED = RunStatus.RUN_STATUS_COMPLETED
SECRET = "brief-of-the-tenant"


async def reasons_of(database: asyncpg.Connection, run_id: str) -> list[str]:
    rows = await database.fetch("SELECT reason FROM run_events WHERE run_id = $1 ORDER BY seq", run_id)
    return [row["reason"] for row in rows]


async def until_status(temporal: TemporalServer, run_id: str, status: str) -> str:
    """The id of the workflow of that run that has come to this status."""
    query = f"WorkflowId STARTS_WITH '{(await prefix_of(temporal, run_id))}' AND ExecutionStatus = '{status}'"
    async with asyncio.timeout(SECONDS):
        while not (found := await temporal.workflow_ids(query)):
            pass
    return found[0]


async def prefix_of(temporal: TemporalServer, run_id: str) -> str:
    async with asyncio.timeout(SECONDS):
        while True:
            for each in await temporal.workflow_ids(""):
                if run_id in each:
                    return each.partition(run_id)[0] + run_id


async def test_a_run_completes_once_and_temporal_knows_its_ids_alone(
    temporal: TemporalServer, team: Team, client: RunEngineClient, gates: Gates, database: asyncpg.Connection
) -> None:
    payload = {"gates": gates.path, "seen": [SECRET]}
    run = await client.trigger_run("dispatched", trigger_payload=payload)
    (await gates.next()).open()
    assert (await client.wait(run.id, timeout_seconds=SECONDS)).status == COMPLETED
    assert await reasons_of(database, run.id) == ["TRIGGERED", "CLAIMED", "COMPLETED"]
    workflow_id = await until_status(temporal, run.id, "Completed")
    history = await temporal.command("workflow", "show", "--workflow-id", workflow_id, "--output", "json")
    assert history is not None
    assert run.id in history
    assert SECRET not in history


async def test_a_retry_and_a_resume_are_handed_over_again(
    team: Team, client: RunEngineClient, gates: Gates, database: asyncpg.Connection
) -> None:
    run = await client.trigger_run("dispatched", trigger_payload={"gates": gates.path})
    (await gates.next()).open("fail")
    assert (await client.wait(run.id, timeout_seconds=SECONDS)).status == RunStatus.RUN_STATUS_FAILED
    await client.retry_run(run.id)
    (await gates.next()).open()
    done = await client.wait(run.id, timeout_seconds=SECONDS)
    assert (done.status, done.attempt) == (COMPLETED, 2)

    asking = await client.trigger_run("dispatched-asking", trigger_payload={})
    async with asyncio.timeout(SECONDS):
        async for seen in client.follow_run(asking.id):
            if seen.waiting_for:
                break
    await client.resume_run(asking.id, "blue")
    assert (await client.wait(asking.id, timeout_seconds=SECONDS)).status == COMPLETED
    reasons = ["TRIGGERED", "CLAIMED", "WAITING", "RESUMED", "TAKEN_OVER", "COMPLETED"]
    assert await reasons_of(database, asking.id) == reasons


async def test_a_cancel_of_a_run_cancels_its_workflow(
    temporal: TemporalServer, team: Team, client: RunEngineClient, gates: Gates
) -> None:
    run = await client.trigger_run("dispatched", trigger_payload={"gates": gates.path})
    gate = await gates.next()
    await client.cancel_run(run.id)
    async with asyncio.timeout(SECONDS):
        await gate.left.wait()
    await until_status(temporal, run.id, "Canceled")
    assert (await client.get_run(run.id)).status == RunStatus.RUN_STATUS_CANCELLED


async def test_a_workflow_that_is_cancelled_in_temporal_stops_the_execution_and_not_the_run(
    temporal: TemporalServer, team: Team, client: RunEngineClient, gates: Gates, database: asyncpg.Connection
) -> None:
    run = await client.trigger_run("dispatched", trigger_payload={"gates": gates.path})
    gate = await gates.next()
    workflow_id = await until_status(temporal, run.id, "Running")
    await temporal.command("workflow", "cancel", "--workflow-id", workflow_id)
    async with asyncio.timeout(SECONDS):
        await gate.left.wait()
    (await gates.next()).open()
    assert (await client.wait(run.id, timeout_seconds=SECONDS)).status == COMPLETED
    assert await database.fetchval("SELECT losses FROM runs WHERE id = $1", run.id) == 0


async def test_a_run_of_a_killed_worker_goes_on_in_another(
    team: Team, client: RunEngineClient, gates: Gates, database: asyncpg.Connection
) -> None:
    run = await client.trigger_run("dispatched", trigger_payload={"gates": gates.path})
    await gates.next()
    await team.kill_holder(database, run.id)
    (await gates.next()).open()
    assert (await client.wait(run.id, timeout_seconds=SECONDS)).status == COMPLETED
    assert await database.fetchval("SELECT losses FROM runs WHERE id = $1", run.id) == 1
    steps = await client.list_run_steps(run.id)
    assert [(step.step_id, step.attempt) for step in steps] == [("first", 1), ("held", 2), ("last", 1)]


async def test_every_run_completes_once_although_temporal_forgets_everything(
    temporal: TemporalServer, team: Team, client: RunEngineClient, gates: Gates, database: asyncpg.Connection
) -> None:
    held = await client.trigger_run("dispatched", trigger_payload={"gates": gates.path})
    gate = await gates.next()
    before = [await client.trigger_run("dispatched-short", trigger_payload={}) for _ in range(30)]
    temporal.kill()
    meanwhile = [await client.trigger_run("dispatched-short", trigger_payload={}) for _ in range(10)]
    await temporal.start()
    after = [await client.trigger_run("dispatched-short", trigger_payload={}) for _ in range(10)]
    for run in (*before, *meanwhile, *after):
        assert (await client.wait(run.id, timeout_seconds=SECONDS)).status == COMPLETED
        assert await reasons_of(database, run.id) == ["TRIGGERED", "CLAIMED", "COMPLETED"]
    # What is being executed is held by its row.
    gate.open()
    assert (await client.wait(held.id, timeout_seconds=SECONDS)).status == COMPLETED
    assert await reasons_of(database, held.id) == ["TRIGGERED", "CLAIMED", "COMPLETED"]
