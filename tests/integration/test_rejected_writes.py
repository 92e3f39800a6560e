"""What a channel of the graph does not take counts as not written: its step failed, and a retry runs it."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.errors import NodeError
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository

from tests.support.own_worker import Graph, Ran, Run, State, alone, chain, fork, serving


class One(TypedDict, total=False):
    seen: Annotated[list[str], operator.add]
    chosen: str


class Many(TypedDict, total=False):
    seen: Annotated[list[str], operator.add]
    chosen: Annotated[str, operator.add]


class Killed(BaseException):
    """The worker is no more."""


class Wrong(Ran):
    """Nodes that note that they ran; what `wrong` returns the first time its reducer does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.returned: list[Any] = [{"seen": "wrong"}]

    async def wrong(self, state: Any) -> Any:
        self.names.append("wrong")
        return self.returned.pop() if self.returned else {"seen": ["wrong"]}


def in_a_chain(ran: Wrong) -> Graph:
    return chain(one=ran.node("one"), wrong=ran.wrong, last=ran.node("last"))


def beside_others(ran: Wrong) -> Graph:
    graph = fork(one=ran.node("one"), wrong=ran.wrong)
    graph.add_node("last", ran.node("last"))
    graph.add_edge(["one", "wrong"], "last")
    return graph


def assert_told(run: Run, step: str) -> None:
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert (run.error.code, run.error.step_id) == ("STEP_FAILED", step)
    assert run.error.message.startswith("TypeError: can only concatenate list")
    assert "written under 'seen' by 'wrong'" in run.error.message


@pytest.mark.parametrize("shape", [in_a_chain, beside_others])
async def test_a_write_that_its_reducer_rejects_fails_its_step_and_a_retry_runs_it_again(
    database_url: str, shape: Any
) -> None:
    ran = Wrong()
    async with serving(database_url, shape(ran)) as engine:
        run = await engine.execute()
        assert_told(run, "wrong")
        assert sorted(await engine.executions(run.id)) == ["one 1 completed", "wrong 1 failed STEP_FAILED"]
        run = await engine.execute_again(run.id)
        assert run.status is RunStatus.COMPLETED
        steps = ["last 1 completed", "one 1 completed", "wrong 1 failed STEP_FAILED", "wrong 2 completed"]
        assert sorted(await engine.executions(run.id)) == steps
    assert sorted(ran.names) == ["last", "one", "wrong", "wrong"]


@pytest.mark.parametrize("shape", [in_a_chain, beside_others])
async def test_a_successor_reports_the_same_of_a_write_that_was_stored_when_the_worker_died(
    database_url: str, shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(held: HeldRunRepository, *arguments: Any) -> None:
        await held.flush()
        raise Killed

    @asynccontextmanager
    async def die_ending(held: HeldRunRepository) -> AsyncIterator[None]:
        raise Killed
        yield

    ran = Wrong()
    async with serving(database_url, shape(ran)) as engine:
        run_id = await engine.trigger()
        claimed = await engine.claim()
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "discard_writes", die)
            patched.setattr(HeldRunRepository, "end", die_ending)
            with pytest.raises(Killed):
                await engine.processor.process(claimed)
        assert "wrong 1 completed" in await engine.executions(run_id)
        assert_told(await engine.process(await engine.take_over(run_id)), "wrong")
        assert "wrong 1 failed STEP_FAILED" in await engine.executions(run_id)
        assert (await engine.execute_again(run_id)).status is RunStatus.COMPLETED
    assert sorted(ran.names) == ["last", "one", "wrong", "wrong"]


def as_a_node(ran: Wrong) -> Any:
    return in_a_chain(ran).compile()


def called(ran: Wrong) -> Any:
    inner = in_a_chain(ran).compile()

    async def node(state: State) -> Any:
        return await inner.ainvoke(state)

    return node


def called_by_one_that_raises_something_else(ran: Wrong) -> Any:
    inner = in_a_chain(ran).compile()

    async def node(state: State) -> Any:
        try:
            return await inner.ainvoke(state)
        except TypeError as error:
            raise RuntimeError("It did not work.") from error

    return node


@pytest.mark.parametrize(
    ("within", "step"),
    [
        (as_a_node, "outer:wrong"),
        (called, "outer:wrong"),
        (called_by_one_that_raises_something_else, "outer"),
    ],
)
async def test_a_write_that_is_rejected_within_a_sub_graph_is_made_again(
    database_url: str, within: Any, step: str
) -> None:
    ran = Wrong()
    async with serving(database_url, chain(outer=within(ran))) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert (run.error.code, run.error.step_id) == ("STEP_FAILED", step)
        assert "written under 'seen' by 'wrong'" in run.error.message
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        executions = await engine.executions(run.id)
        assert [each for each in executions if each.startswith("outer:wrong")] == [
            "outer:wrong 1 failed STEP_FAILED", "outer:wrong 2 completed",
        ]  # fmt: skip
    assert ran.names == ["one", "wrong", "wrong", "last"]


def two_writers(schema: type[Any], *, sent: bool) -> Graph:
    async def choose(state: Any) -> Any:
        return {"chosen": "a"}

    graph: Graph = StateGraph(schema)
    for name in ("left",) if sent else ("left", "right"):
        graph.add_node(name, choose)
        if not sent:
            graph.add_edge(START, name)
    if sent:
        graph.add_conditional_edges(START, lambda state: [Send("left", {}), Send("left", {})], ["left"])
    return graph


@pytest.mark.parametrize("sent", [False, True])
async def test_two_nodes_that_write_what_takes_one_go_on_once_the_graph_has_a_reducer(
    database_url: str, sent: bool
) -> None:
    async with serving(database_url, two_writers(One, sent=sent)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert (run.error.code, run.error.step_id) == ("STEP_FAILED", "left")
        who = "'left'" if sent else "'left' and 'right'"
        assert f"written under 'chosen' by {who}" in run.error.message
        assert "At key 'chosen': Can receive only one value per step" in run.error.message
        assert run.error.retryable is False
        names = ["left", "left"] if sent else ["left", "right"]
        failed = [f"{name} 1 failed STEP_FAILED" for name in names]
        assert sorted(await engine.executions(run.id)) == failed
        engine.deploy(two_writers(Many, sent=sent))
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        done = [f"{name} 2 completed" for name in names]
        assert sorted(await engine.executions(run.id)) == sorted(failed + done)


async def test_a_write_of_an_errors_handler_that_is_rejected_is_made_again_by_the_handler(
    database_url: str,
) -> None:
    ran = Wrong()

    async def fail(state: State) -> Any:
        ran.names.append("fail")
        raise RuntimeError("Always.")

    async def handle(state: State, error: NodeError) -> Any:
        return await ran.wrong(state)

    async with serving(database_url, alone("fail", fail, error_handler=handle)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert "written under 'seen' by" in run.error.message
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
    assert ran.names == ["fail", "wrong", "wrong"]


async def test_an_edge_that_reads_what_is_rejected_fails_its_node(database_url: str) -> None:
    ran = Wrong()
    graph = alone("wrong", ran.wrong)
    graph.add_node("last", ran.node("last"))
    graph.add_conditional_edges("wrong", lambda state: "last", ["last"])
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert (run.error.code, run.error.step_id) == ("STEP_FAILED", "wrong")
        assert await engine.executions(run.id) == ["wrong 1 failed STEP_FAILED"]
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
    assert ran.names == ["wrong", "wrong", "last"]
