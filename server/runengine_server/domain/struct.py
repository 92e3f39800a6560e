"""google.protobuf.Struct and Value: the bounds of what is accepted, and the way to plain Python and back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import orjson
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from runengine_server.domain.errors import Violation

# Contract, section Bounds. Depth counts from the request body, in which a payload is level 2 of 32.
_MAX_JSON_BYTES = 256 * 1024
_MAX_DEPTH = 31
_MAX_KEYS = 1000
_MAX_INTEGER = 2**53

# A hostile payload has room for a hundred thousand violations under keys of any length, and they are sent in
# trailers, of which gRPC carries 8 KiB.
_MAX_VIOLATIONS = 20
_MAX_KEY_SHOWN = 64
_MAX_PATH_SHOWN = 100
_PLAIN_KEY = re.compile("[A-Za-z_][A-Za-z0-9_-]{0,63}")

_TOO_DEEP = "is nested deeper than 32 levels"


def violations_of(given: Struct | Value, path: str) -> list[Violation]:
    """What of it is out of bounds, each with its path below `path`; the first 20. Fields that are unknown are
    removed from it.
    """
    walk = _Walk(path)
    size = given.ByteSize()
    given.DiscardUnknownFields()
    if given.ByteSize() != size:
        walk.report(f"has fields that no {given.DESCRIPTOR.full_name} has")
    if isinstance(given, Struct):
        walk.members(given.fields, 1)
    else:
        walk.value(given, 0)
    return walk.found


class _Walk:
    """Goes through a Struct and collects what breaks a bound."""

    def __init__(self, path: str) -> None:
        self.found: list[Violation] = []
        self._path = path
        self._trail: list[str | int] = []  # the keys and indexes that lead to where the walk is

    def members(self, fields: Mapping[str, Value], depth: int) -> None:
        """The object where the walk is."""
        if depth > _MAX_DEPTH:
            self.report(_TOO_DEEP)
            return
        if len(fields) > _MAX_KEYS:
            self.report(f"has {len(fields)} keys; at most 1,000 are accepted")
        for key in fields:
            self._trail.append(key)
            if "\0" in key:
                self.report("is a key that contains \\u0000")
            self.value(fields[key], depth)
            self._trail.pop()

    def _items(self, values: ListValue, depth: int) -> None:
        if depth > _MAX_DEPTH:
            self.report(_TOO_DEEP)
            return
        for index, item in enumerate(values.values):
            self._trail.append(index)
            self.value(item, depth)
            self._trail.pop()

    def value(self, value: Value, depth: int) -> None:
        """The value where the walk is, in an object or array of this depth."""
        kind = value.WhichOneof("kind")
        if kind == "number_value":
            number = value.number_value
            if not -_MAX_INTEGER <= number <= _MAX_INTEGER:
                # So large a double has no fraction.
                beyond = "is an integer beyond ±2^53, which JSON cannot carry exactly"
                self.report(beyond if math.isfinite(number) else "is not a finite number")
        elif kind == "string_value":
            if "\0" in value.string_value:
                self.report("contains \\u0000")
        elif kind == "struct_value":
            self.members(value.struct_value.fields, depth + 1)
        elif kind == "list_value":
            self._items(value.list_value, depth + 1)
        elif kind is None:
            self.report("has no value; null is a value")

    def report(self, description: str) -> None:
        """One more violation, of what is where the walk is."""
        if len(self.found) < _MAX_VIOLATIONS:
            self.found.append(Violation(self._shown_path(), description))

    def _shown_path(self) -> str:
        path = self._path
        for step in self._trail:
            if isinstance(step, int):
                path += f"[{step}]"
            elif _PLAIN_KEY.fullmatch(step):
                path += f".{step}"
            else:
                path += f"[{json.dumps(step[:_MAX_KEY_SHOWN])}]"
        if len(path) > _MAX_PATH_SHOWN:
            half = _MAX_PATH_SHOWN // 2
            path = f"{path[:half]} ... {path[-half:]}"
        return path


def is_too_large(*given: Struct | Value) -> bool:
    """Whether they together are more than 256 KiB of compact JSON."""
    # JSON needs at most six bytes where Struct needs one (\\u0001), so most need no conversion.
    if sum(each.ByteSize() for each in given) * 6 <= _MAX_JSON_BYTES:
        return False
    return sum(len(orjson.dumps(_plain(each))) for each in given) > _MAX_JSON_BYTES


def _plain(given: Struct | Value) -> Any:
    return to_dict(given) if isinstance(given, Struct) else _to_python(given)


def to_dict(struct: Struct | None) -> dict[str, Any]:
    """The object that it stands for; None counts as {}. Whole numbers come back as int."""
    if struct is None:
        return {}
    return {key: _to_python(value) for key, value in struct.fields.items()}


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
