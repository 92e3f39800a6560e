"""How does a message of runengine.v1 look in REST's JSON? For the gateway, and for the client's `--json`.

Fields have camelCase keys and are always there, `null` where they have no value; enums are lower-case words;
times are RFC 3339 UTC with milliseconds. protobuf's own json_format writes no nulls, no lower-case words, and
64-bit integers as text. All is compiled once from a descriptor: a call walks closures, not descriptors.
"""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1.run_pb2 import is_json, is_null_when_empty

# Beyond it a double no longer holds every integer, so that readers of JSON would round (contract: Bounds).
MAX_INTEGER = 2**53

_EPOCH = datetime(1970, 1, 1)
_STRUCT = Struct.DESCRIPTOR.full_name
_TIMESTAMP = Timestamp.DESCRIPTOR.full_name
_PLAIN_TYPES = {
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BOOL,
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
}


class Encoders(NamedTuple):
    """What fields become that are JSON already, or have no form in it."""

    json_text: Callable[[str], object] = json.loads
    of_bytes: Callable[[bytes], object] | None = None


_PYTHON = Encoders()


def encoder_of(message: Descriptor, encoders: Encoders = _PYTHON) -> Callable[[Message], dict[str, Any]]:
    """Compiles what turns messages of this type into JSON objects.

    Every field is in the object, under its JSON name. One that has no value is None, and so is an empty
    list of scalars; a list of messages stays a list, unless its field says otherwise. JSON has no bytes:
    `encoders` may say what such a field holds. Raises TypeError for a type this mapping lacks.
    """
    members = [(field.json_name, _member_encoder(field, encoders)) for field in message.fields]
    return lambda instance: {name: encode(instance) for name, encode in members}


def _member_encoder(field: FieldDescriptor, encoders: Encoders) -> Callable[[Message], object]:
    name, read, encode = field.name, attrgetter(field.name), _value_encoder(field, encoders)
    if field.is_repeated:
        if is_empty_null(field):
            return lambda instance: [encode(item) for item in read(instance)] or None
        return lambda instance: [encode(item) for item in read(instance)]
    if field.has_presence:
        return lambda instance: encode(read(instance)) if instance.HasField(name) else None
    if field.type in _PLAIN_TYPES and not holds_json(field):
        return read
    return lambda instance: encode(read(instance))


def _value_encoder(field: FieldDescriptor, encoders: Encoders) -> Callable[[Any], object]:
    message = field.message_type
    if message is not None and value_of_map(field) is None:
        if message.full_name == _STRUCT:
            return encode_struct
        if message.full_name == _TIMESTAMP:
            return encode_timestamp
        return encoder_of(message, encoders)
    if field.enum_type is not None:
        words = words_of(field.enum_type)
        # A newer server may return a value that is not known here yet.
        return lambda number: words.get(number, words[0])
    if holds_json(field):
        return lambda text: encoders.json_text(text) if text else None
    if field.type in _PLAIN_TYPES:
        return lambda value: value
    if field.type == FieldDescriptor.TYPE_BYTES and encoders.of_bytes is not None:
        return encoders.of_bytes
    raise no_mapping(field)


def holds_json(field: FieldDescriptor) -> bool:
    """Whether the field is a string of JSON text, in whose place REST has the value."""
    return bool(field.GetOptions().Extensions[is_json])


def value_of_map(field: FieldDescriptor) -> FieldDescriptor | None:
    """What is under each key of a map; None for a field that is no map."""
    entry = field.message_type
    return entry.fields_by_name["value"] if entry is not None and entry.GetOptions().map_entry else None


def is_empty_null(field: FieldDescriptor) -> bool:
    """Whether a repeated field without items is null, not an empty list."""
    is_scalar = field.message_type is None and field.type != FieldDescriptor.TYPE_BYTES
    return is_scalar or bool(field.GetOptions().Extensions[is_null_when_empty])


def encode_timestamp(moment: Timestamp) -> str:
    """RFC 3339 in UTC with milliseconds, such as `2026-01-31T09:30:00.123Z`; what is finer is cut off."""
    at = _EPOCH + timedelta(0, moment.seconds, moment.nanos // 1_000)
    return at.isoformat(timespec="milliseconds") + "Z"


def encode_struct(struct: Struct) -> dict[str, Any]:
    """The JSON object that a Struct stands for, its keys sorted: a Struct keeps no order. Whole numbers come
    out as integers, so that 3 stays 3.
    """
    fields = struct.fields
    return {key: _encode_value(fields[key]) for key in sorted(fields)}  # items() of a proto map is slow


def _encode_value(value: Value) -> object:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and -MAX_INTEGER <= number <= MAX_INTEGER else number
    if kind == "struct_value":
        return encode_struct(value.struct_value)
    if kind == "list_value":
        return [_encode_value(item) for item in value.list_value.values]
    if kind == "bool_value":
        return value.bool_value
    return None


def words_of(enum: EnumDescriptor) -> dict[int, str]:
    """Number → lower-case word: RUN_STATUS_QUEUED of RunStatus is `queued`."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {value.number: value.name.removeprefix(prefix).lower() for value in enum.values}


def no_mapping(field: FieldDescriptor) -> TypeError:
    """For a field of a type that this mapping lacks."""
    return TypeError(f"there is no JSON mapping for {field.full_name}")
