"""Where a run goes on when it is executed again: after its last checkpoint, by what is stored."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Annotated, Any, TypedDict
from uuid import UUID

import pytest
from langgraph.channels import UntrackedValue
from langgraph.graph import START, StateGraph
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.write_behind import StoredCheckpoint

from tests.support.nodes import Opaque
from tests.support.own_worker import Ran, State, chain, code_and_step, fork, happened, serving


async def test_a_retry_after_an_edge_that_raised_runs_its_node_and_the_successors(database_url: str) -> None:
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
    failures = [RuntimeError("The other one failed.")] if how == "a parallel step fails" else []

    async def choose(state: State) -> str:
        if next(choices) == 0:
            choosing.set()
            await asyncio.Event().wait()
        return "last"

    async def other(state: State) -> State:
        if failures:
            await choosing.wait()
            raise failures.pop()
        return {}

    graph = fork(first=ran.node("first"), other=other)
    graph.add_node("last", ran.node("last"))
    graph.add_conditional_edges("first", choose, ["last"])
    async with serving(database_url, graph) as engine:
        run_id = await engine.trigger()
        claimed = await engine.claim()
        execution = asyncio.create_task(engine.process(claimed))
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


async def test_the_current_checkpoint_is_the_one_stored_last_whatever_its_id(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran()
    failures = [RuntimeError("Once.")]
    numbers = count(2**62, -1)

    async def three(state: State) -> State:
        if failures:
            raise failures.pop()
        return {"seen": ["three"]}

    # Each checkpoint of a clock that is behind that of the one before.
    monkeypatch.setattr("langgraph.pregel._checkpoint.uuid6", lambda **_: UUID(int=next(numbers)))
    graph = chain(one=ran.node("one"), two=ran.node("two"), three=three)
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "three")
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["one", "two"]


async def test_checkpoints_are_listed_in_the_order_in_which_they_were_stored(database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        await engine.trigger()
        held = HeldRunRepository(engine.database, await engine.claim(), "worker:test")
        for name in ("2", "3", "1"):
            await held.save_checkpoint(StoredCheckpoint("", name, None, "msgpack", b"", b""))
        current = await held.get_checkpoint("", None)
        assert current is not None
        assert current.checkpoint_id == "1"
        assert [each.checkpoint_id for each in await held.list_checkpoints("", None)] == ["1", "3", "2"]
        assert [each.checkpoint_id for each in await held.list_checkpoints("", "3")] == ["2"]


async def test_a_node_that_writes_only_what_is_never_stored_does_not_run_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Scratch(TypedDict, total=False):
        scratch: Annotated[Any, UntrackedValue]
        seen: list[str]

    ran = Ran()
    stored = asyncio.Event()
    failures = [RuntimeError("Once.")]
    save_writes = HeldRunRepository.save_writes

    async def notice(held: HeldRunRepository, *arguments: Any, **named: Any) -> None:
        of_scratch = "scratch" in ran.names
        await save_writes(held, *arguments, **named)
        if of_scratch:
            stored.set()

    async def scratch(state: Scratch) -> dict[str, Any]:
        ran.names.append("scratch")
        return {"scratch": Opaque()}

    async def fail(state: Scratch) -> dict[str, Any]:
        await stored.wait()
        if failures:
            raise failures.pop()
        return {}

    monkeypatch.setattr(HeldRunRepository, "save_writes", notice)
    graph = StateGraph(Scratch)
    for name, node in (("scratch", scratch), ("fail", fail)):
        graph.add_node(name, node)
        graph.add_edge(START, name)
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "fail")
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["scratch"]
        assert "scratch 1 completed" in await engine.executions(run.id)
