"""google.protobuf.Struct: the bounds of what is accepted, and the way to plain Python and back."""

from __future__ import annotations

import math
from typing import Any

import orjson
from google.protobuf.struct_pb2 import Struct, Value

from runengine_server.domain.errors import Violation

# Contract, section Bounds. Depth counts from the request body, in which a payload is level 2 of 32.
_MAX_JSON_BYTES = 256 * 1024
_MAX_DEPTH = 31
_MAX_KEYS = 1000
_MAX_INTEGER = 2**53


def violations_of(struct: Struct, path: str, depth: int = 1) -> list[Violation]:
    """Everything in `struct` that is out of bounds, each with its path below `path`."""
    if depth > _MAX_DEPTH:
        return [Violation(path, "is nested deeper than 32 levels")]
    found = []
    if len(struct.fields) > _MAX_KEYS:
        found.append(Violation(path, f"has {len(struct.fields)} keys; at most 1,000 are accepted"))
    for key, value in struct.fields.items():
        if "\0" in key:
            found.append(Violation(path, "has a key with \\u0000"))
        found += _violations_of_value(value, f"{path}.{key}", depth)
    return found


def _violations_of_value(value: Value, path: str, depth: int) -> list[Violation]:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        if not math.isfinite(number):
            return [Violation(path, "is not a finite number")]
        if abs(number) > _MAX_INTEGER and number == math.floor(number):
            return [Violation(path, "is an integer beyond ±2^53, which JSON cannot carry exactly")]
    elif kind == "string_value":
        if "\0" in value.string_value:
            return [Violation(path, "contains \\u0000")]
    elif kind == "struct_value":
        return violations_of(value.struct_value, path, depth + 1)
    elif kind == "list_value":
        if depth + 1 > _MAX_DEPTH:
            return [Violation(path, "is nested deeper than 32 levels")]
        found = []
        for index, item in enumerate(value.list_value.values):
            found += _violations_of_value(item, f"{path}[{index}]", depth + 1)
        return found
    elif kind is None:
        return [Violation(path, "has no value; null is a value")]
    return []


def is_too_large(*encoded: bytes | None) -> bool:
    """Whether the objects together are more than 256 KiB of compact JSON."""
    # JSON needs at most six bytes where Struct needs one (\\u0001), so most need no conversion.
    if sum(len(each or b"") for each in encoded) * 6 <= _MAX_JSON_BYTES:
        return False
    return sum(len(orjson.dumps(to_dict(each))) for each in encoded if each) > _MAX_JSON_BYTES


def to_dict(encoded: bytes | None) -> dict[str, Any]:
    """The object that `encoded` holds; None counts as {}. Whole numbers come back as int."""
    if encoded is None:
        return {}
    return {key: _to_python(value) for key, value in Struct.FromString(encoded).fields.items()}


def _to_python(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "string_value":
        return value.string_value
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return {key: _to_python(item) for key, item in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_to_python(item) for item in value.list_value.values]
    return None
