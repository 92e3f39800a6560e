"""The sample workflow, run by LangGraph itself with a store of artifacts in memory."""

from __future__ import annotations

import io
import uuid
import zipfile
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser
from typing import Any, NamedTuple

import pytest
from langgraph.cache.base import BaseCache
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from runengine.context import RunContext
from runengine_samples.campaign_bundle import WORKFLOWS
from runengine_samples.campaign_bundle.brief import BriefError

BRIEF: dict[str, Any] = {
    "product": {"name": "Solar Kettle", "description": "Boils a litre of water with nothing but sunlight."},
    "audience": "campers and garden lovers",
    "channels": ["email", "instagram", "x"],
    "tone": "friendly",
    "offer": "20 % off until Sunday",
    "locale": "en",
    "landingUrl": "https://example.com/kettle?from=mail&to=page",
}
LONG_NAME = "Der außergewöhnlich leise Donaudampfschifffahrtsgesellschaftsstaubsauger Edition 2000"


class Artifact(NamedTuple):
    name: str
    data: bytes
    media_type: str


class Outcome(NamedTuple):
    state: dict[str, Any]
    artifacts: dict[str, Artifact]

    @property
    def names(self) -> list[str]:
        return sorted(artifact.name for artifact in self.artifacts.values())

    @property
    def bundle(self) -> bytes:
        return self.artifacts[self.state["bundle_artifact_id"]].data

    @property
    def files(self) -> dict[str, str]:
        with zipfile.ZipFile(io.BytesIO(self.bundle)) as archive:
            return {name: archive.read(name).decode() for name in archive.namelist()}


Save = Callable[[str, bytes, str], Awaitable[str]]


async def read(artifact_id: str) -> bytes:
    raise ValueError(artifact_id)


def a_context(save: Save) -> RunContext:
    return RunContext(uuid.uuid4(), "tenant", None, 1, lambda: None, lambda: "key", save, read)


async def run(
    brief: dict[str, Any], cache: BaseCache[Any] | None = None, fail: Callable[[str], None] | None = None
) -> Outcome:
    artifacts: dict[str, Artifact] = {}

    async def save(name: str, data: bytes, media_type: str) -> str:
        if fail:
            fail(name)
        artifact_id = str(uuid.uuid4())
        artifacts[artifact_id] = Artifact(name, data, media_type)
        return artifact_id

    graph = WORKFLOWS["campaign-bundle"].compile(
        checkpointer=InMemorySaver(), cache=cache if cache is not None else InMemoryCache()
    )
    state = await graph.ainvoke(brief, {"configurable": {"thread_id": "1"}}, context=a_context(save))
    return Outcome(state, artifacts)


async def failing_step(brief: dict[str, Any]) -> tuple[str, str]:
    """Answers the step that the brief fails, and what the step says."""

    async def save(name: str, data: bytes, media_type: str) -> str:
        return str(uuid.uuid4())

    graph = WORKFLOWS["campaign-bundle"].compile(checkpointer=InMemorySaver(), cache=InMemoryCache())
    config: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(BriefError) as raised:
        await graph.ainvoke(brief, config, context=a_context(save))
    snapshot = await graph.aget_state(config)
    # A step beside the one that fails may be cancelled; that is an error too, but not of the brief.
    failed = [task.name for task in snapshot.tasks if "BriefError" in repr(task.error)]
    assert len(failed) == 1
    return failed[0], str(raised.value)


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data
