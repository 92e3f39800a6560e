"""What runs tell of their progress reaches those who watch them, through a real worker and real gRPC."""

from __future__ import annotations

import json
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine.v1.run_pb2 import PROGRESS_KIND_DROPPED, RUN_STATUS_COMPLETED
from runengine.v1.run_service_pb2 import WatchRunResponse

from tests.support.agents import ScriptedModel
from tests.support.own_worker import Graph, State, chain, serving
from tests.support.stack import Stack
from tests.support.watching import Telling, Watched, watching

WORDS = ["hello", " ", "big", " ", "world"]


def model() -> GenericFakeChatModel:
    """Streams its one reply word by word."""
    return GenericFakeChatModel(messages=iter([AIMessage("".join(WORDS))]))


async def seen(stack: Stack, database_url: str, graph: Graph, first: Telling) -> Watched[WatchRunResponse]:
    """All that is told of a run of the graph, from its node `first` on."""
    async with (
        serving(database_url, graph) as engine,
        engine.working(),
        watching(stack, engine.tenant_id, await engine.trigger()) as watched,
    ):
        await watched.until("progress")
        first.go.set()
        await watched.to_the_end()
    assert watched.responses[-1].transition.to_status == RUN_STATUS_COMPLETED
    return watched


def contents(watched: Watched[WatchRunResponse], step: str) -> list[Any]:
    return [data["content"] for step_id, data in watched.told("message") if step_id == step]


async def test_a_stream_writer_is_told_with_its_step(stack: Stack, database_url: str) -> None:
    first = Telling()

    async def one(state: State, runtime: Runtime[RunContext]) -> State:
        runtime.stream_writer({"part": 1})
        get_stream_writer()("half")
        return {"seen": ["one"]}

    def two(state: State) -> State:
        get_stream_writer()(["in a thread"])
        return {}

    watched = await seen(stack, database_url, chain(first=first.node, one=one, two=two), first)
    assert watched.told("custom") == [("one", {"part": 1}), ("one", "half"), ("two", ["in a thread"])]
    steps = {each.step_id: each.run_step_id for each in watched.progress("custom")}
    assert len(set(steps.values())) == 3
    assert all(each.namespace == f"{each.step_id}:{steps[each.step_id]}" for each in watched.progress())


async def test_the_tokens_of_a_chat_model_are_told_however_it_is_called(
    stack: Stack, database_url: str
) -> None:
    first = Telling()

    async def awaited(state: State) -> State:
        await model().ainvoke("hi")
        return {}

    def in_a_thread(state: State) -> State:
        model().invoke("hi")
        return {}

    def streamed(state: State) -> State:
        for _ in model().stream("hi"):
            pass
        return {}

    nodes = {"awaited": awaited, "in_a_thread": in_a_thread, "streamed": streamed}
    watched = await seen(stack, database_url, chain(first=first.node, **nodes), first)
    for step in nodes:
        assert contents(watched, step) == WORDS
        ids = {each.message_id for each in watched.progress("message") if each.step_id == step}
        assert len(ids) == 1
        assert "" not in ids


async def test_a_model_that_does_not_stream_is_told_by_its_whole_message(
    stack: Stack, database_url: str
) -> None:
    first = Telling()

    def talk(state: State) -> State:
        ScriptedModel().invoke("hi")
        return {}

    watched = await seen(stack, database_url, chain(first=first.node, talk=talk), first)
    assert contents(watched, "talk") == ["hi!"]


async def test_a_call_that_is_tagged_so_is_not_told(stack: Stack, database_url: str) -> None:
    first = Telling()

    def talk(state: State) -> State:
        model().invoke("hi", {"tags": ["nostream"]})
        return {}

    watched = await seen(stack, database_url, chain(first=first.node, talk=talk), first)
    assert watched.told("message") == []


async def test_an_agent_within_a_tool_of_an_agent_is_told(stack: Stack, database_url: str) -> None:
    first = Telling()
    expert = create_agent(model(), tools=[], name="expert")

    @tool
    def ask_expert(question: str) -> str:
        """Asks another agent."""
        get_stream_writer()(question)
        return str(expert.invoke({"messages": [HumanMessage(question)]})["messages"][-1].content)

    chief: BaseChatModel = ScriptedModel(calls=(("ask_expert", {"question": "Now"}),))
    agent = create_agent(chief, tools=[ask_expert], name="chief")

    class Talk(State, total=False):
        messages: list[Any]

    async def ask(state: Talk) -> Talk:
        await agent.ainvoke({"messages": [HumanMessage("hi")]})
        return {}

    graph: Graph = StateGraph(Talk)
    graph.add_node("first", first.node)
    graph.add_node("ask", ask)
    graph.add_edge(START, "first")
    graph.add_edge("first", "ask")
    watched = await seen(stack, database_url, graph, first)
    assert watched.told("custom") == [("ask:tools", "Now")]
    assert contents(watched, "ask:tools:model") == WORDS
    assert contents(watched, "ask:model") == ["hi!", "hello big world"]
    assert {
        each.run_step_id for each in watched.progress("message", "custom") if each.step_id != "first"
    } == {each.run_step_id for each in watched.progress("step") if each.step_id == "ask"}


async def test_the_steps_of_a_graph_within_a_graph_are_told(stack: Stack, database_url: str) -> None:
    first = Telling()

    def good(state: State) -> State:
        get_stream_writer()("good")
        return {}

    async def bad(state: State) -> State:
        raise ValueError

    inner = chain(good=good, bad=bad).compile()

    async def outer(state: State) -> State:
        try:
            await inner.ainvoke({})
        except ValueError:
            return {}
        raise AssertionError

    watched = await seen(stack, database_url, chain(first=first.node, outer=outer), first)
    assert [each for each in watched.told() if each[0] != "first"] == [
        ("outer", {"status": "running"}),
        ("outer:good", {"status": "running"}),
        ("outer:good", "good"),
        ("outer:good", {"status": "completed"}),
        ("outer:bad", {"status": "running"}),
        ("outer:bad", {"status": "failed"}),
        ("outer", {"status": "completed"}),
    ]


async def test_a_node_that_floods_loses_events_and_nothing_else(stack: Stack, database_url: str) -> None:
    first = Telling()
    many = 100_000

    def flood(state: State) -> State:
        write = get_stream_writer()
        for number in range(many):
            write(number)
        return {"seen": ["flood"]}

    watched = await seen(stack, database_url, chain(first=first.node, flood=flood), first)
    told = [data for step_id, data in watched.told("custom") if step_id == "flood"]
    assert told == sorted(told)
    assert told[:10] == list(range(10))
    assert len(told) < many / 2
    events = watched.progress()
    counted = sum(each.dropped + (each.kind != PROGRESS_KIND_DROPPED) for each in events)
    assert counted == events[-1].number - events[0].number + 1 > many


async def test_a_value_that_cannot_be_told_is_dropped(stack: Stack, database_url: str) -> None:
    first = Telling()

    class Unshowable:
        pass

    def write(state: State) -> State:
        for value in (Unshowable(), "x" * 5000, "\ud800", float("nan"), "last"):
            get_stream_writer()(value)
        return {}

    watched = await seen(stack, database_url, chain(first=first.node, write=write), first)
    assert watched.told("custom") == [("write", None), ("write", "last")]
    assert [each.dropped for each in watched.progress("custom") if json.loads(each.data) is None] == [3]
