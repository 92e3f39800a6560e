"""Runs that name one thread go on from one another's state, one at a time, in the order of their triggers."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, TypedDict
from uuid import UUID

import asyncpg
import orjson
import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from runengine.context import RunContext
from runengine.v1.run_service_pb2 import GetRunOutputResponse
from runengine_server.domain.errors import InvalidArgument
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository

from tests.support.own_worker import Engine, Held, ended, serving


class Chat(TypedDict, total=False):
    messages: Annotated[list[Any], add_messages]
    said: Annotated[list[str], operator.add]
    last: str


def chat(*nodes: Any) -> Any:
    graph = StateGraph(Chat)
    graph.add_sequence(nodes)
    graph.add_edge(START, nodes[0].__name__)
    return graph


async def answer(state: Chat) -> Chat:
    number = len(state["messages"])
    return {"messages": [("ai", f"answer {number}")], "last": str(state["messages"][-1].content)}


@pytest.fixture
async def talking(database_url: str) -> AsyncIterator[Engine]:
    async with serving(database_url, chat(answer)) as engine:
        yield engine


def human(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def say(engine: Engine, text: str, thread: str = "t") -> UUID:
    return await engine.trigger(human(text), context={"threadId": thread})


async def output(engine: Engine, run_id: UUID) -> Any:
    run = await engine.get(run_id)
    assert (run.status, run.error) == (RunStatus.COMPLETED, None)
    stored = await engine.runs.get_output(run_id)
    assert stored is not None
    assert stored.encoded is not None
    return orjson.loads(GetRunOutputResponse.FromString(stored.encoded).output)


async def contents(engine: Engine, run_id: UUID) -> list[str]:
    """The messages of the thread when the run had completed."""
    return [each["content"] for each in (await output(engine, run_id))["messages"]]


async def execute_next(engine: Engine) -> UUID:
    """Executes the one run that can be claimed."""
    (run,) = await engine.queue.claim_queued(10)
    await engine.process(run)
    return run.id


async def claimable(engine: Engine) -> Sequence[UUID]:
    """What a claim takes."""
    return [run.id for run in await engine.queue.claim_queued(10)]


async def test_a_run_of_a_thread_goes_on_from_the_state_of_the_one_before(talking: Engine) -> None:
    for text, expected in (("one", ["one", "answer 1"]), ("two", ["one", "answer 1", "two", "answer 3"])):
        run_id = await say(talking, text)
        assert await execute_next(talking) == run_id
        assert await contents(talking, run_id) == expected
    other = await say(talking, "else", "another thread")
    await execute_next(talking)
    assert await contents(talking, other) == ["else", "answer 1"]
    alone = await talking.execute(human("alone"))
    assert await contents(talking, alone.id) == ["alone", "answer 1"]


async def test_a_thread_belongs_to_one_tenant_and_one_workflow(database_url: str) -> None:
    async with (
        serving(database_url, chat(answer)) as one,
        serving(database_url, chat(answer)) as of_another_tenant,
        serving(database_url, chat(answer)) as of_another_workflow,
    ):
        of_another_workflow.tenant, of_another_workflow.runs = one.tenant, one.runs
        for engine in (one, of_another_tenant, of_another_workflow):
            run_id = await say(engine, "hello")
            # Not behind the run of the other, which is not claimed yet.
            await say(engine, "again")
        for engine in (one, of_another_tenant, of_another_workflow):
            await execute_next(engine)
            run_id = await execute_next(engine)
            assert await contents(engine, run_id) == ["hello", "answer 1", "again", "answer 3"]


async def test_runs_of_a_thread_can_be_claimed_one_after_the_other(talking: Engine) -> None:
    runs = [await say(talking, str(number)) for number in range(3)]
    others = [await say(talking, "x", "other"), await talking.trigger(human("no thread"))]
    first = await talking.queue.claim_queued(10)
    assert {run.id for run in first} == {runs[0], *others}
    assert await claimable(talking) == []
    for run in first:
        await talking.process(run)
    for run_id in runs[1:]:
        assert await execute_next(talking) == run_id
    assert await contents(talking, runs[2]) == ["0", "answer 1", "1", "answer 3", "2", "answer 5"]


async def test_a_priority_moves_no_run_before_another_of_its_thread(talking: Engine) -> None:
    first = await say(talking, "first")
    urgent = await talking.trigger(human("urgent"), context={"threadId": "t"}, priority=100)
    assert [await execute_next(talking), await execute_next(talking)] == [first, urgent]


async def test_a_thread_keeps_one_state_however_many_runs_it_has(
    talking: Engine, database: asyncpg.Connection
) -> None:
    for number in range(5):
        run_id = await say(talking, str(number))
        await execute_next(talking)
        rows = [
            row["run_id"]
            for table in ("checkpoints", "checkpoint_writes")
            for row in await database.fetch(
                f"SELECT run_id FROM {table} WHERE tenant_id = $1", talking.tenant_id
            )
        ]
        assert rows == [run_id]


class Replayed(TypedDict, total=False):
    said: Annotated[list[str], DeltaChannel(lambda before, writes: sum(writes, before), snapshot_frequency=5)]


async def test_a_thread_with_a_delta_channel_keeps_what_it_is_replayed_from_and_no_more(
    database_url: str, database: asyncpg.Connection
) -> None:
    async def echo(state: Replayed) -> Replayed:
        return {"said": [f"{state['said'][-1]}!"]}

    graph: Any = StateGraph(Replayed)
    graph.add_node("echo", echo)
    graph.add_edge(START, "echo")
    async with serving(database_url, graph) as engine:
        for number in range(12):
            run_id = await engine.trigger({"said": [str(number)]}, context={"threadId": "t"})
            await execute_next(engine)
            said = [each for past in range(number + 1) for each in (f"{past}", f"{past}!")]
            assert (await output(engine, run_id))["said"] == said
            kept = await database.fetch("SELECT FROM checkpoints WHERE tenant_id = $1", engine.tenant_id)
            assert len(kept) <= 8


async def test_a_sub_graph_that_keeps_its_state_keeps_it_from_run_to_run(database_url: str) -> None:
    async def count(state: Chat) -> Chat:
        return {"said": [*state.get("said", []), "called"][-1:]}

    inner = chat(count).compile(checkpointer=True)

    async def outer(state: Chat) -> Chat:
        found = await inner.ainvoke({})
        return {"last": str(len(found["said"]))}

    async with serving(database_url, chat(outer)) as engine:
        for number in (1, 2, 3):
            run_id = await engine.trigger({}, context={"threadId": "t"})
            await execute_next(engine)
            assert (await output(engine, run_id))["last"] == str(number)


async def test_an_entrypoint_is_given_what_it_has_saved_in_the_run_before(database_url: str) -> None:
    @entrypoint()
    async def adding(payload: dict[str, Any], *, previous: Any = None) -> Any:
        total = payload["n"] + (previous or 0)
        return entrypoint.final(value={"total": total}, save=total)

    async with serving(database_url, adding) as engine:
        for total in (1, 3, 6):
            number = {1: 1, 3: 2, 6: 3}[total]
            run_id = await engine.trigger({"n": number}, context={"threadId": "t"})
            await execute_next(engine)
            assert await output(engine, run_id) == {"total": total}


async def test_a_run_that_waits_for_somebody_holds_its_thread(database_url: str) -> None:
    async def ask(state: Chat) -> Chat:
        return {"said": [interrupt("?")]}

    async with serving(database_url, chat(ask)) as engine:
        said: list[str] = []
        for word in ("yes", "no"):
            asking = await engine.trigger({}, context={"threadId": "t"})
            behind = await engine.trigger({}, context={"threadId": "t"}) if word == "yes" else None
            waiting = await engine.get(asking) if said else await engine.process(await engine.claim())
            if not waiting.waiting_for:
                waiting = await engine.process(await engine.claim())
            assert await claimable(engine) == []
            run = await engine.go_on(waiting.id, {waiting.gate: word})
            said.append(word)
            assert (await output(engine, run.id))["said"] == said
            if behind is not None:
                await engine.cancel(behind)


async def test_gates_of_a_run_are_not_those_of_the_next(database_url: str) -> None:
    compiled = chat(answer).compile(interrupt_before=["answer"], interrupt_after=["answer"])
    async with serving(database_url, compiled) as engine:
        for expected in (["one", "answer 1"], ["one", "answer 1", "two", "answer 3"]):
            await say(engine, expected[-2])
            run = await engine.process(await engine.claim())
            for _ in ("before", "after"):
                run = await engine.go_on(run.id, {run.gate: True})
            assert await contents(engine, run.id) == expected


class Failing:
    """A graph of two nodes whose second fails where it is told to."""

    def __init__(self) -> None:
        self.fails = False

    def graph(self) -> Any:
        async def first(state: Chat) -> Chat:
            return {"said": [f"first {state['said'][-1]}"]}

        async def second(state: Chat) -> Chat:
            if self.fails:
                raise RuntimeError("No.")
            return {"said": ["second"]}

        return chat(first, second)

    async def execute(self, engine: Engine, word: str, *, fails: bool = False) -> UUID:
        run_id = await engine.trigger({"said": [word]}, context={"threadId": "t"})
        self.fails = fails
        assert await execute_next(engine) == run_id
        self.fails = False
        return run_id


def said_by(*words: str) -> list[str]:
    return [each for word in words for each in (word, f"first {word}", "second")]


async def said(engine: Engine, run_id: UUID) -> Any:
    return (await output(engine, run_id))["said"]


async def test_a_run_that_fails_or_is_cancelled_leaves_the_thread_as_it_was(database_url: str) -> None:
    failing = Failing()
    async with serving(database_url, failing.graph()) as engine:
        await failing.execute(engine, "a")
        failed = await failing.execute(engine, "b", fails=True)
        assert (await engine.get(failed)).status is RunStatus.FAILED
        running, behind = [
            await engine.trigger({"said": [word]}, context={"threadId": "t"}) for word in ("c", "d")
        ]
        claimed = await engine.claim()
        await engine.cancel(running)
        await engine.process(claimed)
        assert await execute_next(engine) == behind
        assert await said(engine, behind) == said_by("a", "d")


async def test_a_run_that_is_retried_goes_on_with_the_state_that_it_began_with(database_url: str) -> None:
    failing = Failing()
    async with serving(database_url, failing.graph()) as engine:
        await failing.execute(engine, "a")
        failed = await failing.execute(engine, "b", fails=True)
        await engine.retry(failed)
        await execute_next(engine)
        assert await said(engine, failed) == said_by("a", "b")
        assert await said(engine, await failing.execute(engine, "c")) == said_by("a", "b", "c")


async def test_a_retry_does_not_overwrite_what_runs_have_left_since_it_began(database_url: str) -> None:
    failing = Failing()
    async with serving(database_url, failing.graph()) as engine:
        failed = await failing.execute(engine, "a", fails=True)
        await failing.execute(engine, "b")
        await engine.retry(failed)
        await execute_next(engine)
        assert await said(engine, failed) == said_by("a")
        assert await said(engine, await failing.execute(engine, "c")) == said_by("b", "c")


async def test_a_run_that_was_cancelled_in_the_queue_begins_with_the_state_of_its_retry(
    talking: Engine,
) -> None:
    first, second, third = [await say(talking, word) for word in ("one", "two", "three")]
    assert (await talking.cancel(second)).status is RunStatus.CANCELLED
    assert [await execute_next(talking), await execute_next(talking)] == [first, third]
    await talking.retry(second)
    assert await execute_next(talking) == second
    said = ["one", "answer 1", "three", "answer 3", "two", "answer 5"]
    assert await contents(talking, second) == said
    fourth = await say(talking, "four")
    await execute_next(talking)
    assert await contents(talking, fourth) == [*said, "four", "answer 7"]


async def test_the_first_run_of_a_thread_that_is_cancelled_in_the_queue_lets_the_next_go(
    talking: Engine,
) -> None:
    first, second = [await say(talking, word) for word in ("one", "two")]
    await talking.cancel(first)
    assert await claimable(talking) == [second]


async def test_a_run_that_is_retried_has_its_old_place_before_those_that_wait(talking: Engine) -> None:
    first, second, third = [await say(talking, word) for word in ("one", "two", "three")]
    await talking.cancel(first)
    await talking.retry(first)
    assert [await execute_next(talking) for _ in range(3)] == [first, second, third]


async def test_a_run_that_is_retried_waits_for_the_one_that_is_running(talking: Engine) -> None:
    first, second, third = [await say(talking, word) for word in ("one", "two", "three")]
    await talking.cancel(first)
    (running,) = await talking.queue.claim_queued(10)
    await talking.retry(first)
    assert running.id == second
    assert await claimable(talking) == []
    await talking.process(running)
    assert [await execute_next(talking), await execute_next(talking)] == [first, third]


async def test_a_run_that_is_lost_before_it_has_begun_begins_again_with_its_input(talking: Engine) -> None:
    await say(talking, "one")
    await execute_next(talking)
    run_id = await say(talking, "two")
    lost = await talking.claim()
    assert await HeldRunRepository(talking.database, lost, "worker:lost").begin_in_thread()
    await talking.process(await talking.take_over(run_id))
    assert await contents(talking, run_id) == ["one", "answer 1", "two", "answer 3"]


async def test_a_worker_that_comes_back_changes_nothing_in_the_thread(database_url: str) -> None:
    held = Held()

    async def second(state: Chat, runtime: Runtime[RunContext]) -> Chat:
        execution = held.arrive(runtime)
        await execution.go.wait()
        return {"said": ["second"]}

    async def first(state: Chat) -> Chat:
        return {"said": [f"first {state['said'][-1]}"]}

    async with serving(database_url, chat(first, second)) as engine:
        run_id = await engine.trigger({"said": ["a"]}, context={"threadId": "t"})
        behind = await engine.trigger({"said": ["b"]}, context={"threadId": "t"})
        zombie = asyncio.create_task(engine.processor.process(await engine.claim()))
        at_zombie = await held.next()
        successor = asyncio.create_task(engine.process(await engine.take_over(run_id)))
        at_successor = await held.next()
        assert await claimable(engine) == []
        at_zombie.go.set()
        await zombie
        assert await claimable(engine) == []
        at_successor.go.set()
        await successor
        assert await said(engine, run_id) == said_by("a")
        last = asyncio.create_task(engine.process(await engine.claim()))
        (await held.next()).go.set()
        await last
        assert await said(engine, behind) == said_by("a", "b")


async def test_runs_triggered_at_once_end_in_the_order_of_their_triggers_on_two_workers(
    database_url: str, database: asyncpg.Connection, short_pauses: None
) -> None:
    """Each sees the messages of those before it, and no message is lost or twice there."""
    running: list[UUID] = []

    async def note(state: Chat, runtime: Runtime[RunContext]) -> Chat:
        running.append(runtime.context.run_id)
        await asyncio.sleep(0)
        assert running == [runtime.context.run_id]
        running.remove(runtime.context.run_id)
        return {"messages": [("ai", state["messages"][-1].content)]}

    async with serving(database_url, chat(note)) as engine:
        triggered = await asyncio.gather(*(say(engine, str(number)) for number in range(20)))
        async with engine.working(concurrency=5), engine.working(concurrency=5):
            assert [await ended(engine, run_id) for run_id in triggered] == [RunStatus.COMPLETED] * 20
        rows = await database.fetch(
            "SELECT id, started_at FROM runs WHERE tenant_id = $1 ORDER BY thread_place", engine.tenant_id
        )
        ordered = [UUID(str(row["id"])) for row in rows]
        assert [row["started_at"] for row in rows] == sorted(row["started_at"] for row in rows)
        words = await contents(engine, ordered[-1])
        assert words == [each for run_id in ordered for each in [(await contents(engine, run_id))[-1]] * 2]
        assert sorted(map(int, words[::2])) == list(range(20))


@pytest.mark.parametrize(
    "wrong", ["", "x" * 256, 5, None, ["t"]], ids=["empty", "long", "number", "null", "list"]
)
async def test_a_thread_is_named_by_a_text_of_up_to_255_characters(engine: Engine, wrong: Any) -> None:
    await engine.trigger(context={"threadId": "ä" * 255})
    with pytest.raises(InvalidArgument) as refused:
        await engine.trigger(context={"threadId": wrong})
    (violation,) = refused.value.violations
    assert violation.field == "context.threadId"
    assert violation.description == "must be a text of 1 to 255 characters"
