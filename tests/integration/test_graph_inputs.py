"""What a graph is given: the payload as its state, and the context of the run as its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel
from runengine_server.domain.run import RunStatus

from tests.support.own_worker import Ran, State, chain, serving


@dataclass
class Team:
    team: str = "green"
    size: int = 3


async def test_a_graph_with_a_context_of_its_own_gets_that_from_the_context_of_the_run(
    database_url: str,
) -> None:
    given: list[Team] = []

    async def work(state: State, runtime: Runtime[Team]) -> State:
        given.append(runtime.context)
        return {}

    graph = StateGraph(State, context_schema=Team)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    async with serving(database_url, graph) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED
        assert (await engine.execute(team="blue", other=1)).status is RunStatus.COMPLETED
        assert given == [Team(), Team("blue")]


@dataclass
class Key:
    key: str


async def test_a_graph_whose_context_has_to_be_given_has_none_in_a_run_without_it(database_url: str) -> None:
    given: list[Any] = []

    async def work(state: State, runtime: Runtime[Key]) -> State:
        given.append(runtime.context)
        return {}

    graph = StateGraph(State, context_schema=Key)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    async with serving(database_url, graph) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED
        assert (await engine.execute(other=1)).status is RunStatus.COMPLETED
        assert (await engine.execute(key="k")).status is RunStatus.COMPLETED
        assert given == [None, None, Key("k")]


class Brief(BaseModel):
    name: str = "nameless"
    rounds: int = 0


async def test_a_graph_with_pydantic_state_runs_as_it_is(database_url: str) -> None:
    given: list[Brief] = []

    async def work(state: Brief) -> dict[str, Any]:
        given.append(state)
        return {"rounds": state.rounds + 1}

    graph = StateGraph(Brief)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    async with serving(database_url, graph) as engine:
        assert (await engine.execute({"name": "Kettle"})).status is RunStatus.COMPLETED
        run = await engine.execute({"rounds": "many"})
        assert run.status is RunStatus.FAILED
        assert given == [Brief(name="Kettle")]


@pytest.mark.parametrize("payload", [None, {}, {"unknown": 1}])
async def test_a_payload_with_nothing_in_it_for_the_graph_is_as_good_as_any(
    database_url: str, payload: dict[str, Any] | None
) -> None:
    ran = Ran()
    async with serving(database_url, chain(one=ran.node("one"))) as engine:
        assert (await engine.execute(payload)).status is RunStatus.COMPLETED
        assert ran.names == ["one"]
