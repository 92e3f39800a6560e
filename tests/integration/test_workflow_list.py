"""The workflows that workers have registered, and what they look like."""

from __future__ import annotations

import json
import operator
import typing
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from runengine.v1.workflow_service_pb2 import Workflow
from runengine_client import InvalidArgument, RunEngineClient
from runengine_server.repositories.workflow_repository import WorkflowRepository
from runengine_server.worker.graph import description
from runengine_server.worker.graph.load import compile_workflow
from typing_extensions import TypedDict

from tests.support.own_worker import Engine, Ran, alone, chain, serving


class Order(TypedDict, total=False):
    lines: Annotated[list[str], operator.add]
    total: int


class Receipt(TypedDict):
    total: int


class Opaque:
    """Has no JSON Schema."""


class Odd(TypedDict):
    opaque: Opaque


def shop() -> Any:
    inner = alone("weigh", lambda state: {}).compile()
    graph: Any = StateGraph(Order, output_schema=Receipt)
    graph.add_node("pick", lambda state: {}, metadata={"skill_id": "warehouse"})
    graph.add_node("pack", inner)
    graph.add_edge(START, "pick")
    graph.add_conditional_edges("pick", lambda state: END, ["pack", END])
    graph.add_edge("pack", END)
    return graph


def described(graph: Any) -> Workflow:
    return Workflow.FromString(compile_workflow("name", graph).description)


def test_a_graph_is_described_with_its_skills_the_graphs_within_it_and_its_edges() -> None:
    found = described(shop())
    assert {node.id: node.skill_id for node in found.nodes} == {
        "__start__": "__start__",
        "pick": "warehouse",
        "pack:weigh": "weigh",
        "__end__": "__end__",
    }
    edges = {(edge.source, edge.target): edge.conditional for edge in found.edges}
    assert edges["__start__", "pick"] is False
    assert edges["pick", "__end__"] is True
    assert edges["pick", "pack:weigh"] is True
    assert edges["pack:weigh", "__end__"] is False
    assert not found.HasField("note")


def test_a_graph_is_described_with_what_it_takes_and_returns() -> None:
    found = described(shop())
    takes, returns = json.loads(found.input_schema), json.loads(found.output_schema)
    assert takes["properties"]["lines"]["type"] == "array"
    assert list(returns["properties"]) == ["total"]


class Line(typing.TypedDict):
    name: str


class Basket(typing.TypedDict, total=False):
    first: Line
    total: typing.NotRequired[int]
    lines: Annotated[list[Line], operator.add]
    named: dict[str, Line | None]


def test_a_state_of_the_standard_library_is_described_too() -> None:
    graph: Any = StateGraph(Basket)
    graph.add_node("one", lambda state: {})
    graph.add_edge(START, "one")
    takes = json.loads(described(graph).input_schema)
    assert takes["properties"]["first"]["$ref"] == "#/$defs/Line"
    assert takes["properties"]["total"]["type"] == "integer"
    assert takes["properties"]["lines"]["items"]["$ref"] == "#/$defs/Line"
    assert {"$ref": "#/$defs/Line"} in takes["properties"]["named"]["additionalProperties"]["anyOf"]


def test_an_entrypoint_is_one_node() -> None:
    @entrypoint()
    async def greet(name: str) -> str:
        return name

    found = described(greet)
    assert "greet" in [node.id for node in found.nodes]
    assert json.loads(found.input_schema)["type"] == "string"


def test_a_schema_that_cannot_be_told_is_left_out_with_a_word() -> None:
    graph: Any = StateGraph(Odd)
    graph.add_node("one", lambda state: {})
    graph.add_edge(START, "one")
    found = described(graph)
    assert not found.HasField("input_schema")
    assert "one" in [node.id for node in found.nodes]
    assert found.note.startswith("Left out: the input schema, because of PydanticSchemaGenerationError: ")


def test_a_graph_that_is_too_large_to_be_told_is_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(description, "MAX_BYTES", 100)
    found = described(shop())
    assert not found.nodes
    assert not found.input_schema
    assert "the graph, more than" in found.note


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    async with serving(database_url, chain(one=Ran().node("one"), two=Ran().node("two"))) as engine:
        yield engine


async def test_a_worker_that_is_started_describes_its_workflows_anew(engine: Engine) -> None:
    workflows = WorkflowRepository(engine.database)
    await workflows.describe({engine.workflow: b"", "never registered": b""})
    (found,) = [each for each in await workflows.described("", 1000) if each.name == engine.workflow]
    assert found.description == b""
    again = Workflow(note="again").SerializeToString()
    await workflows.describe({engine.workflow: again})
    (after,) = [each for each in await workflows.described("", 1000) if each.name == engine.workflow]
    assert after.description == again
    assert after.registered_at >= found.registered_at


async def test_workflows_are_listed_by_name_in_pages_that_make_up_the_whole(client: RunEngineClient) -> None:
    whole = [each async for each in client.iterate_workflows()]
    assert [each.name for each in whole] == sorted(each.name for each in whole)
    assert [each.name async for each in client.iterate_workflows(page_size=3)] == [
        each.name for each in whole
    ]
    by_name = {each.name: each for each in whole}
    assert by_name["flaky"].workers == 1
    assert by_name["flaky"].nodes
    assert by_name["unserved"].workers == 0
    assert by_name["unserved"].note == "The worker that registered it does not describe it."
    with pytest.raises(InvalidArgument, match="page_token"):
        await client.list_workflows(page_token="nonsense")


async def test_rest_shows_schemas_as_values(rest: httpx.AsyncClient) -> None:
    page = (await rest.get("/workflows", params={"limit": 50})).json()
    (flaky,) = [each for each in page["workflows"] if each["name"] == "flaky"]
    assert flaky["inputSchema"]["type"] == "object"
    assert {"source", "target", "conditional"} == flaky["edges"][0].keys()
    assert (await rest.get("/workflows", params={"limit": 51})).status_code == 400
