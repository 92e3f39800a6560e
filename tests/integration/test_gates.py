"""A gate (an interrupt) is passed by a resume alone: by no retry, no takeover and no deploy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository

from tests.support.own_worker import Engine, Graph, Ran, Run, State, chain, code_and_step, fork, serving


class Heard(Ran):
    """Of which it can be awaited that the first of its nodes has run."""

    def __init__(self) -> None:
        super().__init__()
        self.first = asyncio.Event()

    def node(self, name: str) -> Any:
        note = super().node(name)

        async def node(state: Any) -> Any:
            self.first.set()
            return await note(state)

        return node


class Killed(BaseException):
    """The worker is no more."""


def before(ran: Ran) -> Any:
    return chain(one=ran.node("one"), two=ran.node("two")).compile(interrupt_before=["two"])


def after(ran: Ran) -> Any:
    return chain(one=ran.node("one"), two=ran.node("two")).compile(interrupt_after=["one"])


def after_all(ran: Ran) -> Any:
    return chain(one=ran.node("one"), two=ran.node("two")).compile(interrupt_after="*")


def after_a_send(ran: Ran) -> Any:
    graph: Graph = StateGraph(State)
    for name in ("one", "two"):
        graph.add_node(name, ran.node(name))
    graph.add_conditional_edges(START, lambda state: [Send("one", {})], ["one"])
    graph.add_edge("one", "two")
    return graph.compile(interrupt_after=["one"])


def nested(ran: Ran) -> Any:
    return chain(inner=before(ran)).compile()


def called(ran: Ran) -> Any:
    inner = before(ran)

    async def node(state: State) -> Any:
        return await inner.ainvoke(state)

    return node


def called_after(ran: Ran) -> Any:
    inner = after(ran)

    async def node(state: State) -> Any:
        return await inner.ainvoke(state)

    return node


def called_after_all(ran: Ran) -> Any:
    inner, other = after_all(ran), chain(other=ran.node("other")).compile(interrupt_after=["other"])

    async def node(state: State) -> Any:
        return await (other if state.get("fail") else inner).ainvoke(state)

    return node


def called_by_one_that_is_called(ran: Ran) -> Any:
    inner = chain(between=called_after(ran)).compile()

    async def node(state: State) -> Any:
        return await inner.ainvoke(state)

    return node


CALLED = [called, called_after, called_after_all, called_by_one_that_is_called]
GATES = [before, after, after_all, after_a_send, nested, *CALLED]


async def assert_stopped(engine: Engine, run: Run, ran: Ran, attempt: int) -> None:
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert (run.error.code, run.error.step_id) == ("WORKFLOW_FAILED", "outer")
    assert "outer asked for input" in run.error.message
    assert run.error.retryable is False
    assert (await engine.executions(run.id))[-1] == f"outer {attempt} failed STEP_FAILED"
    assert ran.names == ["one"]


@pytest.mark.parametrize("gate", GATES)
async def test_a_gate_of_a_sub_graph_holds_however_often_its_run_is_retried(
    database_url: str, gate: Any
) -> None:
    ran = Ran()
    async with serving(database_url, chain(outer=gate(ran), last=ran.node("last"))) as engine:
        run = await engine.execute()
        await assert_stopped(engine, run, ran, 1)
        for attempt in (2, 3):
            await assert_stopped(engine, await engine.execute_again(run.id), ran, attempt)


@pytest.mark.parametrize("gate", [gate for gate in GATES if gate is not called])
async def test_a_gate_of_a_sub_graph_holds_when_its_worker_dies_as_it_is_reached(
    database_url: str, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran()

    async def die(held: HeldRunRepository, *arguments: Any, **named: Any) -> None:
        raise Killed

    @asynccontextmanager
    async def die_ending(held: HeldRunRepository) -> AsyncIterator[None]:
        raise Killed
        yield

    async with serving(database_url, chain(outer=gate(ran), last=ran.node("last"))) as engine:
        run_id = await engine.trigger()
        claimed = await engine.claim()
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "fail_step", die)
            patched.setattr(HeldRunRepository, "end", die_ending)
            with pytest.raises(Killed):
                await engine.processor.process(claimed)
        assert (await engine.get(run_id)).status is RunStatus.RUNNING
        run = await engine.process(await engine.take_over(run_id))
        await assert_stopped(engine, run, ran, 2)


@pytest.mark.parametrize("gate", GATES)
async def test_a_gate_holds_when_a_node_beside_it_has_failed(database_url: str, gate: Any) -> None:
    ran = Heard()
    failures = [RuntimeError("Once.")]

    async def beside(state: State) -> State:
        await ran.first.wait()
        if failures:
            raise failures.pop()
        return {}

    graph = fork(outer=gate(ran), beside=beside)
    graph.add_node("last", ran.node("last"))
    graph.add_edge(["outer", "beside"], "last")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.FAILED
        for _ in range(2):
            run = await engine.execute_again(run.id)
            assert run.error is not None
            assert (run.error.code, run.error.step_id) == ("WORKFLOW_FAILED", "outer")
            assert ran.names == ["one"]


async def test_a_node_that_asks_asks_again_when_its_run_is_retried(database_url: str) -> None:
    ran = Ran()

    async def outer(state: State) -> Any:
        answer = interrupt("Which colour?")
        return Command(update={"seen": [answer]})

    async with serving(database_url, chain(one=ran.node("one"), outer=outer)) as engine:
        run = await engine.execute()
        await assert_stopped(engine, run, ran, 1)
        await assert_stopped(engine, await engine.execute_again(run.id), ran, 2)


def before_any(ran: Ran) -> Any:
    return chain(one=ran.node("one"), two=ran.node("two")).compile(interrupt_before="*")


def after_the_last(ran: Ran) -> Any:
    return chain(one=ran.node("one")).compile(interrupt_after=["one"])


TOP_GATES = [
    (before, "interrupt_before=['two']", ["one"]),
    (before_any, "interrupt_before=*", []),
    (after, "interrupt_after=['one']", ["one"]),
    (after_all, "interrupt_after=*", ["one"]),
    (after_a_send, "interrupt_after=['one']", ["one"]),
    (after_the_last, "interrupt_after=['one']", ["one"]),
]


@pytest.mark.parametrize(("gate", "words", "names"), TOP_GATES)
async def test_a_gate_of_a_compiled_graph_holds_however_often_its_run_is_retried(
    database_url: str, gate: Any, words: str, names: list[str]
) -> None:
    ran = Ran()
    async with serving(database_url, gate(ran)) as engine:
        run = await engine.execute()
        for _ in range(3):
            assert run.status is RunStatus.FAILED
            assert code_and_step(run.error) == ("WORKFLOW_FAILED", None)
            assert run.error is not None
            assert run.error.message == f"WorkflowError: {words} asked for input, which a run cannot get"
            assert run.error.retryable is False
            assert ran.names == names
            run = await engine.execute_again(run.id)


@pytest.mark.parametrize(("gate", "words", "names"), TOP_GATES)
async def test_a_gate_of_a_compiled_graph_holds_when_its_worker_dies_as_it_is_reached(
    database_url: str, gate: Any, words: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran()

    @asynccontextmanager
    async def die_ending(held: HeldRunRepository) -> AsyncIterator[None]:
        raise Killed
        yield

    async with serving(database_url, gate(ran)) as engine:
        run_id = await engine.trigger()
        claimed = await engine.claim()
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "end", die_ending)
            with pytest.raises(Killed):
                await engine.processor.process(claimed)
        run = await engine.process(await engine.take_over(run_id))
        assert run.status is RunStatus.FAILED
        assert run.error is not None
        assert words in run.error.message
        assert ran.names == names


async def test_a_compiled_graph_with_a_gate_that_is_not_reached_completes(database_url: str) -> None:
    graph = chain(one=Ran().node("one"))
    graph.add_node("aside", Ran().node("aside"))
    async with serving(database_url, graph.compile(interrupt_before=["aside"])) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED
