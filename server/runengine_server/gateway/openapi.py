"""What can a caller ask of the gateway, and what comes back? Told as one OpenAPI 3.1 document.

It is made from the descriptors that the gateway routes on, and from the comments in the protos. Four things
are read out of the comments, which are written to that end: a request's field is `Required.` or `Optional.`;
a string that is a `UUID` says so; a message that a reply may leave out says when it is `absent`; and an RPC
names its `Errors:`, each of which has its HTTP status in ErrorReason.
"""

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from importlib.resources import files
from typing import Any, TypeAlias

import orjson
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1.error_reason_pb2 import ErrorReason
from starlette.requests import Request
from starlette.responses import Response

from runengine_server.gateway.json_mapping import MAX_INTEGER
from runengine_server.gateway.routes import Binding, Endpoint
from runengine_server.gateway.strict_json import MAX_KEYS

Json: TypeAlias = dict[str, Any]

_INTRODUCTION = (
    "Runs workflows for many tenants, and shows how they go. Every call needs a token, and sees what belongs "
    "to the token's active organisation alone: what is another's answers exactly like what does not exist. A "
    "field without a value is `null`, never missing. Times are UTC with milliseconds. `GET` paths answer "
    "`HEAD` too. No answer may be cached."
)

_ERRORS = ErrorReason.DESCRIPTOR
_ERROR_PREFIX = "ERROR_REASON_"

# What any call may meet. Those that ErrorReason does not know are left out.
_COMMON_REASONS = (
    "INVALID_ARGUMENT",
    "UNAUTHENTICATED",
    "NO_ORGANISATION",
    "QUOTA_EXCEEDED",
    "OVERLOADED",
    "INTERNAL",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_TIMEOUT",
    "HEADERS_TOO_LARGE",
)
_BODY_REASONS = ("PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")

_IDEMPOTENT_BY_KEY = {
    "runengine.v1.RunService.TriggerRun",
    "runengine.v1.RunService.RetryRun",
    "runengine.v1.RunService.CancelRun",
}
_IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Printable ASCII. Makes the call safe to repeat: the same key with the same request "
    "takes effect once, and is answered the same. Good for seven days.",
    # Spaces around a header's value are not part of it.
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}

# What the server requires of a request's fields beyond their type, wherever a field has this name.
_BOUNDS: Mapping[str, Json] = {
    "limit": {"minimum": 1, "maximum": 100, "default": 20},
    "offset": {"minimum": 0, "default": 0},
    "attempt": {"minimum": 1},
    "priority": {"minimum": -100, "maximum": 100, "default": 0},
}
_UUID: Json = {"type": "string", "format": "uuid"}
_STRUCT_MEMBERS: Mapping[str, Json] = {"context": {"campaignId": _UUID}}

# By the name of a field or an enum. They make the docs read like the real thing; what is not here still gets
# a sample of its type.
_EXAMPLES: Mapping[str, object] = {
    "RunStatus": "completed",
    "StepStatus": "completed",
    "CampaignStatus": "live",
    "workflow_name": "campaign-bundle",
    "trigger_payload": {
        "product": {"name": "Solar Kettle"},
        "audience": "campers",
        "channels": ["email", "instagram"],
        "tone": "friendly",
        "offer": "20 % off until Sunday",
        "locale": "en",
    },
    "context": {"campaignId": "0198d6a2-7c1e-7b53-9f4e-3d2c1b0a9f8e"},
    "step_id": "copywriting",
    "skill_id": "copywriting",
    "code": "STEP_FAILED",
    "message": "ValueError: the brief has no audience",
    "duration_ms": 2077,
    "to_status": "queued",
    "actor": "user_2b7Qk1",
    "reason": "TRIGGERED",
    "bundle_url": "https://runs.example.com/artifacts/0198d6a2-8f03-7d11-8a55-0c9e6b2f4d17",
    "queued": 0,
    "running": 0,
    "failed": 0,
    "cancelled": 0,
    "next_page_token": None,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "limit": 20,
    "offset": 0,
}

_INTEGERS = {FieldDescriptor.TYPE_INT32: 32, FieldDescriptor.TYPE_INT64: 64}

# A value inside a Struct, within the bounds of strict_json.
_JSON_VALUE: Json = {
    "description": "Any JSON value, at most 32 levels deep. A string has no `\\u0000` and no lone surrogate.",
    "type": ["object", "array", "string", "number", "boolean", "null"],
    "pattern": "^[^\\u0000]*$",
    "minimum": -MAX_INTEGER,
    "maximum": MAX_INTEGER,
    "maxProperties": MAX_KEYS,
    "propertyNames": {"pattern": "^[^\\u0000]*$"},
    "additionalProperties": {"$ref": "#/components/schemas/JsonValue"},
    "items": {"$ref": "#/components/schemas/JsonValue"},
}

_VIOLATION: Json = {
    "description": "One thing that is wrong with a request.",
    "type": "object",
    "properties": {
        "field": {
            "type": "string",
            "description": "A path such as `triggerPayload.items[3].price`, the name of a parameter or "
            "header, or `body`.",
            "examples": ["limit"],
        },
        "description": {
            "type": "string",
            "description": "Reads on from the field.",
            "examples": ["must be 1 to 100"],
        },
    },
    "required": ["field", "description"],
}

# As problems.Problem writes it.
_PROBLEM: Json = {
    "description": "An error, as RFC 9457 has it. `reason` is the word to branch on.",
    "type": "object",
    "properties": {
        "type": {"type": "string", "description": "`urn:runengine:error:` and the reason."},
        "title": {"type": "string", "description": "The reason, for people."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What is wrong, in a sentence."},
        "reason": {
            "type": "string",
            "description": "The same word that gRPC carries in google.rpc.ErrorInfo.",
        },
        "metadata": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "`status`, `attempt` and `allowed` where the run's state forbids the call; "
            "`id` on a 500, to find it in the log; else empty.",
        },
        "violations": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/Violation"},
            "description": "All that is wrong with the request. On a 400 alone.",
        },
    },
    "required": ["type", "title", "status", "detail", "reason", "metadata"],
}


def openapi_document(rules: Iterable[Binding]) -> Json:
    """The document for these bindings and for the health paths.

    Raises TypeError for a field that JSON has no mapping for (source: json_mapping).
    """
    return _Document(list(rules)).build()


def document_endpoint(document: Json) -> Endpoint:
    """Answers the document, which is the same for everyone; no token is asked for."""
    body = orjson.dumps(document)

    async def answer(request: Request) -> Response:
        return Response(body, media_type="application/json")

    return answer


def proto_comments() -> dict[str, str]:
    """Full name → the comment above it, as one line; a file's own comment is under the file's name.

    protoc drops comments from the code it generates, and keeps them in the descriptor set beside it.
    """
    packed = files("runengine.v1").joinpath("descriptors_pb2.binpb").read_bytes()
    comments: dict[str, str] = {}
    for file in FileDescriptorSet.FromString(packed).file:
        for location in file.source_code_info.location:
            name = _name_at(file, location.path) if location.leading_comments else None
            if name is not None:
                comments[name] = " ".join(location.leading_comments.split())
    return comments


_SYNTAX_LINE = [12]


def _name_at(file: Any, path: Iterable[int]) -> str | None:
    """What a path of SourceCodeInfo leads to: pairs of a field of the descriptor and an index in it."""
    steps = list(path)
    if steps == _SYNTAX_LINE:
        return str(file.name)
    names: list[str] = [file.package]
    at: Message = file
    for number, index in zip(steps[::2], steps[1::2], strict=False):
        field = at.DESCRIPTOR.fields_by_number.get(number)
        if field is None or field.message_type is None or not field.is_repeated:
            return None  # an option, or another part of a declaration
        at = getattr(at, field.name)[index]
        names.append(getattr(at, "name", ""))
    return ".".join(names)


class _Words:
    """The comments in the words of REST: JSON names, paths for RPCs, statuses in lower case."""

    def __init__(self, rules: list[Binding]) -> None:
        self._comments = proto_comments()
        self._words = {rule.rpc.name: f"`{rule.http_method} {_json_path(rule)}`" for rule in rules}
        messages: dict[str, Descriptor] = {}
        for rule in rules:
            _collect(rule.rpc.input_type, messages)
            _collect(rule.rpc.output_type, messages)
        for field in (field for message in messages.values() for field in message.fields):
            if "_" in field.name:
                self._words[field.name] = field.json_name

    def of(self, full_name: str) -> str:
        """The comment of this declaration; empty where it has none."""
        # What stands in double quotes is to be typed as it stands.
        text = re.sub(r'"[^"]*"|\w+', lambda word: self._words.get(word[0], word[0]), self.raw(full_name))
        return re.sub("(?<=tatus is )[A-Z]+", lambda word: f"`{word[0].lower()}`", text)

    def raw(self, full_name: str) -> str:
        """The comment as the proto has it."""
        return self._comments.get(full_name, "")


def _collect(message: Descriptor, found: dict[str, Descriptor]) -> None:
    if message.full_name not in found and message.file.package == _ERRORS.file.package:
        found[message.full_name] = message
        for field in message.fields:
            if field.message_type is not None:
                _collect(field.message_type, found)


class _Document:
    """Builds the document; each schema and each error response is written once, under components."""

    def __init__(self, rules: list[Binding]) -> None:
        self._rules = rules
        self._words = _Words(rules)
        self._reasons = self._read_reasons()
        self._schemas: dict[str, Json] = {}
        self._responses: dict[str, Json] = {}

    def build(self) -> Json:
        self._schemas |= {"JsonValue": _JSON_VALUE, "Problem": _PROBLEM, "Violation": _VIOLATION}
        paths: dict[str, Json] = {}
        for rule in self._rules:
            paths.setdefault(_json_path(rule), {})[rule.http_method.lower()] = self._operation(rule)
        paths["/healthz"] = {"get": self._health("alive", "Answers as soon as the gateway is alive.")}
        paths["/readyz"] = {
            "get": self._health("ready", "Answers whether the server can serve.", "UNAVAILABLE", "OVERLOADED")
        }
        files_of_tags = {_tag(rule): rule.rpc.containing_service.file.name for rule in self._rules}
        return {
            "openapi": "3.1.0",
            "info": {"title": "runengine", "version": version("runengine"), "description": _INTRODUCTION},
            "security": [{"token": []}],
            "tags": [
                *({"name": tag, "description": self._words.of(file)} for tag, file in files_of_tags.items()),
                {"name": "Health", "description": "For load balancers. No token is needed."},
            ],
            "paths": paths,
            "components": {
                "securitySchemes": {
                    "token": {
                        "type": "http",
                        "scheme": "bearer",
                        "bearerFormat": "JWT",
                        "description": "A session token of Clerk. Its active organisation is the tenant.",
                    }
                },
                "responses": dict(sorted(self._responses.items())),
                "schemas": dict(sorted(self._schemas.items())),
            },
        }

    def _operation(self, rule: Binding) -> Json:
        summary, description = self._told(rule)
        operation: Json = {
            "operationId": rule.rpc.name[0].lower() + rule.rpc.name[1:],
            "tags": [_tag(rule)],
            "summary": summary,
        }
        if description:
            operation["description"] = description
        if parameters := self._parameters(rule):
            operation["parameters"] = parameters
        if rule.takes_body:
            schema = self._body(rule.rpc.input_type)
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        operation["responses"] = {**self._success(rule), **self._errors(self._reasons_of(rule))}
        return operation

    def _told(self, rule: Binding) -> tuple[str, str]:
        """The first sentence of the RPC's comment, and the others; its errors are told elsewhere."""
        text = self._words.of(rule.rpc.full_name).partition("Errors:")[0].strip()
        # Where REST answers something else than gRPC, the comment says what.
        _, differs, instead = text.partition("REST answers ")
        if differs:
            text = "Answers " + instead
        summary, stop, description = text.partition(". ")
        return summary.removesuffix(".") + ".", description if stop else ""

    def _parameters(self, rule: Binding) -> list[Json]:
        request = rule.rpc.input_type
        found: list[Json] = []
        for field in request.fields:
            in_path = field.name in rule.path_fields
            if not in_path and rule.takes_body:
                continue
            description, required = self._request_words(field)
            found.append(
                {
                    "name": field.json_name,
                    "in": "path" if in_path else "query",
                    "required": in_path or required,
                    "description": description,
                    "schema": self._request_type(field),
                }
            )
        return [*found, _IDEMPOTENCY_KEY] if rule.rpc.full_name in _IDEMPOTENT_BY_KEY else found

    def _body(self, request: Descriptor) -> Json:
        properties: dict[str, Json] = {}
        needed: list[str] = []
        for field in request.fields:
            description, required = self._request_words(field)
            properties[field.json_name] = {**self._request_type(field), "description": description}
            if required:
                needed.append(field.json_name)
        self._schemas[request.name] = {
            "type": "object",
            "properties": properties,
            "required": needed,
            "additionalProperties": False,
        }
        return {"$ref": f"#/components/schemas/{request.name}"}

    def _request_words(self, field: FieldDescriptor) -> tuple[str, bool]:
        text = self._words.of(field.full_name).replace("REST: ", "")
        required = text.startswith("Required.")
        return text.removeprefix("Required.").removeprefix("Optional.").strip(), required

    def _request_type(self, field: FieldDescriptor) -> Json:
        schema = self._value_type(field) | _examples(field.name)
        if field.type in _INTEGERS:
            limit = 2 ** (_INTEGERS[field.type] - 1)
            schema |= {"minimum": -limit, "maximum": limit - 1}
        elif self._request_words(field)[1] and "format" not in schema:
            schema["minLength"] = 1
        schema |= _BOUNDS.get(field.name, {})
        if _is(field, Struct):
            schema = _nullable(schema)
        return {"type": "array", "items": schema} if field.is_repeated else schema

    def _success(self, rule: Binding) -> dict[str, Json]:
        if rule.rpc.server_streaming:
            content: Json = {"*/*": {}}
            return {
                "200": {"description": "The bytes, with their media type and length.", "content": content}
            }
        response = rule.rpc.output_type
        if rule.response_body:
            field = response.fields_by_name[rule.response_body]
            schema, description = self._value_type(field), self._words.of(field.full_name)
        else:
            schema, description = self._message(response), "Success."
        # What is posted to a collection becomes a part of it.
        creates = rule.http_method == "POST" and not rule.path_fields
        answer = {"description": description, "content": {"application/json": {"schema": schema}}}
        return {"201" if creates else "200": answer}

    def _message(self, message: Descriptor) -> Json:
        name = message.full_name.removeprefix(f"{message.file.package}.")
        if name not in self._schemas:
            self._schemas[name] = {}  # stops at a message that holds itself
            schema: Json = {
                "type": "object",
                "properties": {field.json_name: self._reply_type(field) for field in message.fields},
                "required": [field.json_name for field in message.fields],
            }
            if description := self._words.of(message.full_name):
                schema["description"] = description
            self._schemas[name] = schema
        return {"$ref": f"#/components/schemas/{name}"}

    def _reply_type(self, field: FieldDescriptor) -> Json:
        """As json_mapping.encoder_of writes the field."""
        schema = self._value_type(field)
        is_message = field.message_type is not None
        if _is_map(field):
            schema, nullable = {"type": "object", "additionalProperties": schema}, False
        elif field.is_repeated:
            schema, nullable = {"type": "array", "items": schema}, not is_message
        elif is_message:
            # Every message could be absent, and only the comment knows whether it ever is.
            nullable = "absent" in self._words.raw(field.full_name).lower()
        else:
            nullable = field.has_presence
        if nullable:
            schema = _nullable(schema)
        return {**schema, **_examples(field.name), "description": _nulls(self._words.of(field.full_name))}

    def _value_type(self, field: FieldDescriptor) -> Json:
        if field.message_type is not None and _is_map(field):
            return self._value_type(field.message_type.fields_by_name["value"])
        schema: Json
        if _is(field, Struct):
            schema = {
                "type": "object",
                "maxProperties": MAX_KEYS,
                "propertyNames": _JSON_VALUE["propertyNames"],
                "additionalProperties": {"$ref": "#/components/schemas/JsonValue"},
            }
            if field.name in _STRUCT_MEMBERS:
                schema["properties"] = _STRUCT_MEMBERS[field.name]
        elif _is(field, Timestamp):
            schema = {"type": "string", "format": "date-time"}
        elif field.message_type is not None:
            return self._message(field.message_type)
        elif field.enum_type is not None:
            return self._enum(field.enum_type)
        elif field.type in _INTEGERS:
            schema = {"type": "integer", "format": f"int{_INTEGERS[field.type]}"}
        elif field.type == FieldDescriptor.TYPE_BOOL:
            schema = {"type": "boolean"}
        elif field.type == FieldDescriptor.TYPE_STRING:
            is_uuid = "UUID" in self._words.raw(field.full_name)
            schema = dict(_UUID) if is_uuid else {"type": "string"}
        else:
            raise TypeError(f"the gateway has no JSON mapping for {field.full_name}")
        return schema

    def _enum(self, enum: EnumDescriptor) -> Json:
        words = _enum_words(enum)
        self._schemas[enum.name] = {
            "type": "string",
            "enum": list(words),
            "description": self._words.of(enum.full_name),
            "x-enumDescriptions": {
                word: self._words.of(f"{enum.full_name}.{name}") for word, name in words.items()
            },
            **_examples(enum.name),
        }
        return {"$ref": f"#/components/schemas/{enum.name}"}

    def _read_reasons(self) -> dict[str, tuple[int, str]]:
        """Reason → its HTTP status and its meaning, from a comment such as `No such run: NOT_FOUND, 404.`"""
        reasons: dict[str, tuple[int, str]] = {}
        for value in _ERRORS.values:
            comment = self._words.raw(f"{_ERRORS.full_name}.{value.name}").removeprefix("REST only: ")
            told = re.match(r"(.+?)(?:: [A-Z_]+)?[,:] ([45]\d\d)\b", comment)
            if told:
                meaning = (
                    told[1][0].upper() + told[1][1:].replace("google.rpc.BadRequest", "`violations`") + "."
                )
                reasons[value.name.removeprefix(_ERROR_PREFIX)] = int(told[2]), meaning
        return reasons

    def _reasons_of(self, rule: Binding) -> set[str]:
        named = re.findall("[A-Z_]+", self._words.raw(rule.rpc.full_name).partition("Errors:")[2])
        reasons = {*_COMMON_REASONS, *named}
        if rule.path_fields:
            reasons.add("NOT_FOUND")  # `.` for an id is no path
        if rule.takes_body:
            reasons.update(_BODY_REASONS)
        if rule.rpc.full_name in _IDEMPOTENT_BY_KEY:
            reasons.add("IDEMPOTENCY_KEY_REUSED")
        return reasons

    def _errors(self, reasons: set[str]) -> dict[str, Json]:
        by_status: dict[int, list[str]] = {}
        for reason, (status, _) in self._reasons.items():
            if reason in reasons:
                by_status.setdefault(status, []).append(reason)
        return {str(status): self._problem(status, by_status[status]) for status in sorted(by_status)}

    def _problem(self, status: int, reasons: list[str]) -> Json:
        meanings = {reason: self._reasons[reason][1] for reason in reasons}
        narrowed: Json = {
            "properties": {
                "status": {"const": status},
                "reason": {"enum": reasons, "x-enumDescriptions": meanings},
            }
        }
        if status == 400:
            narrowed["required"] = ["violations"]
        response: Json = {
            "description": " ".join(f"`{reason}`: {meaning}" for reason, meaning in meanings.items()),
            "content": {
                "application/problem+json": {
                    "schema": {"allOf": [{"$ref": "#/components/schemas/Problem"}, narrowed]}
                }
            },
        }
        if status == 401:
            response["headers"] = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
        if status == 429:
            waits = {"description": "Seconds to wait.", "schema": {"type": "string", "pattern": "^[0-9]+$"}}
            response["headers"] = {"Retry-After": waits}
        name = ".".join(reasons)
        self._responses[name] = response
        return {"$ref": f"#/components/responses/{name}"}

    def _health(self, operation_id: str, summary: str, *reasons: str) -> Json:
        good: Json = {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
        answer = {"description": "Success.", "content": {"application/json": {"schema": good}}}
        return {
            "operationId": operation_id,
            "tags": ["Health"],
            "summary": summary,
            "security": [],
            "responses": {"200": answer, **self._errors(set(reasons))},
        }


def _json_path(rule: Binding) -> str:
    """The path with the JSON names of its fields: `/runs/{runId}`."""
    fields = rule.rpc.input_type.fields_by_name
    return re.sub(r"\{(\w+)\}", lambda match: "{" + fields[match[1]].json_name + "}", rule.path)


def _tag(rule: Binding) -> str:
    return rule.rpc.containing_service.name.removesuffix("Service") + "s"


def _enum_words(enum: EnumDescriptor) -> dict[str, str]:
    """REST's word → the proto's name, without the zero value, which is never answered and never accepted."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.name for value in enum.values if value.number != 0}


def _examples(name: str) -> Json:
    return {"examples": [_EXAMPLES[name]]} if name in _EXAMPLES else {}


def _is(field: FieldDescriptor, kind: type[Message]) -> bool:
    return field.message_type is not None and field.message_type.full_name == kind.DESCRIPTOR.full_name


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _nullable(schema: Json) -> Json:
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _nulls(text: str) -> str:
    """Says null where gRPC leaves a field out."""
    text = re.sub(r"(?:Absent|Empty) \(REST: null\)|Absent\b", "Null", text)
    return re.sub(r"\babsent\b", "null", text)
