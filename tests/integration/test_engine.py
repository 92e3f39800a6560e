"""What the engine makes of graphs that fail, hang, time out, and of a database that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Any, TypedDict
from uuid import UUID, uuid4

import pytest
from langgraph.channels import UntrackedValue
from langgraph.errors import NodeTimeoutError
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, RetryPolicy
from pydantic import BaseModel
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import CampaignStatus, Failure, RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository, StoredCheckpoint
from runengine_server.workflows.run_context import RunContext

from tests.integration.harness import (
    Engine,
    Graph,
    Ran,
    State,
    chain,
    database_goes_away,
    fork,
    happened,
    serving,
)

NO_ARTIFACT = "00000000-0000-0000-0000-000000000000"
AT_ONCE = RetryPolicy(initial_interval=0, jitter=False, retry_on=Exception)


def code_and_step(error: Failure | None) -> tuple[str, str | None]:
    assert error is not None
    return error.code, error.step_id


async def save_bundle(state: State, runtime: Runtime[RunContext]) -> State:
    return {"bundle_artifact_id": await runtime.context.save_artifact("bundle", b"bundle", "text/plain")}


# Edges.


async def test_after_an_edge_that_raised_a_retry_runs_its_node_and_what_follows(database_url: str) -> None:
    ran = Ran()
    refusals = [RuntimeError("No way leads on.")]

    def choose(state: State) -> str:
        if refusals:
            raise refusals.pop()
        return "last"

    graph = chain(first=ran.node("first"))
    graph.add_node("last", ran.node("last"))
    graph.add_conditional_edges("first", choose, ["last"])
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "first")
        assert await engine.executions(run.id) == ["first 1 failed STEP_FAILED"]
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["first", "first", "last"]
        assert (await engine.executions(run.id))[1:] == ["first 2 completed", "last 1 completed"]


@pytest.mark.parametrize("how", ["a parallel step fails", "the run is cancelled", "the worker stops"])
async def test_a_node_whose_edge_was_stopped_runs_again_with_what_follows(
    database_url: str, how: str
) -> None:
    ran = Ran()
    choosing, choices = asyncio.Event(), count()

    async def choose(state: State) -> str:
        if next(choices) == 0:
            choosing.set()
            await asyncio.Event().wait()
        return "last"

    async def other(state: State) -> State:
        if how == "a parallel step fails" and ran.names.count("first") == 1:
            await choosing.wait()
            raise RuntimeError("The other one failed.")
        return {}

    graph = fork(first=ran.node("first"), other=other)
    graph.add_node("last", ran.node("last"))
    graph.add_conditional_edges("first", choose, ["last"])
    async with serving(database_url, graph) as engine:
        run_id = await engine.trigger()
        claimed = await engine.claim()
        execution = asyncio.create_task(engine.processor.process(claimed))
        await happened(choosing)
        if how == "a parallel step fails":
            await execution
            assert (await engine.get(run_id)).status is RunStatus.FAILED
        else:
            if how == "the run is cancelled":
                await engine.cancel(run_id)
            execution.cancel()
            await asyncio.wait([execution])
        if how == "the worker stops":
            await engine.queue.hand_back([claimed])
            (claimed,) = await engine.queue.claim_expired(1)
        else:
            await engine.retry(run_id)
            claimed = await engine.claim()
        assert (await engine.process(claimed)).status is RunStatus.COMPLETED
        assert ran.names == ["first", "first", "last"]
        executions = await engine.executions(run_id)
        assert {"first 2 completed", "last 1 completed"} <= set(executions)


# Time limits.


async def test_a_node_that_runs_into_its_time_limit_is_a_step_that_timed_out(database_url: str) -> None:
    async def slow(state: State) -> State:
        await asyncio.Event().wait()
        return {}

    graph = StateGraph(State)
    graph.add_node("slow", slow, timeout=0.05)
    graph.add_edge(START, "slow")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_TIMED_OUT", "slow")
        assert await engine.executions(run.id) == ["slow 1 failed STEP_TIMED_OUT"]


async def test_a_node_with_a_time_limit_has_the_context_of_its_own_step(database_url: str) -> None:
    keys: list[str] = []

    async def save(state: State, runtime: Runtime[RunContext]) -> State:
        keys.append(runtime.context.idempotency_key)
        await runtime.context.save_artifact("a.txt", b"a", "text/plain")
        return {}

    graph = StateGraph(State)
    for name in ("one", "two"):
        graph.add_node(name, save, timeout=30)
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        steps = await engine.runs.list_steps(run.id, None)
        assert steps is not None
        assert [(step.step_id, len(step.output_artifact_ids)) for step in steps] == [("one", 1), ("two", 1)]
        assert keys == [f"{run.id}:{step.id}" for step in steps]


async def test_what_a_timed_out_execution_still_writes_does_not_touch_the_next_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    executions = count(1)
    second, late_write = asyncio.Event(), asyncio.Event()
    fail_step = HeldRunRepository.fail_step

    async def notice(held: HeldRunRepository, *arguments: Any, **named: Any) -> None:
        await fail_step(held, *arguments, **named)
        if "Cleaning up failed." in arguments[3]:
            late_write.set()

    async def slow(state: State) -> State:
        if next(executions) == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await second.wait()
                raise RuntimeError("Cleaning up failed.") from None
        second.set()
        await late_write.wait()
        return {"seen": ["slow"]}

    monkeypatch.setattr(HeldRunRepository, "fail_step", notice)
    again = RetryPolicy(initial_interval=0, jitter=False, retry_on=NodeTimeoutError)
    graph = StateGraph(State)
    graph.add_node("slow", slow, timeout=1, retry_policy=again)
    graph.add_edge(START, "slow")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert await engine.executions(run.id) == ["slow 1 failed STEP_TIMED_OUT", "slow 2 completed"]


# The end of a run.


class Killed(BaseException):
    """The worker is no more."""


async def test_a_run_whose_worker_died_before_ending_it_still_names_its_bundle(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran()

    def die(held: HeldRunRepository) -> None:
        raise Killed

    async with serving(database_url, chain(bundle=save_bundle, last=ran.node("last"))) as engine:
        campaign = await engine.campaigns.insert(uuid4())
        run_id = await engine.trigger(campaign_id=campaign.id)
        claimed = await engine.claim()
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "end", die)
            with pytest.raises(Killed):
                await engine.processor.process(claimed)
        run = await engine.process(await engine.take_over(run_id))
        assert run.status is RunStatus.COMPLETED
        assert await engine.executions(run_id) == ["bundle 1 completed", "last 1 completed"]
        assert ran.names == ["last"]
        steps = await engine.runs.list_steps(run_id, None)
        assert steps is not None
        campaign = await engine.campaign(campaign.id)
        assert campaign.status is CampaignStatus.LIVE
        assert campaign.bundle_url == f"http://runengine/artifacts/{steps[0].output_artifact_ids[0]}"


async def test_a_run_that_names_no_artifact_as_its_bundle_fails_each_time_it_is_retried(
    database_url: str,
) -> None:
    def name_none(state: State) -> State:
        return {"bundle_artifact_id": NO_ARTIFACT}

    async with serving(database_url, chain(name_none=name_none)) as engine:
        run = await engine.execute()
        for _ in range(2):
            assert run.status is RunStatus.FAILED
            assert code_and_step(run.error) == ("WORKFLOW_FAILED", None)
            run = await engine.execute_again(run.id)
        assert run.status is RunStatus.FAILED


# Error handlers.


async def test_a_handled_step_stays_failed_and_its_handler_is_a_step(database_url: str) -> None:
    ran = Ran()
    failures = [ValueError("Later.")]

    async def risky(state: State) -> State:
        ran.names.append("risky")
        raise ValueError("The supplier is closed.")

    async def later(state: State) -> State:
        ran.names.append("later")
        if failures:
            raise failures.pop()
        return {}

    graph = StateGraph(State)
    graph.add_node("risky", risky, error_handler=ran.node("rescue"))
    graph.add_node("later", later)
    graph.add_edge(START, "risky")
    graph.add_edge("risky", "later")
    handled = ["risky 1 failed STEP_FAILED", "__error_handler__risky 1 completed"]
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        # LangGraph takes the handler's word for the node's end, but not its edges.
        executions = await engine.executions(run.id)
        assert executions[:2] == handled
        assert ran.names[:2] == ["risky", "rescue"]
