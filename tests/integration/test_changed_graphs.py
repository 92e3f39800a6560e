"""A run completes only when what it was due to do was done: not when a deploy took the node away that was
due, and not when an edge leads to a node that never was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send
from runengine_server.domain.run import CampaignStatus, Failure, RunStatus

from tests.support.own_worker import Engine, Graph, Held, Ran, Run, State, chain, fork, serving


class Once:
    """A node that fails the first time."""

    def __init__(self, ran: Ran, name: str) -> None:
        self._failures = [RuntimeError("Once.")]
        self._node = ran.node(name)

    async def __call__(self, state: State) -> Any:
        if self._failures:
            raise self._failures.pop()
        return await self._node(state)


def error_of(run: Run) -> Failure:
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    return run.error


def assert_changed(run: Run, *lacks: str) -> None:
    error = error_of(run)
    assert (error.code, error.step_id, error.retryable) == ("WORKFLOW_CHANGED", None, True)
    for each in lacks:
        assert each in error.message


async def stored(engine: Engine, run_id: UUID) -> int:
    row = await engine.tenant.fetchrow("SELECT count(*) AS n FROM checkpoints WHERE run_id = $1", run_id)
    assert row is not None
    return int(row["n"])


async def test_a_run_whose_due_node_was_renamed_fails_until_it_is_back(database_url: str) -> None:
    ran = Ran()
    load, send, report = ran.node("load"), Once(ran, "send"), ran.node("report")
    before = chain(load=load, send=send, report=report)
    async with serving(database_url, before) as engine:
        campaign = await engine.campaigns.insert(uuid4())
        run_id = await engine.trigger(campaign_id=campaign.id)
        await engine.process(await engine.claim())
        for _ in range(2):
            engine.deploy(chain(load=load, transmit=ran.node("transmit"), report=report))
            assert_changed(await engine.execute_again(run_id), "'send'")
            assert (await engine.campaign(campaign.id)).status is CampaignStatus.FAILED
            assert await stored(engine, run_id) > 0
        assert ran.names == ["load"]
        engine.deploy(before)
        assert (await engine.execute_again(run_id)).status is RunStatus.COMPLETED
        assert (await engine.campaign(campaign.id)).status is CampaignStatus.LIVE
        assert ran.names == ["load", "send", "report"]


@pytest.mark.parametrize("how", ["is drained", "is lost"])
async def test_a_run_does_not_complete_without_its_next_node_when_its_worker(
    database_url: str, how: str
) -> None:
    ran, held = Ran(), Held()
    async with serving(database_url, chain(load=held.node, send=ran.node("send"))) as engine:
        run_id = await engine.trigger()
        claimed = await engine.claim()
        processing = asyncio.create_task(engine.processor.process(claimed))
        execution = await held.next()
        if how == "is drained":
            engine.processor.drain()
            execution.go.set()
            await processing
            await engine.queue.hand_back([claimed])
            (claimed,) = await engine.queue.claim_expired(1)
        else:
            processing.cancel()
            await asyncio.wait([processing])
            claimed = await engine.take_over(run_id)
        renamed = "load" if how == "is lost" else "send"
        engine.deploy(chain(**{name: ran.node(name) for name in ("load", "send", "x") if name != renamed}))
        assert_changed(await engine.process(claimed), repr(renamed))
        assert ran.names == []


async def test_a_node_that_was_due_beside_others_is_missed_before_any_of_them_begins(
    database_url: str,
) -> None:
    ran = Ran()

    left, right = Once(ran, "left"), Once(ran, "right")

    def graph(name: str) -> Graph:
        return fork(**{name: left, "right": right})

    async with serving(database_url, graph("left")) as engine:
        run = await engine.execute()
        engine.deploy(graph("other"))
        assert_changed(await engine.execute_again(run.id), "'left'")
        assert ran.names == []
        engine.deploy(graph("left"))
        # The second fails now, unless it has done so beside the first.
        run = await engine.execute_again(run.id)
        if run.status is RunStatus.FAILED:
            run = await engine.execute_again(run.id)
        assert run.status is RunStatus.COMPLETED
        assert sorted(ran.names) == ["left", "right"]


async def test_a_successor_of_a_finished_node_is_missed_although_the_superstep_has_not_ended(
    database_url: str,
) -> None:
    ran = Ran()
    done = asyncio.Event()

    async def quick(state: State) -> State:
        ran.names.append("quick")
        done.set()
        return {}

    failing = Once(ran, "slow")

    async def slow(state: State) -> Any:
        await done.wait()
        return await failing(state)

    def graph(follower: str) -> Graph:
        graph: Graph = StateGraph(State)
        graph.add_node("quick", quick)
        graph.add_node("slow", slow)
        graph.add_node(follower, ran.node(follower))
        graph.add_edge(START, "quick")
        graph.add_edge(START, "slow")
        graph.add_edge("quick", follower)
        return graph

    async with serving(database_url, graph("send")) as engine:
        run = await engine.execute()
        assert "quick 1 completed" in await engine.executions(run.id)
        engine.deploy(graph("transmit"))
        assert_changed(await engine.execute_again(run.id), "'send'")
        engine.deploy(graph("send"))
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["quick", "slow", "send"]


async def test_a_join_that_one_of_its_nodes_has_reached_is_missed(database_url: str) -> None:
    ran = Ran()
    late = Once(ran, "late")

    def graph(end: str) -> Graph:
        graph = chain(early=ran.node("early"))
        for name in ("between", end):
            graph.add_node(name, ran.node(name))
        graph.add_node("late", late)
        graph.add_edge(START, "between")
        graph.add_edge("between", "late")
        graph.add_edge(["early", "late"], end)
        return graph

    async with serving(database_url, graph("report")) as engine:
        run = await engine.execute()
        engine.deploy(graph("summary"))
        assert_changed(await engine.execute_again(run.id), "early+late", "'report'")
        engine.deploy(graph("report"))
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names[-2:] == ["late", "report"]


async def test_a_pending_send_is_missed(database_url: str) -> None:
    ran = Ran()
    item = Once(ran, "item")

    def graph(name: str) -> Graph:
        graph = chain(split=ran.node("split"))
        graph.add_node(name, item)
        graph.add_conditional_edges("split", lambda state: [Send(name, {}), Send(name, {})], [name])
        return graph

    async with serving(database_url, graph("item")) as engine:
        run = await engine.execute()
        engine.deploy(graph("piece"))
        assert_changed(await engine.execute_again(run.id), "'item'")
        engine.deploy(graph("item"))
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        # The one beside the failure may have been stopped before it was recorded, and has run again then.
        assert set(ran.names[1:]) == {"item"}
        ended = [each for each in await engine.executions(run.id) if each.endswith(" completed")]
        assert [each.split()[0] for each in ended] == ["split", "item", "item"]


@pytest.mark.parametrize("depth", [1, 2])
async def test_a_node_of_a_sub_graph_is_missed(database_url: str, depth: int) -> None:
    ran = Ran()
    send = Once(ran, "send")

    def graph(name: str) -> Graph:
        graph = chain(**{"load": ran.node("load"), name: send})
        for level in range(depth):
            graph = chain(**{f"outer{level}": graph.compile()})
        graph.add_node("last", ran.node("last"))
        graph.add_edge(f"outer{depth - 1}", "last")
        return graph

    async with serving(database_url, graph("send")) as engine:
        run = await engine.execute()
        engine.deploy(graph("transmit"))
        assert_changed(await engine.execute_again(run.id), "'send'", "outer0")
        assert ran.names == ["load"]
        engine.deploy(graph("send"))
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["load", "send", "last"]


async def test_a_node_of_a_graph_that_a_function_calls_is_missed(database_url: str) -> None:
    ran = Ran()
    send = Once(ran, "send")

    def graph(name: str) -> Graph:
        inner = chain(**{"load": ran.node("load"), name: send}).compile()

        async def outer(state: State) -> Any:
            return await inner.ainvoke(state)

        return chain(outer=outer, last=ran.node("last"))

    async with serving(database_url, graph("send")) as engine:
        run = await engine.execute()
        engine.deploy(graph("transmit"))
        assert_changed(await engine.execute_again(run.id), "'send'", "outer")
        assert ran.names == ["load"]
        engine.deploy(graph("send"))
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["load", "send", "last"]


@pytest.mark.parametrize("deferred", [True, False])
async def test_a_node_that_was_due_and_is_deferred_differently_now_is_missed(
    database_url: str, deferred: bool
) -> None:
    ran = Ran()
    send = Once(ran, "send")

    def graph(defer: bool) -> Graph:
        graph = chain(load=ran.node("load"))
        graph.add_node("send", send, defer=defer)
        graph.add_edge("load", "send")
        return graph

    async with serving(database_url, graph(deferred)) as engine:
        run = await engine.execute()
        engine.deploy(graph(not deferred))
        assert_changed(await engine.execute_again(run.id), "'send'")
        engine.deploy(graph(deferred))
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED


async def test_a_deploy_that_leaves_what_is_due_alone_changes_nothing_for_a_run(database_url: str) -> None:
    ran = Ran()
    send = Once(ran, "send")
    async with serving(database_url, chain(load=ran.node("load"), send=send, old=ran.node("old"))) as engine:
        run = await engine.execute()
        engine.deploy(chain(send=send, new=ran.node("new")))
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["load", "send", "new"]


# Nodes that never were.

Edge = Callable[[str], Graph]


def goto(target: str) -> Graph:
    return chain(load=lambda state: Command(goto=target))


def one_of_many(target: str) -> Graph:
    return chain(load=lambda state: Command(goto=[Send("load", {}), target]))


def send(target: str) -> Graph:
    return chain(load=lambda state: Command(goto=Send(target, {})))


def conditional_edge(target: str) -> Graph:
    graph = chain(load=lambda state: {})
    graph.add_conditional_edges("load", lambda state: target)
    return graph


def conditional_send(target: str) -> Graph:
    graph = chain(load=lambda state: {})
    graph.add_conditional_edges("load", lambda state: [Send(target, {})])
    return graph


@pytest.mark.parametrize("edge", [goto, one_of_many, send, conditional_edge, conditional_send])
async def test_a_node_that_leads_to_one_that_never_was_fails_and_runs_again_when_it_is_mended(
    database_url: str, edge: Edge
) -> None:
    ran = Ran()

    def graph(target: str) -> Graph:
        graph = edge(target)
        graph.add_node("report", ran.node("report"))
        return graph

    async with serving(database_url, graph("reprot")) as engine:
        run = await engine.execute()
        error = error_of(run)
        assert (error.code, error.step_id, error.retryable) == ("WORKFLOW_FAILED", "load", False)
        assert "'load'" in error.message
        assert "'reprot'" in error.message
        assert await engine.executions(run.id) == ["load 1 failed STEP_FAILED"]
        engine.deploy(graph("report") if edge is not one_of_many else conditional_edge("__end__"))
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert "load 2 completed" in await engine.executions(run.id)
        assert ran.names == ([] if edge is one_of_many else ["report"])


async def test_an_entry_that_leads_to_no_node_fails_the_run(database_url: str) -> None:
    ran = Ran()
    graph: Graph = StateGraph(State)
    graph.add_node("report", ran.node("report"))
    graph.add_conditional_edges(START, lambda state: "reprot")
    async with serving(database_url, graph) as engine:
        error = error_of(await engine.execute())
        assert (error.code, error.step_id) == ("WORKFLOW_FAILED", None)
        assert "'reprot'" in error.message
        assert ran.names == []


async def test_a_node_of_a_sub_graph_that_leads_to_no_node_fails_its_step(
    database_url: str,
) -> None:
    ran = Ran()
    graph = chain(outer=goto("reprot").compile(), last=ran.node("last"))
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        error = error_of(run)
        assert (error.code, error.step_id) == ("WORKFLOW_FAILED", "outer:load")
        assert "'load'" in error.message
        assert "'reprot'" in error.message
        assert await engine.executions(run.id) == [
            "outer 1 failed STEP_FAILED", "outer:load 1 failed STEP_FAILED",
        ]  # fmt: skip
        assert ran.names == []


@pytest.mark.parametrize("edge", [goto, conditional_edge])
@pytest.mark.parametrize("how", ["ainvoke", "invoke"])
async def test_a_node_of_a_graph_that_a_function_makes_and_that_leads_to_no_node_fails_the_step(
    database_url: str, edge: Edge, how: str
) -> None:
    ran = Ran()

    async def awaits(state: State) -> Any:
        return await edge("reprot").compile().ainvoke(state)

    def calls(state: State) -> Any:
        return edge("reprot").compile().invoke(state)

    outer = awaits if how == "ainvoke" else calls
    async with serving(database_url, chain(outer=outer, last=ran.node("last"))) as engine:
        run = await engine.execute()
        error = error_of(run)
        assert (error.code, error.step_id) == ("WORKFLOW_FAILED", "outer:load")
        assert "'reprot'" in error.message
        assert ran.names == []
