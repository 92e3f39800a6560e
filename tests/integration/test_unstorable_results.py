"""A result that cannot be stored fails its step, and nothing follows it."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from runengine_server.domain.run import RunStatus

from tests.support.nodes import Opaque
from tests.support.own_worker import Ran, code_and_step, serving


def as_text(before: list[str] | None, more: Any) -> list[str]:
    return [*(before or []), str(more)]


class Texts(TypedDict, total=False):
    log: Annotated[list[str], as_text]


async def test_a_result_that_cannot_be_stored_fails_its_step_and_nothing_follows(database_url: str) -> None:
    ran = Ran()

    async def opaque(state: Texts) -> dict[str, Any]:
        ran.names.append("opaque")
        return {"log": Opaque()}

    graph = StateGraph(Texts)
    graph.add_node("opaque", opaque)
    graph.add_node("last", ran.node("last"))
    graph.add_edge(START, "opaque")
    graph.add_edge("opaque", "last")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert ran.names == ["opaque"]
        assert code_and_step(run.error) == ("VALUE_NOT_STORABLE", "opaque")
        assert await engine.executions(run.id) == ["opaque 1 failed VALUE_NOT_STORABLE"]
        assert run.error is not None
        assert "Opaque" in run.error.message
        assert not any(word in run.error.message for word in ("Task", "0x", "runengine_server", "/"))


async def test_a_result_that_cannot_be_stored_within_a_sub_graph_fails_its_step(
    database_url: str,
) -> None:
    ran = Ran()
    results: list[Any] = [Opaque()]

    async def opaque(state: Texts) -> dict[str, Any]:
        return {"log": results.pop() if results else "text"}

    inner = StateGraph(Texts)
    inner.add_node("opaque", opaque)
    inner.add_node("end", lambda state: {})
    inner.add_edge(START, "opaque")
    inner.add_edge("opaque", "end")
    graph = StateGraph(Texts)
    graph.add_node("inner", inner.compile())
    graph.add_node("last", ran.node("last"))
    graph.add_edge(START, "inner")
    graph.add_edge("inner", "last")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("VALUE_NOT_STORABLE", "inner:opaque")
        assert await engine.executions(run.id) == [
            "inner 1 failed STEP_FAILED", "inner:opaque 1 failed VALUE_NOT_STORABLE",
        ]  # fmt: skip
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["last"]
