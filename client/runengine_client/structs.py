"""Converts JSON values to google.protobuf.Struct and Value and back, and refuses what these would change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import ListValue, Struct, Value
from runengine.rest_json import MAX_INTEGER, encode_struct

# Protobuf parses 100 messages deep, and each nested object takes three.
_MAX_DEPTH = 33


def to_struct(value: Mapping[str, Any], name: str = "value") -> Struct:
    """Returns `value` as a Struct; tuples count as lists.

    Raises ValueError for what JSON or a Struct cannot carry: NaN, infinity, an integer beyond ±2^53,
    a lone surrogate, a key that is no string, nesting deeper than 33, any other type. The message
    has the path of the value, such as `payload.items[3]`, beginning with `name`.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a JSON object, not {type(value).__name__}.")
    return _object(value, name, 1)


def to_value(value: Any, name: str = "value") -> Value:
    """Returns `value`, which may be None, as a Value. Raises ValueError as `to_struct` does."""
    return _value(value, name, 0)


def struct_to_dict(struct: Struct) -> dict[str, Any]:
    """Returns the Struct as JSON values.

    A Struct has doubles alone, so a whole number up to ±2^53 comes back as an int: 3, not 3.0. It
    keeps no order of keys either; they come back sorted.
    """
    return encode_struct(struct)


def _object(value: Mapping[str, Any], path: str, depth: int) -> Struct:
    if depth > _MAX_DEPTH:
        raise ValueError(f"{path} is nested more than {_MAX_DEPTH} deep.")
    fields = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise ValueError(f"{path} has the key {key!r}, which is no string.")
        fields[_text(key, path)] = _value(item, f"{path}.{key}", depth)
    return Struct(fields=fields)


def _value(value: Any, path: str, depth: int) -> Value:
    match value:
        case None:
            return Value(null_value=0)  # type: ignore[arg-type]  # NULL_VALUE, of an enum with one word
        case bool():
            return Value(bool_value=value)
        case int() if abs(value) > MAX_INTEGER:
            raise ValueError(f"{path} is an integer beyond ±2^53; send it as a string.")
        case float() if not math.isfinite(value):
            raise ValueError(f"{path} is {value}, which JSON does not have.")
        case int() | float():
            return Value(number_value=value)
        case str():
            return Value(string_value=_text(value, path))
        case Mapping():
            return Value(struct_value=_object(value, path, depth + 1))
        case list() | tuple():
            if depth >= _MAX_DEPTH:
                raise ValueError(f"{path} is nested more than {_MAX_DEPTH} deep.")
            items = [_value(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(value)]
            return Value(list_value=ListValue(values=items))
        case _:
            raise ValueError(f"{path} is a {type(value).__name__}, which JSON does not have.")


def _text(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path} has a lone surrogate, which UTF-8 does not have.") from None
    return text
