"""While a run goes on, its checkpoints are in proportion to its state, and it resumes all the same."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypedDict
from uuid import UUID, uuid4

import asyncpg
import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine_server.domain.errors import Fenced
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.write_behind import StoredCheckpoint
from runengine_server.worker.graph import superseded

from tests.support.own_worker import Graph, serving

ROUNDS = 30


class State(TypedDict, total=False):
    rounds: Annotated[int, operator.add]
    seen: Annotated[list[str], operator.add]
    note: str


class Note(TypedDict, total=False):
    note: str


def extend(state: list[str], writes: Sequence[Any]) -> list[str]:
    return state + [each for write in writes for each in write]


class Replayed(TypedDict, total=False):
    rounds: Annotated[int, operator.add]
    seen: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=5)]


@pytest.fixture(autouse=True)
def nothing_is_left_lying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superseded, "MIN_BYTES", 0)


class Rounds:
    """A node that comes round again, looks at how much is stored, and fails once, towards the end."""

    def __init__(self, database: asyncpg.Connection, within: Callable[[Any], Any] | None = None) -> None:
        self.stored: list[tuple[int, int]] = []
        self.found: list[Any] = []
        self._database = database
        self._within = within
        self._fails = True

    async def _look(self, run_id: UUID) -> None:
        row = await self._database.fetchrow(
            """SELECT (SELECT count(*) FROM checkpoints WHERE run_id = $1) AS checkpoints,
                (SELECT count(*) FROM checkpoint_writes WHERE run_id = $1) AS writes""",
            run_id,
        )
        assert row is not None
        self.stored.append((row["checkpoints"], row["writes"]))

    async def round(self, state: Any, runtime: Runtime[RunContext]) -> dict[str, Any]:
        await self._look(runtime.context.run_id)
        found = await self._within(state) if self._within else None
        if state["rounds"] == ROUNDS - 3 and self._fails:
            self._fails = False
            raise RuntimeError("Once.")
        self.found.append(found)
        return {"rounds": 1, "seen": [str(state["rounds"])]}

    def graph(self, schema: type[Any] = State) -> Graph:
        graph: Graph = StateGraph(schema)
        graph.add_node("round", self.round)
        graph.add_edge(START, "round")
        graph.add_conditional_edges(
            "round", lambda state: "round" if state["rounds"] < ROUNDS else END, ["round", END]
        )
        return graph


async def go_round(database_url: str, graph: Graph) -> tuple[list[str], dict[str, Any]]:
    """What was executed by a run that fails, and is retried; the state at its end is in `last`."""
    last: dict[str, Any] = {}

    async def end(state: Any) -> dict[str, Any]:
        last.update(state)
        return {}

    graph.add_node("end", end)
    graph.branches["round"].clear()
    graph.add_conditional_edges(
        "round", lambda state: "round" if state["rounds"] < ROUNDS else "end", ["round", "end"]
    )
    async with serving(database_url, graph) as engine:
        run = await engine.execute({"rounds": 0, "seen": []})
        assert run.status is RunStatus.FAILED
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        return await engine.executions(run.id), last


async def test_a_loop_keeps_what_it_resumes_from_and_no_more(
    database_url: str, database: asyncpg.Connection
) -> None:
    rounds = Rounds(database)
    executed, last = await go_round(database_url, rounds.graph())
    assert last["seen"] == [str(number) for number in range(ROUNDS)]
    assert sum("completed" in each for each in executed) == ROUNDS + 1
    assert max(checkpoints for checkpoints, _ in rounds.stored) == 1
    assert max(writes for _, writes in rounds.stored) <= 2


async def test_a_small_state_is_pruned_only_once_there_is_something_to_prune(
    database_url: str, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superseded, "MIN_BYTES", 128 << 10)
    rounds = Rounds(database)
    await go_round(database_url, rounds.graph())
    assert [checkpoints for checkpoints, _ in rounds.stored[:5]] == [1, 2, 3, 4, 5]


async def test_of_a_sub_graph_that_has_ended_nothing_is_kept(
    database_url: str, database: asyncpg.Connection
) -> None:
    async def one(state: Note) -> Note:
        return {"note": "inner"}

    inner = StateGraph(Note).add_sequence([("one", one), ("two", one)]).add_edge(START, "one").compile()
    rounds = Rounds(database)
    graph: Graph = StateGraph(State)
    graph.add_node("round", rounds.round)
    graph.add_node("inner", inner)
    graph.add_edge(START, "inner")
    graph.add_edge("inner", "round")
    graph.add_conditional_edges(
        "round", lambda state: "inner" if state["rounds"] < ROUNDS else END, ["inner", END]
    )
    async with serving(database_url, graph) as engine:
        run = await engine.execute({"rounds": 0, "seen": []})
        assert run.status is RunStatus.FAILED
        kept = await database.fetch("SELECT checkpoint_ns FROM checkpoints WHERE run_id = $1", run.id)
        assert [each["checkpoint_ns"] for each in kept] == [""]
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
    assert max(checkpoints for checkpoints, _ in rounds.stored) == 1


async def test_a_sub_graph_that_keeps_its_state_from_call_to_call_still_does(
    database_url: str, database: asyncpg.Connection
) -> None:
    """Through all rounds, the failure and the retry."""

    async def count(state: State) -> State:
        return {"rounds": 1}

    inner = StateGraph(State).add_node("count", count).add_edge(START, "count").compile(checkpointer=True)

    async def call(state: Any) -> int:
        return int((await inner.ainvoke({"rounds": 0}))["rounds"])

    rounds = Rounds(database, call)
    await go_round(database_url, rounds.graph())
    # It had counted when the node failed after it, and does not do so again.
    assert rounds.found == list(range(1, ROUNDS + 1))
    assert max(checkpoints for checkpoints, _ in rounds.stored) <= 2


async def test_a_delta_channel_keeps_its_values_and_little_more(
    database_url: str, database: asyncpg.Connection
) -> None:
    rounds = Rounds(database)
    _, last = await go_round(database_url, rounds.graph(Replayed))
    assert last["seen"] == [str(number) for number in range(ROUNDS)]
    assert max(checkpoints for checkpoints, _ in rounds.stored) <= 8


async def test_a_worker_that_lost_its_run_prunes_nothing(
    database_url: str, database: asyncpg.Connection
) -> None:
    rounds = Rounds(database)
    async with serving(database_url, rounds.graph()) as engine:
        run_id = await engine.trigger()
        zombie = await engine.claim()
        successor = await engine.take_over(run_id)
        kept = ["1", "2"]
        for each in kept:
            await HeldRunRepository(database=engine.database, run=successor, worker="next").save_checkpoint(
                StoredCheckpoint("", each, None, "null", b"", b"")
            )
        for foreign in (zombie, replace(successor, tenant_id=f"org_{uuid4().hex}")):
            late = HeldRunRepository(engine.database, foreign, "late")
            with pytest.raises(Fenced):
                await late.save_checkpoint(
                    StoredCheckpoint(
                        "",
                        "3",
                        "2",
                        "null",
                        b"",
                        b"",
                        oldest_needed={"": "2"},
                        dropped_namespaces=["", "inner"],
                    )
                )
        found = await database.fetch(
            "SELECT checkpoint_id FROM checkpoints WHERE run_id = $1 ORDER BY seq", run_id
        )
        assert [each["checkpoint_id"] for each in found] == kept
