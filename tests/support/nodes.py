"""Nodes of graphs under test, and values for them."""

from __future__ import annotations

from langgraph.runtime import Runtime
from runengine.context import RunContext

from tests.support.own_worker import State


async def save_bundle(state: State, runtime: Runtime[RunContext]) -> State:
    return {"bundle_artifact_id": await runtime.context.save_artifact("bundle", b"bundle", "text/plain")}


class Opaque:
    """Nothing that could be stored."""

    def __str__(self) -> str:
        return "opaque"
