"""An `@entrypoint` is a workflow: the function is a step, and so is each task that it calls."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from langgraph.func import entrypoint, task
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, RetryPolicy, interrupt
from runengine.context import RunContext
from runengine_server.domain.run import CampaignStatus, RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository

from tests.support.own_worker import Engine, code_and_step, serving


class Killed(BaseException):
    """The worker is no more."""


async def die(held: HeldRunRepository, *arguments: Any, **named: Any) -> None:
    raise Killed


@task
async def double(number: int) -> int:
    return 2 * number


@task
def sum_up(*numbers: int) -> int:
    return sum(numbers)


@entrypoint()
async def parallel(payload: dict[str, Any]) -> dict[str, Any]:
    doubled = await asyncio.gather(*(double(number) for number in payload["numbers"]))
    return {"total": await sum_up(*doubled)}


@entrypoint()
def blocking(payload: dict[str, Any]) -> dict[str, Any]:
    doubled = [double(number) for number in payload["numbers"]]
    return {"total": sum_up(*(each.result() for each in doubled)).result()}


async def output(engine: Engine, run_id: Any) -> Any:
    stored = await engine.runs.get_output(run_id)
    assert stored is not None
    assert stored.encoded is not None
    return stored.encoded


@pytest.mark.parametrize("function", [parallel, blocking])
async def test_the_tasks_of_an_entrypoint_are_steps(database_url: str, function: Any) -> None:
    async with serving(database_url, function) as engine:
        run = await engine.execute({"numbers": [1, 2, 3]})
        assert run.status is RunStatus.COMPLETED, run.error
        assert b'{"total":12}' in await output(engine, run.id)
        steps = await engine.executions(run.id)
        assert sorted(steps) == sorted(
            ["double 1 completed"] * 3 + ["sum_up 1 completed", f"{next(iter(function.nodes))} 1 completed"]
        )


async def test_a_task_that_is_done_is_not_done_again_when_its_run_is_retried(database_url: str) -> None:
    done: list[str] = []
    failures = [ValueError("Once.")]

    @task
    async def first() -> str:
        done.append("first")
        return "first"

    @task
    async def second() -> None:
        done.append("second")
        if failures:
            raise failures.pop()

    @entrypoint()
    async def main(payload: dict[str, Any]) -> str:
        word = await first()
        await second()
        return word

    async with serving(database_url, main) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "second")
        assert run.error is not None
        assert "ValueError: Once." in run.error.message
        run = await engine.execute_again(run.id)
        assert run.status is RunStatus.COMPLETED
        assert done == ["first", "second", "second"]
        assert sorted(await engine.executions(run.id)) == [
            "first 1 completed",
            "main 1 failed STEP_FAILED",
            "main 2 completed",
            "second 1 failed STEP_FAILED",
            "second 2 completed",
        ]


async def test_a_task_is_tried_again_by_its_policy_and_comes_from_the_cache(database_url: str) -> None:
    calls: list[int] = []

    @task(  # type: ignore[arg-type]
        retry_policy=RetryPolicy(initial_interval=0.001, jitter=False), cache_policy=CachePolicy()
    )
    async def flaky(number: int) -> int:
        calls.append(number)
        if len(calls) == 1:
            raise ConnectionError("Once.")
        return number

    @entrypoint()
    async def main(payload: dict[str, Any]) -> int:
        return await flaky(payload["number"])

    async with serving(database_url, main) as engine:
        for _ in range(2):
            run = await engine.execute({"number": 7})
            assert run.status is RunStatus.COMPLETED, run.error
        assert calls == [7, 7]


async def test_an_entrypoint_saves_artifacts_and_names_the_bundle(database_url: str) -> None:
    @task
    async def save(runtime: Runtime[RunContext]) -> str:
        return await runtime.context.save_artifact("a.txt", b"a", "text/plain")

    @entrypoint(context_schema=RunContext)
    async def main(payload: dict[str, Any]) -> dict[str, str]:
        return {"bundle_artifact_id": await save()}  # type: ignore[call-arg]

    async with serving(database_url, main) as engine:
        campaign = await engine.campaigns.insert(uuid4())
        await engine.trigger(campaign_id=campaign.id)
        run = await engine.process(await engine.claim())
        assert run.status is RunStatus.COMPLETED, run.error
        assert (await engine.campaign(campaign.id)).status is CampaignStatus.LIVE
        rows = await engine.tenant.fetch(
            """SELECT cardinality(output_artifact_ids) AS saved, step_id FROM run_steps
            WHERE run_id = $1 ORDER BY seq""",
            run.id,
        )
        assert [tuple(row) for row in rows] == [(0, "main"), (1, "save")]


async def test_a_task_that_asks_takes_each_value_once_whatever_happens_to_its_worker(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @task
    def ask() -> list[Any]:
        return [interrupt("1"), interrupt("2")]

    @entrypoint()
    async def main(payload: dict[str, Any]) -> list[Any]:
        return await ask()

    async with serving(database_url, main) as engine:
        run = await engine.execute()
        assert [(each.step_id, each.value) for each in run.waiting_for] == [("ask", '"1"')]
        await engine.resume(run.id, {run.gate: "first"})
        claimed = await engine.claim_expired()
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "wait", die)
            with pytest.raises(Killed):
                await engine.processor.process(claimed)
        run = await engine.process(await engine.take_over(run.id))
        assert [each.value for each in run.waiting_for] == ['"2"'], run.error
        run = await engine.go_on(run.id, {run.gate: "second"})
        assert run.status is RunStatus.COMPLETED
        assert b'["first","second"]' in await output(engine, run.id)
