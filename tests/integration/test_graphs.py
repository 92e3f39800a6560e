"""Any StateGraph runs as it is, and every execution of a node is a step."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from runengine.v1.run_pb2 import Run, RunStatus, RunStep, StepStatus
from runengine_client import RunEngineClient

from tests.support.gates import Gates
from tests.support.graphs import EVERYTHING_ORDER
from tests.support.patience import SECONDS


async def finish(client: RunEngineClient, workflow: str, **payload: Any) -> tuple[Run, list[RunStep]]:
    run = await client.trigger_run(workflow, trigger_payload=payload)
    run = await client.wait(run.id, timeout_seconds=SECONDS)
    return run, await client.list_run_steps(run.id)


def words(steps: list[RunStep]) -> list[tuple[str, str, int]]:
    return [(step.step_id, StepStatus.Name(step.status)[12:].lower(), step.attempt) for step in steps]


async def test_every_shape_of_graph_runs_with_one_step_for_each_execution(client: RunEngineClient) -> None:
    run, steps = await finish(client, "everything")
    assert run.status == RunStatus.RUN_STATUS_COMPLETED
    assert {step.status for step in steps} == {StepStatus.STEP_STATUS_COMPLETED}
    assert {step.attempt for step in steps} == {1}
    assert len({step.id for step in steps}) == len(steps)
    names = iter(step.step_id for step in steps)
    for together in EVERYTHING_ORDER.split():
        assert sorted(next(names) for _ in together.split("+")) == together.split("+")
    assert next(names, None) is None


async def test_a_null_payload_counts_as_an_empty_object(client: RunEngineClient) -> None:
    run = await client.trigger_run("rejecting", trigger_payload=None)
    run = await client.wait(run.id)
    assert not run.HasField("trigger_payload")
    assert run.error.step_id == "reject"


async def test_a_failing_node_fails_the_run_with_its_own_words(client: RunEngineClient) -> None:
    run, steps = await finish(client, "rejecting")
    assert run.status == RunStatus.RUN_STATUS_FAILED
    assert (run.error.code, run.error.step_id, run.error.attempt) == ("STEP_FAILED", "reject", 1)
    assert run.error.message == "ValueError: The brief is empty."
    assert run.error.retryable is False
    assert words(steps) == [("reject", "failed", 1)]
    assert steps[0].error.message == run.error.message
    assert steps[0].error.retryable is False


async def test_an_edge_that_raises_fails_the_step_it_leads_from(client: RunEngineClient) -> None:
    run, steps = await finish(client, "bad-edge")
    assert (run.error.step_id, run.error.message) == ("first", "RuntimeError: No way leads on.")
    assert words(steps) == [("first", "failed", 1)]
    assert steps[0].error.code == "STEP_FAILED"


async def test_a_retry_policy_makes_attempts_of_the_same_step(
    client: RunEngineClient, gates: Gates, database: asyncpg.Connection
) -> None:
    run = await client.trigger_run("flaky", trigger_payload={"gates": gates.path})
    (await gates.next()).open("fail")
    (await gates.next()).open("fail")
    gate = await gates.next()
    assert words(await client.list_run_steps(run.id)) == [("flaky", "running", 3)]
    gate.open()
    run = await client.wait(run.id)
    steps = await client.list_run_steps(run.id)
    assert words(steps) == [("flaky", "completed", 3)]
    rows = await database.fetch(
        "SELECT status, attempt, id FROM run_steps WHERE run_id = $1 ORDER BY attempt", run.id
    )
    assert [(row["status"], row["attempt"], str(row["id"])) for row in rows] == [
        ("failed", 1, steps[0].id), ("failed", 2, steps[0].id), ("completed", 3, steps[0].id),
    ]  # fmt: skip


async def test_an_exhausted_retry_policy_fails_the_run(client: RunEngineClient, gates: Gates) -> None:
    run = await client.trigger_run("flaky", trigger_payload={"gates": gates.path})
    for _ in range(3):
        (await gates.next()).open("fail")
    run = await client.wait(run.id)
    assert run.error.message == "FlakyError: Not this time."
    assert run.error.retryable is True
    assert words(await client.list_run_steps(run.id)) == [("flaky", "failed", 3)]


async def test_a_cached_node_returns_its_result_without_running(client: RunEngineClient) -> None:
    count = uuid4().int % 2**40
    _, steps = await finish(client, "cached", count=count)
    assert (steps[0].cache_hit, words(steps)) == (False, [("counted", "completed", 1)])
    _, steps = await finish(client, "cached", count=count)
    assert (steps[0].cache_hit, words(steps)) == (True, [("counted", "completed", 1)])
    _, steps = await finish(client, "cached", count=count + 1)
    assert steps[0].cache_hit is False


async def test_artifacts_belong_to_the_step_that_saved_them(client: RunEngineClient) -> None:
    _, steps = await finish(client, "two-artifacts")
    artifacts = [await client.download_artifact(each) for each in steps[0].output_artifact_ids]
    assert [(each.name, each.media_type, each.data) for each in artifacts] == [
        ("one.txt", "text/plain", b"one.txt"), ("two.txt", "text/plain", b"two.txt"),
    ]  # fmt: skip


async def test_a_bundle_that_was_never_saved_fails_the_run(client: RunEngineClient) -> None:
    run, _ = await finish(client, "false-bundle")
    assert run.error.code == "WORKFLOW_FAILED"
    assert not run.error.HasField("step_id")


async def test_a_step_that_fails_stops_its_parallel_branch(client: RunEngineClient, gates: Gates) -> None:
    run = await client.trigger_run("fork", trigger_payload={"gates": gates.path})
    arrived = {gate.name: gate for gate in (await gates.next(), await gates.next())}
    arrived["right"].open("fail")
    run = await client.wait(run.id)
    assert run.error.step_id == "right"
    steps = {step.step_id: step for step in await client.list_run_steps(run.id)}
    assert (steps["right"].error.code, steps["left"].error.code) == ("STEP_FAILED", "STEP_INTERRUPTED")


@pytest.mark.parametrize("stage", ["after the first", "in parallel"])
async def test_a_retry_keeps_completed_steps_and_runs_the_others_again(
    client: RunEngineClient, gates: Gates, stage: str
) -> None:
    if stage == "after the first":
        run = await client.trigger_run("gated", trigger_payload={"gates": gates.path})
        (await gates.next()).open("fail")
        kept, again = "first", "held"
    else:
        run = await client.trigger_run("fork", trigger_payload={"gates": gates.path})
        arrived = {gate.name: gate for gate in (await gates.next(), await gates.next())}
        arrived["left"].open()
        await arrived["left"].left.wait()
        async with asyncio.timeout(SECONDS):
            while ("left", "completed", 1) not in words(await client.list_run_steps(run.id)):
                pass
        arrived["right"].open("fail")
        kept, again = "left", "right"
    assert (await client.wait(run.id)).status == RunStatus.RUN_STATUS_FAILED
    before = {step.step_id: step for step in await client.list_run_steps(run.id)}

    retried = await client.retry_run(run.id)
    assert (retried.id, retried.status, retried.attempt) == (run.id, RunStatus.RUN_STATUS_QUEUED, 2)
    assert not retried.HasField("error")
    gate = await gates.next()
    assert gate.name == again
    gate.open()
    assert (await client.wait(run.id)).status == RunStatus.RUN_STATUS_COMPLETED
    after = {step.step_id: step for step in await client.list_run_steps(run.id)}
    assert after[kept] == before[kept]
    assert (after[again].id, after[again].attempt) == (before[again].id, 2)
    assert after["last"].attempt == 1


async def test_order_is_kept_when_a_step_runs_again(client: RunEngineClient, gates: Gates) -> None:
    run = await client.trigger_run("gated", trigger_payload={"gates": gates.path})
    (await gates.next()).open("fail")
    await client.wait(run.id)
    await client.retry_run(run.id)
    (await gates.next()).open()
    await client.wait(run.id)
    steps = await client.list_run_steps(run.id)
    assert [name for name, _ in groupby(step.step_id for step in steps)] == ["first", "held", "last"]
