"""The OpenAPI 3.1 document of the gateway.

It is made from the descriptors that the gateway routes on: what a field needs and may hold is in its options,
what may be missing is `optional`, and the reason of an error says its HTTP status and who returns it. The
comments in the protos are the descriptions.
"""

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version

import orjson
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.rest_json import holds_json, is_empty_null, value_of_map, words_of
from runengine.rules import alternatives_of, is_required, rules_of
from starlette.requests import Request
from starlette.responses import Response

from runengine_gateway.openapi_errors import Errors, Json
from runengine_gateway.openapi_examples import examples_of
from runengine_gateway.openapi_headers import headers_of, takes_idempotency_key
from runengine_gateway.rest_comments import RestComments, json_path
from runengine_gateway.routes import Binding, Endpoint
from runengine_gateway.strict_json import MAX_BYTES, MAX_DEPTH, MAX_KEYS

_INTRODUCTION = (
    "Runs workflows for many tenants, and shows how they go. Every call needs a token, and sees what belongs "
    "to the token's active organisation alone: what is another's is not found, as what does not exist. A "
    "field without a value is `null`, never missing; in a body, `null` for an optional field counts as "
    "absent, except where any value may be given. Times are UTC with milliseconds. `GET` paths take `HEAD` "
    f"too. No response may be cached. A body is JSON of at most {MAX_BYTES // 1024} KiB, {MAX_DEPTH} levels "
    f"and {MAX_KEYS:,} keys an object; it holds no NUL, no lone surrogate, no key twice, and no integer "
    "beyond 2 to the power of 53."
)

_IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Printable ASCII. Makes the call safe to repeat: the same key with the same request "
    "takes effect once, and returns the same response. Good for seven days.",
    # Spaces around a header's value are not part of it.
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}

_EVENTS = (
    "Server-Sent Events. An event has the name of what it is, JSON as its data, and the resume token, where "
    "it has one, as its id, which may come back in `Last-Event-ID`. A stream that fails ends with an event "
    "`problem`."
)

_PACKAGE = "runengine.v1"

_UUID: Json = {"type": "string", "format": "uuid"}
_UUID_RULES = {"string.uuid", "repeated.items.string.uuid"}
# Rules that the type of the field expresses already: the words of an enum leave out the zero value.
_RULES_OF_TYPES = _UUID_RULES | {
    "enum.defined_only",
    "enum.not_in",
    "repeated.items.enum.defined_only",
    "repeated.items.enum.not_in",
}
_WORDS = "repeated.items.string.in"
# The rules of buf.validate that are bounds, in the words of JSON Schema.
_BOUNDS: Mapping[str, str] = {
    "string.min_len": "minLength",
    "string.max_len": "maxLength",
    "int32.gte": "minimum",
    "int32.lte": "maximum",
    "repeated.max_items": "maxItems",
}
_STRUCT_MEMBERS: Mapping[str, Json] = {"context": {"campaignId": _UUID}}

# Of an object with members of any JSON value, and not of a schema for it: one that refers to itself compiles
# nowhere, and one without a type is a string to some generators and an empty object to others.
_MEMBERS: Json = {
    "maxProperties": MAX_KEYS,
    "propertyNames": {"pattern": "^[^\\u0000]*$"},
    "additionalProperties": True,
}

_INTEGERS = {FieldDescriptor.TYPE_INT32: 32, FieldDescriptor.TYPE_INT64: 64}


def openapi_document(rules: Iterable[Binding]) -> Json:
    """The document for these bindings and for the health paths.

    Raises TypeError for a field that JSON has no mapping for (source: rest_json), or a rule that it does not
    know.
    """
    return _Document(list(rules)).build()


def document_endpoint(document: Json) -> Endpoint:
    """Returns the document, without a token."""
    body = orjson.dumps(document)

    async def endpoint(request: Request) -> Response:
        return Response(body, media_type="application/json")

    return endpoint


class _Document:
    """Builds the document; each schema and each error response is written once, under components."""

    def __init__(self, rules: list[Binding]) -> None:
        self._rules = rules
        self._comments = RestComments(rules)
        self._errors = Errors(self._comments)
        self._schemas: dict[str, Json] = dict(self._errors.schemas)

    def build(self) -> Json:
        paths: dict[str, Json] = {}
        for rule in self._rules:
            paths.setdefault(json_path(rule), {})[rule.http_method.lower()] = self._operation(rule)
        paths["/healthz"] = {"get": self._health("alive", "Returns as soon as the gateway is alive.")}
        paths["/readyz"] = {
            "get": self._health("ready", "Returns whether the server can serve.", "UNAVAILABLE", "OVERLOADED")
        }
        files_of_tags = {_tag(rule): rule.rpc.containing_service.file.name for rule in self._rules}
        return {
            "openapi": "3.1.0",
            # Generators name their package by the title; runengine_client is taken, by the gRPC client.
            "info": {
                "title": "runengine REST",
                "version": version("runengine"),
                "description": _INTRODUCTION,
            },
            "security": [{"token": []}],
            "tags": [
                *(
                    {"name": tag, "description": self._comments.of(file)}
                    for tag, file in files_of_tags.items()
                ),
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
                "responses": dict(sorted(self._errors.responses.items())),
                "schemas": dict(sorted(self._schemas.items())),
            },
        }

    def _operation(self, rule: Binding) -> Json:
        summary, description = self._described(rule)
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
            operation["requestBody"] = self._body(rule)
        operation["responses"] = {**self._success(rule), **self._errors.of_rule(rule)}
        return operation

    def _described(self, rule: Binding) -> tuple[str, str]:
        """The first sentence of the RPC's comment, and the others."""
        summary, stop, description = self._comments.of(rule.rpc.full_name).partition(". ")
        return summary.removesuffix(".") + ".", description if stop else ""

    def _parameters(self, rule: Binding) -> list[Json]:
        request = rule.rpc.input_type
        found: list[Json] = []
        for field in request.fields:
            in_path = field.name in rule.path_fields
            if not in_path and rule.takes_body:
                continue
            found.append(
                {
                    "name": field.json_name,
                    "in": "path" if in_path else "query",
                    "required": is_required(field),
                    "description": self._request_description(field),
                    "schema": self._request_type(field),
                }
            )
        return [*found, _IDEMPOTENCY_KEY] if takes_idempotency_key(rule) else found

    def _body(self, rule: Binding) -> Json:
        request = rule.rpc.input_type
        fields = [field for field in request.fields if field.name not in rule.path_fields]
        is_needed = bool(alternatives_of(request)) or any(is_required(field) for field in fields)
        schema = self._request_message(request.name, request, fields)
        return {"required": is_needed, "content": {"application/json": {"schema": schema}}}

    def _request_message(self, name: str, message: Descriptor, fields: Iterable[FieldDescriptor]) -> Json:
        alternatives = set(alternatives_of(message))
        # What generators make of `oneOf` differs; a number of members they leave alone. Where there are other
        # fields the descriptions say it.
        is_one_of = bool(alternatives) and {field.name for field in fields} == alternatives
        properties: dict[str, Json] = {}
        for field in fields:
            schema = self._request_type(field)
            properties[field.json_name] = {
                **(schema if is_one_of or is_required(field) else _nullable(schema)),
                "description": self._request_description(field),
            }
        needed = [field.json_name for field in fields if is_required(field)]
        self._schemas[name] = {
            "type": "object",
            "properties": properties,
            **({"required": needed} if needed else {}),
            **({"minProperties": 1, "maxProperties": 1} if is_one_of else {}),
            "additionalProperties": False,
        }
        return {"$ref": f"#/components/schemas/{name}"}

    def _request_description(self, field: FieldDescriptor) -> str:
        return self._comments.of(field.full_name).replace("REST: ", "")

    def _request_type(self, field: FieldDescriptor) -> Json:
        # Defaults are in the descriptions alone: generators make a field that has one required
        # (openapi-typescript 7.13), or send it (openapi-python-client 0.29), and an offset goes with no page
        # token.
        message = field.message_type
        if message is not None and message.file.package == _PACKAGE and value_of_map(field) is None:
            # A response that has the message has all of its fields: that is another schema.
            return self._request_message(f"{message.name}Request", message, message.fields)
        schema = self._value_type(field) | examples_of(field)
        if value_of_map(field) is not None:
            return {"type": "object", "minProperties": 1, **_MEMBERS, **schema}
        if field.type in _INTEGERS:
            limit = 2 ** (_INTEGERS[field.type] - 1)
            schema |= {"minimum": -limit, "maximum": limit - 1}
        rules = rules_of(field)
        if unknown := rules.keys() - _BOUNDS.keys() - _RULES_OF_TYPES - {_WORDS}:
            raise TypeError(f"the gateway has no JSON Schema for {', '.join(unknown)} of {field.full_name}")
        bounds = {_BOUNDS[rule]: value for rule, value in rules.items() if rule in _BOUNDS}
        if words := rules.get(_WORDS):
            schema = {**schema, "enum": list(words)}
        if field.is_repeated:
            return {"type": "array", "items": schema, **bounds}
        return schema | bounds

    def _success(self, rule: Binding) -> dict[str, Json]:
        if rule.streams_events:
            for field in rule.rpc.output_type.oneofs_by_name["event"].fields:
                self._value_type(field)
            content: Json = {"text/event-stream": {"schema": {"type": "string"}}}
            events: Json = {"description": _EVENTS, "content": content}
            return {"200": events, "204": {"description": "Nothing is left to come."}}
        if rule.rpc.server_streaming:
            # 3.1 needs no schema here, but OpenAPI Generator 7.26 then makes a function that returns nothing;
            # and openapi-python-client 0.29 knows no `*/*`.
            any_bytes = {"schema": {"type": "string", "format": "binary"}}
            described = "The bytes, with their media type and length."
            either = {"application/octet-stream": any_bytes, "*/*": any_bytes}
            return {"200": {"description": described, "content": either}}
        response = rule.rpc.output_type
        if rule.response_body:
            field = response.fields_by_name[rule.response_body]
            schema, description = self._value_type(field), self._comments.of(field.full_name)
        else:
            schema, description = self._message(response), "Success."
        response_object: Json = {
            "description": description,
            "content": {"application/json": {"schema": schema}},
        }
        if headers := headers_of(rule):
            response_object["headers"] = headers
        return {"201" if rule.creates else "200": response_object}

    def _message(self, message: Descriptor) -> Json:
        name = message.full_name.removeprefix(f"{message.file.package}.")
        if name not in self._schemas:
            self._schemas[name] = {}  # ends the recursion at a message that contains itself
            schema: Json = {
                "type": "object",
                "properties": {field.json_name: self._reply_type(field) for field in message.fields},
                "required": [field.json_name for field in message.fields],
            }
            if description := self._comments.of(message.full_name):
                schema["description"] = description
            self._schemas[name] = schema
        return {"$ref": f"#/components/schemas/{name}"}

    def _reply_type(self, field: FieldDescriptor) -> Json:
        """The schema of what rest_json.encoder_of writes for the field."""
        if holds_json(field):
            # Any JSON value, null among them: a schema with a type would leave some out.
            return {**examples_of(field), "description": _nulls(self._comments.of(field.full_name))}
        schema = self._value_type(field)
        if value_of_map(field) is not None:
            schema, nullable = {"type": "object", "additionalProperties": schema}, False
        elif field.is_repeated:
            schema, nullable = {"type": "array", "items": schema}, is_empty_null(field)
        else:
            # Nullable is what is `optional` in the proto. That is required of messages too, which could all
            # be absent.
            nullable = field.containing_oneof is not None
        if nullable:
            schema = _nullable(schema)
        return {**schema, **examples_of(field), "description": _nulls(self._comments.of(field.full_name))}

    def _value_type(self, field: FieldDescriptor) -> Json:
        if (of_map := value_of_map(field)) is not None:
            return self._value_type(of_map)
        schema: Json
        if _is(field, Value):
            schema = {}
        elif _is(field, Struct):
            schema = {"type": "object", **_MEMBERS}
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
            is_uuid = not _UUID_RULES.isdisjoint(rules_of(field))
            schema = dict(_UUID) if is_uuid else {"type": "string"}
        else:
            raise TypeError(f"the gateway has no JSON mapping for {field.full_name}")
        return schema

    def _enum(self, enum: EnumDescriptor) -> Json:
        words = _enum_words(enum)
        self._schemas[enum.name] = {
            "type": "string",
            "enum": list(words),
            "description": self._comments.of(enum.full_name),
            "x-enumDescriptions": {
                word: self._comments.of(f"{enum.full_name}.{name}") for word, name in words.items()
            },
            **examples_of(enum),
        }
        return {"$ref": f"#/components/schemas/{enum.name}"}

    def _health(self, operation_id: str, summary: str, *reasons: str) -> Json:
        good: Json = {
            "type": "object",
            "properties": {"status": {"type": "string", "const": "ok"}},
            "required": ["status"],
        }
        success = {"description": "Success.", "content": {"application/json": {"schema": good}}}
        return {
            "operationId": operation_id,
            "tags": ["Health"],
            "summary": summary,
            "security": [],
            "responses": {"200": success, **self._errors.of_reasons(set(reasons))},
        }


def _tag(rule: Binding) -> str:
    return rule.rpc.containing_service.name.removesuffix("Service") + "s"


def _enum_words(enum: EnumDescriptor) -> dict[str, str]:
    """REST's word → the proto's name, without the zero value, which is never returned and never accepted."""
    words = words_of(enum)
    return {words[value.number]: value.name for value in enum.values if value.number != 0}


def _is(field: FieldDescriptor, kind: type[Message]) -> bool:
    return field.message_type is not None and field.message_type.full_name == kind.DESCRIPTOR.full_name


def _nullable(schema: Json) -> Json:
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _nulls(text: str) -> str:
    """The text with `null` where gRPC leaves a field out."""
    text = re.sub(r"(?:Absent|Empty) \(REST: null\)|Absent\b", "Null", text)
    return re.sub(r"\babsent\b", "null", text)
