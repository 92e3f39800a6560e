"""A gate (an interrupt) is passed by a resume alone: by no retry, no takeover and no deploy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Send, interrupt
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository

from tests.support.own_worker import Engine, Graph, Ran, Run, State, chain, fork, serving, until


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


def before_a_send(ran: Ran) -> Any:
    graph: Graph = StateGraph(State)
    for name in ("one", "two"):
        graph.add_node(name, ran.node(name))
    graph.add_edge(START, "one")
    graph.add_conditional_edges("one", lambda state: [Send("two", {})], ["two"])
    return graph.compile(interrupt_before=["two"])


def before_a_join(ran: Ran) -> Any:
    graph = fork(one=ran.node("one"), beside=lambda state: {})
    graph.add_node("two", ran.node("two"))
    graph.add_edge(["one", "beside"], "two")
    return graph.compile(interrupt_before=["two"])


def before_a_deferred_node(ran: Ran) -> Any:
    graph = chain(one=ran.node("one"))
    graph.add_node("two", ran.node("two"), defer=True)
    graph.add_edge("one", "two")
    return graph.compile(interrupt_before=["two"])


def before_a_deferred_join(ran: Ran) -> Any:
    graph = fork(one=ran.node("one"), beside=lambda state: {})
    graph.add_node("two", ran.node("two"), defer=True)
    graph.add_edge(["one", "beside"], "two")
    return graph.compile(interrupt_before=["two"])


TOP = [
    before,
    after,
    after_a_send,
    before_a_send,
    before_a_join,
    before_a_deferred_node,
    before_a_deferred_join,
]


def asking(ran: Ran) -> Any:
    async def two(state: State) -> Any:
        interrupt("Go on?")
        return await ran.node("two")(state)

    return chain(one=ran.node("one"), two=two).compile()


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


def called_asking(ran: Ran) -> Any:
    def one(state: State) -> State:
        ran.names.append("one")
        return {}

    def two(state: State) -> State:
        interrupt("Go on?")
        ran.names.append("two")
        return {}

    inner = chain(one=one, two=two).compile()

    def node(state: State) -> Any:
        return inner.invoke(state)

    return node


def called_by_one_that_is_called(ran: Ran) -> Any:
    inner = chain(between=called_after(ran)).compile()

    async def node(state: State) -> Any:
        return await inner.ainvoke(state)

    return node


def unknown(ran: Ran) -> Any:
    async def node(state: State) -> Any:
        return await before(ran).ainvoke(state)

    return node


CALLED = [called, called_after, called_asking, called_by_one_that_is_called, unknown]
GATES = [*TOP, asking, nested, *CALLED]


async def die(held: HeldRunRepository, *arguments: Any, **named: Any) -> None:
    await held.flush()  # or else its successor would come to the gate by itself
    raise Killed


@asynccontextmanager
async def die_ending(held: HeldRunRepository) -> AsyncIterator[None]:
    raise Killed
    yield


async def assert_waits(engine: Engine, run: Run, ran: Ran) -> None:
    assert run.status is RunStatus.RUNNING
    assert len(run.waiting_for) == 1
    assert run.waiting_for[0].step_id.split(":")[0] == "outer"
    assert ran.names == ["one"]


async def assert_passed(engine: Engine, run: Run, ran: Ran) -> None:
    assert run.status is RunStatus.COMPLETED, run.error
    assert run.waiting_for == []
    assert ran.names == ["one", "two", "last"]


@pytest.mark.parametrize("gate", GATES)
async def test_a_gate_of_a_sub_graph_is_passed_when_its_run_is_resumed(database_url: str, gate: Any) -> None:
    ran = Ran()
    async with serving(database_url, chain(outer=gate(ran), last=ran.node("last"))) as engine:
        run = await engine.execute()
        await assert_waits(engine, run, ran)
        run = await engine.go_on(run.id, {run.gate: True})
        await assert_passed(engine, run, ran)
        executions = await engine.executions(run.id)
        assert [each for each in executions if ":" not in each] == ["outer 1 completed", "last 1 completed"]
        assert all(each.endswith(" 1 completed") for each in executions)


@pytest.mark.parametrize("gate", GATES)
async def test_a_gate_holds_when_its_run_is_cancelled_and_retried(database_url: str, gate: Any) -> None:
    ran = Ran()
    async with serving(database_url, chain(outer=gate(ran), last=ran.node("last"))) as engine:
        run = await engine.execute()
        for _ in range(2):
            cancelled = await engine.cancel(run.id)
            assert (cancelled.status, cancelled.waiting_for) == (RunStatus.CANCELLED, [])
            run = await engine.execute_again(run.id)
            await assert_waits(engine, run, ran)
        await assert_passed(engine, await engine.go_on(run.id, {run.gate: None}), ran)


@pytest.mark.parametrize("gate", GATES)
async def test_a_gate_holds_when_its_worker_dies_as_it_is_reached(
    database_url: str, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran()
    async with serving(database_url, chain(outer=gate(ran), last=ran.node("last"))) as engine:
        run_id = await engine.trigger()
        claimed = await engine.claim()
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "wait", die)
            with pytest.raises(Killed):
                await engine.processor.process(claimed)
        run = await engine.process(await engine.take_over(run_id))
        await assert_waits(engine, run, ran)
        await assert_passed(engine, await engine.go_on(run.id, {run.gate: True}), ran)


@pytest.mark.parametrize("gate", GATES)
async def test_a_gate_is_passed_when_its_worker_has_died_before_it(
    database_url: str, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran()
    real = HeldRunRepository.save_writes

    async def die_within(held: HeldRunRepository, namespace: str, *arguments: Any, **named: Any) -> None:
        if namespace:
            raise Killed
        await real(held, namespace, *arguments, **named)

    async with serving(database_url, chain(outer=gate(ran), last=ran.node("last"))) as engine:
        run_id = await engine.trigger()
        claimed = await engine.claim()
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "save_writes", die_within)
            patched.setattr(HeldRunRepository, "end", die_ending)
            with pytest.raises(Killed):
                await engine.processor.process(claimed)
        run = await engine.process(await engine.take_over(run_id))
        assert (run.status, set(ran.names)) == (RunStatus.RUNNING, {"one"})
        run = await engine.go_on(run.id, {run.gate: True})
        assert (run.status, ran.names[-2:]) == (RunStatus.COMPLETED, ["two", "last"]), run.error


@pytest.mark.parametrize("gate", GATES)
async def test_a_resume_acts_though_the_worker_that_takes_it_dies(
    database_url: str, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran()
    async with serving(database_url, chain(outer=gate(ran), last=ran.node("last"))) as engine:
        run = await engine.execute()
        await engine.resume(run.id, {run.gate: True})
        claimed = await engine.claim_expired()
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "begin_step", die)
            patched.setattr(HeldRunRepository, "end", die_ending)
            with pytest.raises(Killed):
                await engine.processor.process(claimed)
        run = await engine.process(await engine.take_over(run.id))
        await assert_passed(engine, run, ran)


@pytest.mark.parametrize("gate", GATES)
async def test_a_gate_holds_when_a_node_beside_it_has_failed(database_url: str, gate: Any) -> None:
    ran = Ran()
    failures = [RuntimeError("Once.")]

    async def beside(state: State) -> State:
        await until(lambda: asyncio.sleep(0, ran.names), bool)
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
            # What had not been stored when the node beside it failed is done again.
            assert (run.status, set(ran.names)) == (RunStatus.RUNNING, {"one"})
            await engine.cancel(run.id)


def before_any(ran: Ran) -> Any:
    return chain(one=ran.node("one")).compile(interrupt_before="*")


def after_the_last(ran: Ran) -> Any:
    return chain(one=ran.node("one")).compile(interrupt_after=["one"])


def after_the_first_of_two(ran: Ran) -> Any:
    return chain(one=ran.node("one"), two=ran.node("two")).compile(
        interrupt_after=["one"], interrupt_before=["two"]
    )


TOP_GATES = [
    *((gate, ["one"], "two") for gate in TOP if gate not in (after, after_a_send)),
    (after, ["one"], "one"),
    (after_a_send, ["one"], "one"),
    (after_the_first_of_two, ["one"], "one"),
    (before_any, [], "one"),
    (after_the_last, ["one"], "one"),
]


@pytest.mark.parametrize(("gate", "names", "step"), TOP_GATES)
async def test_a_gate_of_a_compiled_graph_holds_until_its_run_is_resumed(
    database_url: str, gate: Any, names: list[str], step: str
) -> None:
    ran = Ran()
    async with serving(database_url, gate(ran)) as engine:
        run = await engine.execute()
        for _ in range(2):
            assert run.status is RunStatus.RUNNING
            (waiting,) = run.waiting_for
            assert (waiting.step_id, waiting.value) == (step, "null")
            assert ran.names == names
            await engine.cancel(run.id)
            run = await engine.execute_again(run.id)
        run = await engine.go_on(run.id, {run.gate: True})
        assert run.status is RunStatus.COMPLETED
        assert ran.names in (["one", "two"], ["one"])


async def test_a_graph_with_gates_at_each_node_stops_at_each(database_url: str) -> None:
    ran = Ran()
    async with serving(database_url, after_all(ran)) as engine:
        run = await engine.execute()
        for names in (["one"], ["one", "two"]):
            assert (run.status, ran.names) == (RunStatus.RUNNING, names)
            run = await engine.go_on(run.id, {run.gate: True})
        assert run.status is RunStatus.COMPLETED


async def test_a_compiled_graph_with_a_gate_that_is_not_reached_completes(database_url: str) -> None:
    graph = chain(one=Ran().node("one"))
    graph.add_node("aside", Ran().node("aside"))
    async with serving(database_url, graph.compile(interrupt_before=["aside"])) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED


async def test_two_gates_side_by_side_are_passed_one_by_one(database_url: str) -> None:
    ran = Ran()
    graph = chain(one=ran.node("one"))
    for name in ("left", "right"):
        graph.add_node(name, ran.node(name))
        graph.add_edge("one", name)
    async with serving(database_url, graph.compile(interrupt_before=["left", "right"])) as engine:
        run = await engine.execute()
        left, right = run.waiting_for
        assert (left.step_id, right.step_id) == ("left", "right")
        run = await engine.go_on(run.id, {left.id: True})
        assert [each.id for each in run.waiting_for] == [right.id]
        assert ran.names == ["one"]
        run = await engine.go_on(run.id, {right.id: True})
        assert run.status is RunStatus.COMPLETED
        assert sorted(ran.names) == ["left", "one", "right"]
