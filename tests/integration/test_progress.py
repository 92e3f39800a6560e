"""What runs tell of their progress reaches those who watch them, through a real worker and real gRPC."""

from __future__ import annotations

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.runtime import Runtime
from runengine.context import RunContext

from tests.support.own_worker import State, chain, serving
from tests.support.stack import Stack
from tests.support.watching import Telling, watching


def model(words: str) -> GenericFakeChatModel:
    """Streams the words one by one, spaces too."""
    return GenericFakeChatModel(messages=iter([AIMessage(words)]))


async def test_a_writer_is_read_by_whoever_watches_the_run(stack: Stack, database_url: str) -> None:
    first = Telling()

    async def one(state: State, runtime: Runtime[RunContext]) -> State:
        runtime.stream_writer({"part": 1})
        get_stream_writer()("half")
        return {"seen": ["one"]}

    def two(state: State) -> State:
        get_stream_writer()(["in a thread"])
        return {}

    async with serving(database_url, chain(first=first.node, one=one, two=two)) as engine, engine.working():
        async with watching(stack, engine.tenant_id, await engine.trigger()) as watched:
            await watched.until("progress")
            first.go.set()
            await watched.to_the_end()
    assert watched.told("custom") == [("one", {"part": 1}), ("one", "half"), ("two", ["in a thread"])]
