"""What a node sees of a value is the same on every way that it may come: straight on, after a retry or a
takeover, from the cache, in a Send, a Command, a sub-graph, an edge, an error's handler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypedDict

import pydantic
import pytest
from langgraph.errors import NodeError
from langgraph.func import task
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy, Command, Send
from runengine_server.domain.run import RunStatus
from runengine_server.worker.graph.stored_values import as_stored, is_plain

from tests.support.own_worker import Graph, State, alone, serving
from tests.support.values import AS_STORED, Broken, Point, Reads, Values, chain_of_values, form, made, write


def in_an_update(reads: Reads) -> Graph:
    return chain_of_values(write=write, read=reads.node)


def of_a_sync_node(reads: Reads) -> Graph:
    return chain_of_values(write=lambda state: made(), read=reads.node)


def in_a_command(reads: Reads) -> Graph:
    async def command(state: Any) -> Any:
        return [Command(update=made()), Command(goto="read")]

    graph: Graph = StateGraph(Values)
    graph.add_node("write", command)
    graph.add_node("read", reads.node)
    graph.add_edge(START, "write")
    return graph


def in_the_send_of_a_command(reads: Reads) -> Graph:
    async def command(state: Any) -> Any:
        return Command(goto=[Send("read", made())])

    graph: Graph = StateGraph(Values)
    graph.add_node("write", command)
    graph.add_node("read", reads.node)
    graph.add_edge(START, "write")
    return graph


def in_the_send_of_an_edge(reads: Reads) -> Graph:
    graph: Graph = StateGraph(Values)
    graph.add_node("write", lambda state: {})
    graph.add_node("read", reads.node)
    graph.add_edge(START, "write")
    graph.add_conditional_edges("write", lambda state: [Send("read", made())], ["read"])
    return graph


def out_of_a_sub_graph(reads: Reads) -> Graph:
    return chain_of_values(inner=chain_of_values(write=write).compile(), read=reads.node)


def within_a_sub_graph(reads: Reads) -> Graph:
    return chain_of_values(inner=chain_of_values(write=write, read=reads.node).compile())


def within_a_graph_that_is_called(reads: Reads) -> Graph:
    inner = chain_of_values(write=write, read=reads.node).compile()

    async def call(state: Any) -> Any:
        await inner.ainvoke({"asked": 1})
        return {}

    return chain_of_values(call=call)


def to_a_graph_that_is_called(reads: Reads) -> Graph:
    inner = chain_of_values(read=reads.node).compile()

    async def call(state: Any) -> Any:
        await inner.ainvoke(made())
        return {}

    return chain_of_values(call=call)


def by_a_command_to_the_graph_above(reads: Reads) -> Graph:
    async def command(state: Any) -> Any:
        return Command(graph=Command.PARENT, update=made(), goto="read")

    graph: Graph = StateGraph(Values)
    graph.add_node("inner", chain_of_values(command=command).compile())
    graph.add_node("read", reads.node)
    graph.add_edge(START, "inner")
    return graph


def of_a_task(reads: Reads) -> Graph:
    @task
    async def look() -> Any:
        return made()

    async def ask(state: Any) -> Any:
        return await reads.node(await look())

    return chain_of_values(ask=ask)


def of_a_sync_task(reads: Reads) -> Graph:
    @task
    def look() -> Any:
        return made()

    def ask(state: Any) -> Any:
        found = look().result()
        reads.see(found)
        if len(reads.seen) == 1:
            raise RuntimeError("Once.")
        return {}

    return chain_of_values(ask=ask)


def beside_a_node_that_fails(reads: Reads) -> Graph:
    """Where the writes themselves are read from the store, and go through an edge and the channels."""
    failures = [RuntimeError("Once.")]
    written = asyncio.Event()

    def look(state: Any) -> str:
        reads.see(state)
        written.set()
        return "read"

    async def fail(state: Any) -> Any:
        await written.wait()
        if failures:
            raise failures.pop()
        return {}

    graph: Graph = StateGraph(Values)
    graph.add_node("write", write)
    graph.add_node("fail", fail)
    graph.add_node("read", reads.node)
    graph.add_edge(START, "write")
    graph.add_edge(START, "fail")
    graph.add_conditional_edges("write", look, ["read"])
    return graph


WAYS = [
    in_an_update,
    of_a_sync_node,
    in_a_command,
    in_the_send_of_a_command,
    in_the_send_of_an_edge,
    out_of_a_sub_graph,
    within_a_sub_graph,
    within_a_graph_that_is_called,
    to_a_graph_that_is_called,
    by_a_command_to_the_graph_above,
    of_a_task,
    of_a_sync_task,
    beside_a_node_that_fails,
]


@pytest.mark.parametrize("way", WAYS)
async def test_a_value_that_came_straight_on_is_the_one_that_comes_after_a_retry(
    database_url: str, way: Callable[[Reads], Graph]
) -> None:
    reads = Reads()
    async with serving(database_url, way(reads)) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.FAILED
        assert run.error is not None
        assert run.error.message.startswith("RuntimeError: Once.")
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
    assert len(reads.seen) == 2
    for seen in reads.seen:
        assert {name: each for name, each in seen.items() if each != AS_STORED[name]} == {}
        assert len(seen) == len(AS_STORED)


@pytest.mark.parametrize("way", [in_an_update, in_the_send_of_a_command, within_a_sub_graph])
async def test_a_value_that_came_straight_on_is_the_one_that_a_successor_sees(
    database_url: str, way: Callable[[Reads], Graph]
) -> None:
    class Stops(Reads):
        async def node(self, state: Any) -> dict[str, Any]:
            self.see(state)
            if len(self.seen) == 1:
                processing.cancel()
                await asyncio.sleep(60)
            return {}

    reads = Stops()
    async with serving(database_url, way(reads)) as engine:
        run_id = await engine.trigger()
        processing = asyncio.create_task(engine.process(await engine.claim()))
        with pytest.raises(asyncio.CancelledError):
            await processing
        run = await engine.process(await engine.take_over(run_id))
        assert run.status is RunStatus.COMPLETED
    assert reads.seen == [AS_STORED, AS_STORED]


@pytest.mark.parametrize("as_model", [False, True])
async def test_a_value_from_the_cache_is_the_one_that_was_put_there(
    database_url: str, as_model: bool
) -> None:
    seen: list[Any] = []

    class Sized(pydantic.BaseModel):
        size: int = 7
        given: Any = None

    class SizedState(TypedDict, total=False):
        size: int
        given: Any

    async def work(state: Any) -> Any:
        return Sized(given=(1, Point(1, 2))) if as_model else {"given": made()}

    async def read(state: Any) -> Any:
        seen.append(form(state))
        return {}

    graph: Graph = StateGraph(SizedState)
    graph.add_node("work", work, cache_policy=CachePolicy(key_func=lambda state: "one"))
    graph.add_node("read", read)
    graph.add_edge(START, "work")
    graph.add_edge("work", "read")
    async with serving(database_url, graph) as engine:
        for _ in range(2):
            run = await engine.execute()
            assert run.status is RunStatus.COMPLETED
    assert len(seen) == 2
    assert seen[0] == seen[1]


async def test_the_handler_of_an_error_sees_its_type_and_attributes_after_a_takeover_too(
    database_url: str,
) -> None:
    seen: list[Any] = []

    async def fail(state: State) -> Any:
        raise Broken(7, "It is broken")

    async def handle(state: State, error: NodeError) -> Any:
        raised = error.error
        seen.append((type(raised), str(raised), raised.args, getattr(raised, "code", None)))
        if len(seen) == 1:
            raise RuntimeError("Once.")
        return Command(update={"seen": ["handled"]})

    graph = alone("fail", fail, error_handler=handle)
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.FAILED
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
    assert seen == [(Broken, "It is broken (7)", ("It is broken (7)",), 7)] * 2


async def test_a_type_of_the_authors_own_is_warned_of_once(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    reads = Reads()
    async with serving(database_url, in_an_update(reads)) as engine:
        run = await engine.execute()
        await engine.execute_again(run.id)
        await engine.execute()
    warned = [record.getMessage() for record in caplog.records if "Slotted" in record.getMessage()]
    assert len(warned) <= 1


@pytest.mark.parametrize("value", [1, "a", "ü", None, True, 1.5, b"a", [{"a": [1, {}]}], {}])
def test_a_plain_value_stays_the_object_that_it_is(value: Any) -> None:
    assert is_plain(value)
    assert as_stored(value) is value
