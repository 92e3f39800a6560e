"""A run and a step may take so long, and no longer."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import pytest
from langgraph.errors import NodeTimeoutError
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy
from runengine.context import RunContext
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.worker.graph.load import Timeouts, compile_workflow

from tests.support.own_worker import Graph, Held, Ran, State, alone, chain, code_and_step, serving
from tests.support.patience import SECONDS
from tests.support.time_limits import DEAF, ENTERED, forever, in_the_node


def with_metadata(graph: Graph, **metadata: Any) -> Graph:
    graph.metadata = metadata  # type: ignore[attr-defined]
    return graph


@in_the_node
@pytest.mark.parametrize(
    ("graph", "timeouts"),
    [
        (alone("slow", forever), Timeouts(step=0.1)),
        (alone("slow", forever, metadata={"timeout_seconds": 0.1}), Timeouts()),
        (alone("slow", forever, metadata={"timeout_seconds": 0.1}), Timeouts(step=3600)),
    ],
    ids=["of the settings", "of the node", "of the node before the settings"],
)
async def test_a_step_that_takes_too_long_fails_with_its_run(
    database_url: str, graph: Graph, timeouts: Timeouts
) -> None:
    async with serving(database_url, graph, timeouts) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert (run.status, run.error.code, run.error.step_id) == ("failed", "STEP_TIMED_OUT", "slow")
        assert await engine.executions(run.id) == ["slow 1 failed STEP_TIMED_OUT"]


async def test_a_step_whose_time_runs_out_while_it_is_being_recorded_has_timed_out(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*arguments: Any) -> int:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(HeldRunRepository, "begin_step", never)
    async with serving(database_url, chain(slow=forever), Timeouts(step=0.1)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert (run.error.code, run.error.step_id) == ("STEP_TIMED_OUT", "slow")
        assert await engine.executions(run.id) == []


async def test_langgraphs_own_timeout_goes_before_ours(database_url: str) -> None:
    graph = alone("slow", forever, timeout=0.1, metadata={"timeout_seconds": 3600})
    async with serving(database_url, graph, Timeouts(step=3600)) as engine:
        assert (await engine.execute()).error is not None


@in_the_node
@pytest.mark.usefixtures("no_thread_is_kept")
async def test_a_sync_step_that_takes_too_long_fails_although_its_thread_goes_on(database_url: str) -> None:
    graph = chain(deaf=DEAF.node, last=Ran().node("last"))
    async with serving(database_url, graph, Timeouts(step=0.1)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert run.error.code == "STEP_TIMED_OUT"
        assert await engine.executions(run.id) == ["deaf 1 failed STEP_TIMED_OUT"]


@in_the_node
async def test_a_step_that_took_too_long_is_executed_again_as_its_retry_policy_says(
    database_url: str,
) -> None:
    policy = RetryPolicy(max_attempts=2, initial_interval=0.01, jitter=False)
    async with serving(
        database_url, alone("slow", forever, retry_policy=policy), Timeouts(step=0.1)
    ) as engine:
        run = await engine.execute()
        assert await engine.executions(run.id) == [
            "slow 1 failed STEP_TIMED_OUT", "slow 2 failed STEP_TIMED_OUT",
        ]  # fmt: skip


# Where LangGraph 1.2.22 has no time limit.


async def reject(state: State) -> State:
    raise ValueError("Closed.")


def handler(**options: Any) -> Graph:
    return alone("risky", reject, error_handler=forever, **options)


def edge_of_a_handler() -> Graph:
    graph = alone("risky", reject, error_handler=Ran().node("rescue"))
    graph.add_conditional_edges("__error_handler__risky", forever)
    return graph


def edge() -> Graph:
    graph = alone("slow", Ran().node("slow"))
    graph.add_conditional_edges("slow", forever)
    return graph


def nested(graph: Graph) -> Graph:
    return chain(slow=graph.compile())


def calling(graph: Graph) -> Graph:
    compiled = graph.compile()

    async def slow(state: State) -> Any:
        return await compiled.ainvoke(state)

    return chain(slow=slow)


@pytest.mark.parametrize(
    ("graph", "step", "seconds"),
    [
        (handler(), "__error_handler__risky", 0.1),
        (alone("risky", reject, error_handler=DEAF.node), "__error_handler__risky", 0.1),
        (edge_of_a_handler(), "__error_handler__risky", 0.1),
        (edge(), "slow", 0.1),
        (nested(alone("inner", forever, metadata={"timeout_seconds": 0.1})), "slow:inner", None),
        (nested(alone("inner", DEAF.node, metadata={"timeout_seconds": 0.1})), "slow:inner", None),
        (calling(alone("inner", forever, metadata={"timeout_seconds": 0.1})), "slow:inner", None),
        (nested(alone("inner", forever)), "slow", 0.1),
    ],
    ids=[
        "an error handler", "a sync error handler", "the edge of an error handler", "an edge",
        "a node of a sub-graph", "a sync node of a sub-graph", "a node of a graph that a node calls",
        "a sub-graph",
    ],
)  # fmt: skip
@in_the_node
@pytest.mark.usefixtures("no_thread_is_kept")
async def test_a_time_limit_holds_for(
    database_url: str, graph: Graph, step: str, seconds: float | None
) -> None:
    async with serving(database_url, graph, Timeouts(step=seconds)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert (run.error.code, run.error.step_id) == ("STEP_TIMED_OUT", step)
        assert f"{step} 1 failed STEP_TIMED_OUT" in await engine.executions(run.id)
        steps = await engine.runs.list_steps(run.id, None)
        assert steps is not None
        (error,) = (each.error for each in steps if each.step_id == step)
        assert error is not None
        assert (error.message, error.retryable) == (run.error.message, True)


@in_the_node
async def test_a_time_limit_holds_for_the_edge_that_leads_into_a_graph(database_url: str) -> None:
    graph: Graph = StateGraph(State)
    graph.add_node("one", Ran().node("one"))
    graph.add_conditional_edges(START, forever)
    async with serving(database_url, graph, Timeouts(step=0.1)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert (run.error.code, run.error.step_id) == ("STEP_TIMED_OUT", None)
        assert await engine.executions(run.id) == []


@in_the_node
async def test_an_error_handler_that_is_stopped_with_its_run_leaves_nothing_behind(database_url: str) -> None:
    stopped = asyncio.Event()

    async def rescue(state: State) -> State:
        ENTERED.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return {}

    graph = alone("risky", reject, error_handler=rescue)
    async with serving(database_url, graph, Timeouts(run=0.1, step=3600)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert run.error.code == "RUN_TIMED_OUT"
        await asyncio.wait_for(stopped.wait(), SECONDS)


@in_the_node
@pytest.mark.parametrize(
    ("graph", "timeouts"),
    [
        (chain(slow=forever, last=Ran().node("last")), Timeouts(run=0.1)),
        (with_metadata(chain(slow=forever), timeout_seconds=0.1), Timeouts(run=3600)),
    ],
    ids=["of the settings", "of the graph before the settings"],
)
async def test_a_run_that_takes_too_long_fails_with_a_code_of_its_own(
    database_url: str, graph: Graph, timeouts: Timeouts
) -> None:
    async with serving(database_url, graph, timeouts) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert (run.status, run.error.code, run.error.step_id) == ("failed", "RUN_TIMED_OUT", None)
        assert run.error.message == "RunTimedOut: The run was still running after its time limit of 0.1 s."
        assert run.error.retryable
        assert await engine.executions(run.id) == ["slow 1 failed STEP_INTERRUPTED"]


async def test_the_time_of_a_run_goes_on_when_another_worker_takes_it_over(database_url: str) -> None:
    async with serving(database_url, chain(slow=forever), Timeouts(run=3600)) as engine:
        run_id = await engine.trigger()
        await engine.claim()
        await engine.tenant.fetch(
            "UPDATE runs SET started_at = started_at - interval '1 hour' WHERE id = $1", run_id
        )
        run = await engine.process(await engine.take_over(run_id))
        assert run.error is not None
        assert run.error.code == "RUN_TIMED_OUT"


async def test_a_retry_has_the_whole_time_again(database_url: str) -> None:
    held = Held()
    async with serving(database_url, chain(held=held.node), Timeouts(run=3600)) as engine:
        run_id = await engine.trigger()
        await engine.claim()
        await engine.tenant.fetch(
            "UPDATE runs SET started_at = started_at - interval '1 hour' WHERE id = $1", run_id
        )
        assert (await engine.process(await engine.take_over(run_id))).status is RunStatus.FAILED
        await engine.retry(run_id)
        again = asyncio.create_task(engine.process(await engine.claim()))
        (await held.next()).go.set()
        assert (await again).status is RunStatus.COMPLETED


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), True, "60"])
def test_a_time_limit_that_is_none_is_refused_when_the_worker_starts(seconds: Any) -> None:
    with pytest.raises(ValueError, match="timeout_seconds must be a positive number of seconds"):
        compile_workflow("wrong", alone("node", forever, metadata={"timeout_seconds": seconds}))


@in_the_node
async def test_a_node_that_runs_into_its_time_limit_is_a_step_that_timed_out(database_url: str) -> None:
    async def slow(state: State) -> State:
        ENTERED.set()
        await asyncio.Event().wait()
        return {}

    graph = alone("slow", slow, timeout=0.1)
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

    graph: Graph = StateGraph(State)
    for name in ("one", "two"):
        graph.add_node(name, save, timeout=SECONDS)
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        steps = await engine.runs.list_steps(run.id, None)
        assert steps is not None
        assert [(step.step_id, len(step.output_artifact_ids)) for step in steps] == [("one", 1), ("two", 1)]
        assert keys == [f"{run.id}:{step.id}" for step in steps]


@in_the_node
async def test_a_late_write_of_a_timed_out_execution_does_not_touch_the_next_one(
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
            ENTERED.set()
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
    graph = alone("slow", slow, timeout=0.1, retry_policy=again)
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert await engine.executions(run.id) == ["slow 1 failed STEP_TIMED_OUT", "slow 2 completed"]
