"""The tables of docs/reference say what the product says of itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from inspect import signature
from typing import Any

import httpx
import pytest
import typer.main
from google.api import annotations_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from runengine.v1 import (
    artifact_service_pb2,
    bulk_operation_service_pb2,
    campaign_service_pb2,
    run_service_pb2,
    schedule_service_pb2,
    webhook_service_pb2,
    workflow_service_pb2,
)
from runengine.v1.error_reason_pb2 import ErrorReason
from runengine_client.__main__ import app
from runengine_server.__main__ import cli
from runengine_server.settings import Settings

from tests.docs.pages import code, rows
from tests.support.stack import ROOT

REFERENCE = ROOT / "docs/reference"
REST, GRPC = REFERENCE / "rest.md", REFERENCE / "grpc.md"
PROTOS = (
    run_service_pb2,
    campaign_service_pb2,
    artifact_service_pb2,
    workflow_service_pb2,
    bulk_operation_service_pb2,
    webhook_service_pb2,
    schedule_service_pb2,
)

Json = dict[str, Any]


@pytest.fixture
async def document(rest: httpx.AsyncClient) -> Json:
    return dict((await rest.get("/openapi.json")).json())


def _written(default: object) -> str:
    """A setting's default as one would write it into the environment."""
    if default is None or default == {}:
        return ""
    return ",".join(default) if isinstance(default, tuple) else str(default)


def test_each_setting_has_its_row_with_its_default() -> None:
    told: dict[str, str] = {}
    for names, default, _, meaning in rows(REFERENCE / "settings.md", "# Settings"):
        assert meaning
        (setting,) = code(names)
        told[setting] = "".join(code(default))
    assert told == {
        name.upper(): _written(field.get_default(call_default_factory=True))
        for name, field in Settings.model_fields.items()
    }


def _limit(source: str) -> object:
    """What the setting or the module's constant is that the last column of a limit names."""
    first, *names = code(source)
    if first.startswith("RUNENGINE_"):
        return Settings.model_fields[first.removeprefix("RUNENGINE_").lower()].default
    value: object = getattr(import_module(f"runengine_server.{first}"), names[0])
    if isinstance(value, type):
        return signature(value).parameters["max_calls"].default
    return getattr(value, "in_all", value)


def test_each_limit_is_what_the_server_has() -> None:
    units = {"": 1, "s": 1, "KiB": 1024, "MiB": 1024 * 1024}
    told: dict[str, object] = {}
    had: dict[str, object] = {}
    for most, of, _, source in rows(ROOT / "docs/operations.md", "## Sizes and limits"):
        number, _, unit = most.replace(",", "").partition(" ")
        told[of], had[of] = int(number) * units[unit], _limit(source)
    assert told == had


async def test_each_path_has_its_row_with_its_status(document: Json) -> None:
    told = {"".join(code(path)): success[:3] for path, success, _ in rows(REST, "## Paths")}
    assert told == {
        f"{method.upper()} {path}": next(iter(operation["responses"]))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


async def test_each_object_has_its_fields(document: Json) -> None:
    schemas = {
        "run": "Run", "step": "RunStep", "event": "RunEvent", "campaign": "Campaign",
        "page": "ListCampaignRunsResponse", "error": "RunError", "waiting": "WaitingFor",
        "artifact": "Artifact", "progress": "ProgressEvent", "workflow": "Workflow",
        "operation": "BulkOperation", "item": "BulkOperationItem",
        "endpoint": "WebhookEndpoint", "delivery": "WebhookDelivery", "schedule": "Schedule",
    }  # fmt: skip
    told = {name: "".join(code(fields)).split(", ") for name, fields in rows(REST, "## Objects")}
    properties = {key: document["components"]["schemas"][schema] for key, schema in schemas.items()}
    assert told == {key: list(schema["properties"]) for key, schema in properties.items()}


async def test_each_status_is_named(document: Json) -> None:
    schemas = {
        "run": "RunStatus", "step": "StepStatus", "campaign": "CampaignStatus",
        "bulk operation": "BulkOperationStatus", "run of one": "BulkOutcome",
        "delivery": "WebhookDeliveryStatus",
    }  # fmt: skip
    for name, text in rows(REST, "## Statuses"):
        words = set(re.findall(r"[a-z_]+", " ".join(code(text))))
        assert words == set(document["components"]["schemas"][schemas[name]]["enum"])


async def test_each_reason_has_its_row_with_its_status(document: Json) -> None:
    told = {
        reason: status
        for status, _, text in rows(REST, "## Errors")
        for reason in code(text)
        if re.fullmatch("[A-Z_]+", reason) and not reason.startswith("RUNENGINE_")
    }
    assert set(told) == {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()[1:]}
    responses = document["components"]["responses"]
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if "$ref" in response:
                    reasons = responses[response["$ref"].rpartition("/")[2]]["x-reasons"]
                    assert {told[reason] for reason in reasons} == {status}


def _methods() -> list[MethodDescriptor]:
    return [
        method
        for proto in PROTOS
        for service in proto.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


def _rest(method: MethodDescriptor) -> str:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    return f"{verb.upper()} {getattr(rule, verb)}"


def _fields(fields: Sequence[FieldDescriptor]) -> list[str]:
    return [field.name for field in fields]


def test_each_method_has_its_row_with_its_fields_and_its_path() -> None:
    told = [
        ("".join(code(name)), ", ".join(code(request)), ", ".join(code(response)), "".join(code(path)))
        for name, request, response, path in rows(GRPC, "# gRPC")
    ]
    assert told == [
        (
            f"{method.containing_service.name}/{method.name}",
            ", ".join(_fields(method.input_type.fields)),
            ", ".join(_fields(method.output_type.fields)),
            _rest(method),
        )
        for method in _methods()
    ]


@pytest.mark.parametrize(
    ("program", "command"),
    [("runengine-server", typer.main.get_command(cli)), ("runengine", typer.main.get_command(app))],
)
def test_each_command_has_its_row_with_its_options(program: str, command: Any) -> None:
    shared = {option for parameter in command.params for option in parameter.opts}
    found: dict[str, set[str]] = {}
    for name, each in command.commands.items():
        for inner, leaf in getattr(each, "commands", {"": each}).items():
            options = {
                option
                for parameter in leaf.params
                for option in parameter.opts
                if option.startswith("--") and not getattr(parameter, "hidden", False)
            }
            found[f"{name} {inner}".strip()] = options - shared
    told = {}
    for text, meaning in rows(REFERENCE / "commands.md", f"## {program}"):
        assert meaning
        words = code(text)[0].split(" ")[1:]
        names = [word for word in words if re.fullmatch("[a-z]+(-[a-z]+)*", word)]
        told[" ".join(names)] = set(re.findall(r"--[a-z-]+", text))
    assert told == found


def test_the_glossary_is_short_and_in_order() -> None:
    words = [word for word, _ in rows(ROOT / "docs/glossary.md", "# Glossary")]
    assert words == sorted(words)
    assert len(words) <= 25
