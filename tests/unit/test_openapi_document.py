"""What the OpenAPI document says, and whether the protos say enough for it."""

import re
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import openapi_spec_validator
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor
from runengine.rules import rules_of
from runengine.v1 import (
    artifact_service_pb2,
    bulk_operation_service_pb2,
    campaign_pb2,
    campaign_service_pb2,
    error_reason_pb2,
    list_runs_pb2,
    run_pb2,
    run_service_pb2,
    schedule_service_pb2,
    webhook_service_pb2,
    workflow_service_pb2,
)
from runengine_gateway.app import create_gateway
from runengine_gateway.openapi import openapi_document
from runengine_gateway.rest_comments import proto_comments
from runengine_gateway.routes import bindings

FILES: list[FileDescriptor] = [
    each.DESCRIPTOR
    for each in (
        artifact_service_pb2,
        bulk_operation_service_pb2,
        campaign_pb2,
        campaign_service_pb2,
        error_reason_pb2,
        run_pb2,
        list_runs_pb2,
        run_service_pb2,
        schedule_service_pb2,
        webhook_service_pb2,
        workflow_service_pb2,
    )
]
HEALTH = {("get", "/healthz"), ("get", "/readyz")}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_document(bindings())


def methods() -> Iterator[MethodDescriptor]:
    for file in FILES:
        for service in file.services_by_name.values():
            yield from service.methods


def messages() -> Iterator[Descriptor]:
    def nested(message: Descriptor) -> Iterator[Descriptor]:
        if message.GetOptions().map_entry:
            return  # nobody has written it
        yield message
        for inner in message.nested_types:
            yield from nested(inner)

    for file in FILES:
        for message in file.message_types_by_name.values():
            yield from nested(message)


def is_optional(field: FieldDescriptor) -> bool:
    # The compiler puts each `optional` field into a oneof of its own.
    return field.containing_oneof is not None and field.containing_oneof.name == f"_{field.name}"


def types_of(schema: dict[str, Any]) -> dict[str, object]:
    """Property → its type; the schema's name for a reference, with `?` where null is allowed."""

    def type_of(each: dict[str, Any]) -> object:
        if "$ref" in each:
            return each["$ref"].rpartition("/")[2]
        if "anyOf" in each:
            assert each["anyOf"][1:] == [{"type": "null"}]
            return f"{type_of(each['anyOf'][0])}?"
        kind = each["type"]
        name, null = (kind[0], "?") if isinstance(kind, list) else (kind, "")
        assert not null or kind[1:] == ["null"]
        if name == "array":
            return [type_of(each["items"]), null]
        named = {"date-time": "time", "uuid": "uuid"}.get(each.get("format", ""), name)
        return f"{named}{null}"

    return {name: type_of(each) for name, each in schema["properties"].items()}


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(document)


def test_the_document_has_every_http_rule_and_nothing_else(document: dict[str, Any]) -> None:
    rules = set()
    for method in methods():
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        verb = rule.WhichOneof("pattern")
        assert verb is not None
        path = getattr(rule, verb)
        for field in method.input_type.fields:
            path = path.replace(f"{{{field.name}}}", f"{{{field.json_name}}}")
        rules.add((verb, path))
    told = {(verb, path) for path, item in document["paths"].items() for verb in item}
    assert told == rules | HEALTH


def test_a_token_is_needed_for_all_but_health(document: dict[str, Any]) -> None:
    assert document["security"] == [{"token": []}]
    open_to_all = {
        (verb, path)
        for path, item in document["paths"].items()
        for verb, operation in item.items()
        if operation.get("security") == []
    }
    assert open_to_all == HEALTH


def test_a_run_and_a_step_are_those_of_the_contract(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    run, step = types_of(schemas["Run"]), types_of(schemas["RunStep"])
    assert list(run) == [field.json_name for field in run_pb2.Run.DESCRIPTOR.fields]
    assert (
        run.items()
        >= {
            "id": "uuid",
            "workflowName": "string",
            "status": "RunStatus",
            "triggerPayload": "object?",
            "context": "object?",
            "error": "RunError?",
            "startedAt": "time?",
            "completedAt": "time?",
            "durationMs": "integer?",
            "createdAt": "time",
            "updatedAt": "time",
            "attempt": "integer",
            "priority": "integer",
            "waitingFor": ["WaitingFor", "?"],
        }.items()
    )
    assert set(schemas["WaitingFor"]["required"]) == {"id", "stepId", "value", "since", "note"}
    assert step == {
        "id": "uuid",
        "stepId": "string",
        "skillId": "string",
        "status": "StepStatus",
        "cacheHit": "boolean",
        "durationMs": "integer?",
        "attempt": "integer",
        "error": "StepError?",
        "outputArtifactIds": ["uuid", "?"],
        "createdAt": "time",
        "updatedAt": "time",
        "parentStepId": "uuid?",
    }
    assert set(schemas["Run"]["required"]) == set(run)
    assert set(schemas["RunStep"]["required"]) == set(step)
    assert schemas["RunStatus"]["enum"] == ["queued", "running", "completed", "failed", "cancelled"]
    assert schemas["StepStatus"]["enum"] == ["pending", "running", "completed", "failed", "skipped"]


def test_the_bounds_of_a_page(document: dict[str, Any]) -> None:
    listing = document["paths"]["/campaigns/{campaignId}/runs"]["get"]
    parameters = {each["name"]: each for each in listing["parameters"]}
    limit, offset = parameters["limit"]["schema"], parameters["offset"]["schema"]
    assert (limit["minimum"], limit["maximum"]) == (1, 100)
    assert (offset["minimum"], offset["maximum"]) == (0, 2**31 - 1)
    assert "absent means 20" in parameters["limit"]["description"]
    assert "absent means 0" in parameters["offset"]["description"]
    assert parameters["campaignId"]["schema"]["format"] == "uuid"
    assert parameters["status"]["schema"] == {
        "type": "array",
        "items": {"$ref": "#/components/schemas/RunStatus"},
        "maxItems": 100,
    }
    assert [each["name"] for each in listing["parameters"] if each["required"]] == ["campaignId"]


def test_an_operation_names_the_reasons_of_its_errors(document: dict[str, Any]) -> None:
    conflict = document["paths"]["/runs/{runId}/retry"]["post"]["responses"]["409"]
    response = document["components"]["responses"][conflict["$ref"].rpartition("/")[2]]
    assert set(response["x-reasons"]) >= {"RUN_ACTIVE", "RUN_NOT_RETRYABLE"}
    assert "RUN_TERMINAL" not in response["x-reasons"]


def test_every_error_is_a_problem_of_known_reasons(document: dict[str, Any]) -> None:
    known = document["components"]["schemas"]["ErrorReason"]
    assert list(known["x-enumDescriptions"]) == known["enum"]
    for response in document["components"]["responses"].values():
        problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
        assert response["content"] == {"application/problem+json": problem}
        assert set(response["x-reasons"]) <= set(known["enum"])


def test_an_optional_member_of_a_body_may_be_null_and_a_required_one_may_not(
    document: dict[str, Any],
) -> None:
    schemas = document["components"]["schemas"]
    assert (
        types_of(schemas["TriggerRunRequest"]).items()
        >= {
            "workflowName": "string",
            "triggerPayload": "object?",
            "context": "object?",
            "priority": "integer?",
        }.items()
    )
    assert schemas["TriggerRunRequest"]["required"] == ["workflowName"]
    assert types_of(schemas["CreateCampaignRequest"]) == {"id": "uuid?"}


def test_a_body_of_alternatives_has_one_of_them_and_none_is_null_unless_it_is_any_value(
    document: dict[str, Any],
) -> None:
    resume = document["components"]["schemas"]["ResumeRunRequest"]
    assert (resume["minProperties"], resume["maxProperties"]) == (1, 1)
    assert set(resume["properties"]) == {"value", "values"}
    assert resume["properties"]["value"].keys() == {"description", "examples"}
    values = resume["properties"]["values"]
    assert (values["type"], values["minProperties"], values["additionalProperties"]) == ("object", 1, True)


def test_a_body_is_required_where_one_of_its_members_is(document: dict[str, Any]) -> None:
    paths = document["paths"]
    assert paths["/runs/{runId}/resume"]["post"]["requestBody"]["required"] is True
    assert paths["/runs"]["post"]["requestBody"]["required"] is True
    assert paths["/campaigns"]["post"]["requestBody"]["required"] is False


def parts(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the document, with its path."""
    if isinstance(value, dict):
        yield path, value
        for key, each in value.items():
            yield from parts(each, f"{path}/{key}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from parts(each, f"{path}/{number}")


def test_no_schema_has_a_default_and_none_holds_itself(document: dict[str, Any]) -> None:
    assert [path for path, part in parts(document) if "default" in part] == []
    for name, schema in document["components"]["schemas"].items():
        within, found = {name}, [schema]
        while found:
            inner = {part["$ref"].rpartition("/")[2] for _, part in parts(found.pop()) if "$ref" in part}
            assert name not in inner
            found += [document["components"]["schemas"][each] for each in inner - within]
            within |= inner


def test_every_schema_says_its_type(document: dict[str, Any]) -> None:
    """Generators guess the type of one that does not: a string by its pattern, else an empty object. Those
    that do not are of any JSON value.
    """
    schemas = [
        (f"{path}/{name}", each)
        for path, part in parts(document)
        for name, each in [
            *part.get("properties", {}).items(),
            *((key, part[key]) for key in ("schema", "items") if isinstance(part.get(key), dict)),
        ]
        if path.rpartition("/")[2] != "examples"
    ]
    assert schemas
    untyped = [path for path, each in schemas if not {"type", "$ref", "anyOf"} & set(each)]
    assert sorted(path.rpartition("/schemas/")[2] for path in untyped) == [
        "GetRunOutputResponse/output",
        "GetRunStepDataResponse/input",
        "GetRunStepDataResponse/update",
        "ProgressEvent/data",
        "ResumeRunRequest/value",
        "WaitingFor/value",
        "Workflow/inputSchema",
        "Workflow/outputSchema",
    ]


def test_prose_holds_nothing_that_a_comment_in_code_cannot(document: dict[str, Any]) -> None:
    prose = [
        text
        for path, part in parts(document)
        for key, text in part.items()
        if isinstance(text, str)
        and (key in ("title", "summary", "description") or path.endswith("/x-enumDescriptions"))
    ]
    assert len(prose) > 100
    unfit = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\\]|\*/|"""')
    assert [text for text in prose if unfit.search(text)] == []


def test_every_declaration_in_the_protos_has_a_comment() -> None:
    comments = proto_comments()
    names = [file.name for file in FILES]
    names += [method.full_name for method in methods()]
    names += [field.full_name for message in messages() for field in message.fields]
    for file in FILES:
        for enum in file.enum_types_by_name.values():
            names.append(enum.full_name)
            names += [f"{enum.full_name}.{value.name}" for value in enum.values]
    assert [name for name in names if not comments.get(name)] == []


def test_a_field_whose_comment_begins_with_uuid_has_the_rule() -> None:
    comments = proto_comments()
    for field in (field for message in messages() for field in message.fields):
        has_rule = not {"string.uuid", "repeated.items.string.uuid"}.isdisjoint(rules_of(field))
        assert comments[field.full_name].startswith("UUID") == has_rule, field.full_name


def test_every_field_that_a_reply_may_leave_out_says_when() -> None:
    comments, requests = proto_comments(), {method.input_type for method in methods()}
    silent = [
        field.full_name
        for message in messages()
        if message not in requests
        for field in message.fields
        if is_optional(field)
        if "absent" not in comments[field.full_name].lower()
    ]
    assert silent == []


async def test_the_document_is_served_to_everyone_and_not_cached(document: dict[str, Any]) -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        transport = httpx.ASGITransport(create_gateway(channel))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as caller:
            answer = await caller.get("/openapi.json")
            head = await caller.head("/openapi.json")
    assert answer.status_code == head.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == document
    assert head.content == b""


def test_the_calls_that_take_an_idempotency_key_are_those_of_the_proto(document: dict[str, Any]) -> None:
    sentences = proto_comments()["runengine.v1.RunService"].split(". ")
    (told,) = (sentence for sentence in sentences if "`idempotency-key`" in sentence)
    for method in methods():
        name = method.name[0].lower() + method.name[1:]
        operations = (each for item in document["paths"].values() for each in item.values())
        operation = next(each for each in operations if each["operationId"] == name)
        keys = [each for each in operation.get("parameters", []) if each["name"] == "Idempotency-Key"]
        assert bool(keys) == (method.name in told)
        assert [each["schema"]["maxLength"] for each in keys] == [255] * len(keys)
    assert " 1 to 255 " in told
