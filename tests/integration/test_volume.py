"""What is stored, and what is asked of PostgreSQL and LangGraph, is in proportion to what a run does."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import asyncpg
import pytest
from langgraph.graph import START, StateGraph
from langgraph.pregel import _runner
from langgraph.runtime import Runtime
from langgraph.types import Send
from runengine.context import RunContext
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.worker.graph import wide_supersteps

from tests.faults.proxy import Proxy
from tests.support.own_worker import Graph, State, alone, serving


async def saves_many(state: Any, runtime: Runtime[RunContext]) -> State:
    for number in range(int(state["artifacts"])):
        await runtime.context.save_artifact(f"{number}", b"", "text/plain")
    return {}


class Artifacts(TypedDict, total=False):
    artifacts: int


async def test_an_artifact_costs_the_same_to_save_however_many_there_are(
    database_url: str, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted is what the execution's row has in it each time that it is written again."""
    rewritten: list[int] = []
    save = HeldRunRepository.save_artifact

    async def save_and_look(held: HeldRunRepository, *arguments: Any) -> None:
        await save(held, *arguments)
        rewritten.append(
            await database.fetchval(
                "SELECT pg_column_size(output_artifact_ids) FROM run_steps WHERE run_id = $1", held.run.id
            )
        )

    monkeypatch.setattr(HeldRunRepository, "save_artifact", save_and_look)
    graph: Graph = StateGraph(Artifacts)
    graph.add_node("saves", saves_many)
    graph.add_edge(START, "saves")
    async with serving(database_url, graph) as engine:
        run = await engine.execute({"artifacts": 300})
        assert run.status is RunStatus.COMPLETED
        assert rewritten[99] > rewritten[0]
        assert rewritten[299] == rewritten[99]
        steps = await engine.runs.list_steps(run.id, None)
        assert steps is not None
        names = await database.fetch("SELECT id, name FROM artifacts WHERE run_id = $1", run.id)
        name_of = {row["id"]: int(row["name"]) for row in names}
        assert [name_of[each] for each in steps[0].output_artifact_ids] == list(range(300))


async def test_an_execution_that_was_stopped_lists_only_what_it_had_saved_itself(
    database_url: str, database: asyncpg.Connection
) -> None:
    """Also beyond what is in its row."""
    fails = [True]

    async def saves_and_fails(state: Any, runtime: Runtime[RunContext]) -> State:
        for number in range(110):
            await runtime.context.save_artifact(f"{number}", b"", "text/plain")
        if fails:
            raise RuntimeError(fails.pop())
        return {}

    async with serving(database_url, alone("saves", saves_and_fails)) as engine:
        run = await engine.execute()
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        saved = []
        for attempt in (1, 2):
            steps = await engine.runs.list_steps(run.id, attempt)
            assert steps is not None
            saved.append(steps[0].output_artifact_ids)
        assert [len(set(each)) for each in saved] == [110, 110]
        assert not set(saved[0]) & set(saved[1])


SENDS = 1000


class Sent(TypedDict, total=False):
    number: int
    seen: Annotated[list[int], operator.add]


def sends(node: Any) -> Graph:
    async def plan(state: Sent) -> Sent:
        return {}

    async def end(state: Sent) -> Sent:
        assert sorted(state["seen"]) == list(range(SENDS))
        return {}

    graph: Graph = StateGraph(Sent)
    graph.add_node("plan", plan)
    graph.add_node("sent", node)
    graph.add_node("end", end)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges(
        "plan", lambda state: [Send("sent", {"number": number}) for number in range(SENDS)], ["sent"]
    )
    graph.add_edge("sent", "end")
    return graph


async def at_once(state: Sent) -> Sent:
    return {"seen": [state["number"]]}


async def one_by_one(state: Sent) -> Sent:
    for _ in range(state["number"]):
        await asyncio.sleep(0)
    return {"seen": [state["number"]]}


async def test_a_thousand_sends_take_a_few_statements(database_url: str) -> None:
    async with Proxy(database_url) as proxy, serving(proxy.url, sends(at_once)) as engine:
        await engine.trigger()
        claimed = await engine.claim()
        proxy.executed.clear()
        assert (await engine.process(claimed)).status is RunStatus.COMPLETED
        statements = [sql for sql in proxy.executed if "record_" in sql]
        assert 4 <= len(statements) <= SENDS / 20
        executed = await engine.executions(claimed.id)
        assert executed.count("sent 1 completed") == SENDS


async def test_langgraph_does_not_look_at_all_tasks_again_for_each_that_ends(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[int] = []
    wait = asyncio.wait

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

        async def wait(self, tasks: Any, **options: Any) -> Any:
            looked_at.append(len(tasks))
            return await wait(tasks, **options)

    monkeypatch.setattr(_runner, "asyncio", Counting())
    monkeypatch.setattr(wide_supersteps, "SECONDS_PER_TASK", 1 / SENDS)
    async with serving(database_url, sends(one_by_one)) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED
    # One after the other they would be looked at half a million times.
    assert SENDS <= sum(looked_at) <= 50 * SENDS + sum(range(wide_supersteps.WIDE))


async def test_langgraph_does_not_go_through_what_all_tasks_have_written_for_each_that_ends(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    put_writes = wide_supersteps.put_writes_of_langgraph

    def count(loop: Any, *arguments: Any, **named: Any) -> None:
        shown.append(len(loop.checkpoint_pending_writes))
        put_writes(loop, *arguments, **named)

    monkeypatch.setattr(wide_supersteps, "put_writes_of_langgraph", count)
    async with serving(database_url, sends(at_once)) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED
    assert len(shown) > SENDS
    assert sum(shown) <= SENDS
