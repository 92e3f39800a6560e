"""What a workflow looks like, for those who want to see it or trigger it."""

from __future__ import annotations

from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import orjson
from langgraph.pregel import Pregel
from pydantic import PydanticUserError, TypeAdapter
from runengine.v1.workflow_service_pb2 import Workflow, WorkflowEdge, WorkflowNode
from typing_extensions import TypedDict, is_typeddict

from runengine_server.worker.graph.failures import describe as describe_error

# What a description takes at most, so that fifty of them fit into a message of 4 MiB, gRPC's own limit.
MAX_BYTES = 64 * 1024

_MAX_WORDS = 300


def describe(graph: Pregel[Any, Any, Any, Any]) -> bytes:
    """The fields of a Workflow that its graph tells. Never fails: what cannot be told is left out, and the
    note says so.
    """
    described = Workflow()
    left_out: list[str] = []
    tellers: dict[str, Callable[[], None]] = {
        "graph": lambda: _draw(graph, described),
        "input schema": lambda: _set_schema(described, "input_schema", graph, graph.get_input_jsonschema),
        "output schema": lambda: _set_schema(described, "output_schema", graph, graph.get_output_jsonschema),
    }
    for what, tell in tellers.items():
        try:
            tell()
        except Exception as error:
            left_out.append(f"the {what}, because of {describe_error(error)[:_MAX_WORDS]}")
    too_large = f"more than {MAX_BYTES // 1024} KiB"
    if described.ByteSize() > MAX_BYTES:
        left_out.append(f"the schemas, with the graph {too_large}")
        described.ClearField("input_schema")
        described.ClearField("output_schema")
    if described.ByteSize() > MAX_BYTES:
        left_out.append(f"the graph, {too_large}")
        del described.nodes[:], described.edges[:]
    if left_out:
        described.note = f"Left out: {'; '.join(left_out)}."
    return described.SerializeToString()


def _draw(graph: Pregel[Any, Any, Any, Any], into: Workflow) -> None:
    drawn = graph.get_graph(xray=True)
    for node in drawn.nodes.values():
        name = node.id.rpartition(":")[2]
        skill_id = str((node.metadata or {}).get("skill_id", name))
        into.nodes.append(WorkflowNode(id=node.id, skill_id=skill_id))
    for edge in drawn.edges:
        into.edges.append(WorkflowEdge(source=edge.source, target=edge.target, conditional=edge.conditional))


def _set_schema(
    into: Workflow, name: str, graph: Pregel[Any, Any, Any, Any], tell: Callable[[], dict[str, Any]]
) -> None:
    try:
        schema = tell()
    except PydanticUserError:
        # pydantic 2.13 knows typing.TypedDict from Python 3.12 on.
        builder = getattr(graph, "builder", None)
        schema = TypeAdapter(_known_to_pydantic(getattr(builder, name, None))).json_schema()
    setattr(into, name, orjson.dumps(schema).decode())


def _known_to_pydantic(kind: Any) -> Any:
    """The type, with each TypedDict that it is or holds as one of typing_extensions."""
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        keys = {name: _known_to_pydantic(each) for name, each in hints.items()}
        return TypedDict(kind.__name__, keys, total=kind.__total__)  # type: ignore[operator]
    origin, inner = get_origin(kind), tuple(map(_known_to_pydantic, get_args(kind)))
    if origin is None or inner == get_args(kind):
        return kind
    if origin is Annotated:
        return Annotated[inner]
    if origin is UnionType:
        return Union[inner]  # noqa: UP007 - made of a tuple
    return origin[inner[0] if len(inner) == 1 else inner]
