"""How does a proto message look as JSON, and how is one filled from JSON (contract: REST JSON)?

Everything here is compiled once from a descriptor: a call walks closures, not descriptors.
"""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

import orjson
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1.run_pb2 import Run

from runengine_gateway.remembered import ENCODED_RUNS, run_encoder, with_encoded_runs

# Beyond it a double no longer holds every integer, so that readers of JSON would round (contract: Bounds).
MAX_INTEGER = 2**53

_EPOCH = datetime(1970, 1, 1)
_INTEGER = re.compile("-?[0-9]+")
_STRUCT = Struct.DESCRIPTOR.full_name
_TIMESTAMP = Timestamp.DESCRIPTOR.full_name
_INTEGER_BITS = {FieldDescriptor.TYPE_INT32: 32, FieldDescriptor.TYPE_INT64: 64}
_PLAIN_TYPES = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BOOL, *_INTEGER_BITS}


class MalformedError(ValueError):
    """A value that its field cannot take. Its text says what the field takes, for the caller to read."""


def encoder_of(message: Descriptor) -> Callable[[Message], dict[str, object]]:
    """Compiles what turns messages of this type into JSON objects.

    Every field is in the object, under its JSON name. One that has no value is None, and so is an empty
    list of scalars; a list of messages stays a list. Raises TypeError for a type this mapping lacks.
    """
    members = [(field.json_name, _member_encoder(field)) for field in message.fields]
    return lambda instance: {name: encode(instance) for name, encode in members}


def reply_encoder(message: Descriptor, answer: str) -> Callable[[bytes], bytes]:
    """Compiles what turns encoded messages of this type into JSON text: that of the whole, or of the field
    that is the `answer`. Raises TypeError for a type this mapping lacks.
    """
    stored = with_encoded_runs(message)
    parse, encode = GetMessageClass(stored).FromString, encoder_of(stored)
    key = answer and message.fields_by_name[answer].json_name
    if key:
        return lambda reply: orjson.dumps(encode(parse(reply))[key])
    return lambda reply: orjson.dumps(encode(parse(reply)))


def _member_encoder(field: FieldDescriptor) -> Callable[[Message], object]:
    name, read, encode = field.name, attrgetter(field.name), _value_encoder(field)
    if field.is_repeated and (field.message_type is not None or _is_encoded_run(field)):
        return lambda instance: [encode(item) for item in read(instance)]
    if field.is_repeated:
        return lambda instance: [encode(item) for item in read(instance)] or None
    if field.has_presence:
        return lambda instance: encode(read(instance)) if instance.HasField(name) else None
    if field.type in _PLAIN_TYPES:
        return read
    return lambda instance: encode(read(instance))


def _value_encoder(field: FieldDescriptor) -> Callable[[Any], object]:
    message = field.message_type
    if message is not None and not message.GetOptions().map_entry:
        if message.full_name == _STRUCT:
            return encode_struct
        if message.full_name == _TIMESTAMP:
            return encode_timestamp
        return encoder_of(message)
    if field.enum_type is not None:
        words = _words(field.enum_type)
        # A newer server may answer a value that this gateway does not know yet.
        return lambda number: words.get(number, words[0])
    if field.type in _PLAIN_TYPES:
        return lambda value: value
    if _is_encoded_run(field):
        return run_encoder(encoder_of(Run.DESCRIPTOR))
    raise _no_mapping(field)


def _is_encoded_run(field: FieldDescriptor) -> bool:
    return field.type == FieldDescriptor.TYPE_BYTES and field.full_name.startswith(ENCODED_RUNS)


def encode_timestamp(moment: Timestamp) -> str:
    """RFC 3339 in UTC with milliseconds, such as `2026-01-31T09:30:00.123Z`; what is finer is cut off."""
    at = _EPOCH + timedelta(0, moment.seconds, moment.nanos // 1_000)
    return at.isoformat(timespec="milliseconds") + "Z"


def encode_struct(struct: Struct) -> dict[str, object]:
    """The JSON object that a Struct stands for. Whole numbers come out as integers, so that 3 stays 3."""
    fields = struct.fields
    return {key: _encode_value(fields[key]) for key in fields}  # items() of a proto map is slow


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


def json_setter(field: FieldDescriptor) -> Callable[[Message, object], None]:
    """Compiles what sets this field from a member of a JSON body, or raises MalformedError.

    A Struct takes an object; every other type takes its own JSON type alone. Null never comes here: it counts
    as absent.
    """
    name = field.name
    if field.message_type is not None and field.message_type.full_name == _STRUCT and not field.is_repeated:

        def set_struct(message: Message, value: object) -> None:
            if not isinstance(value, dict):
                raise MalformedError("must be an object or null")
            struct: Struct = getattr(message, name)
            struct.SetInParent()  # an empty object is not an absent one
            struct.update(value)

        return set_struct

    if field.type in _INTEGER_BITS and not field.is_repeated:
        limit = 2 ** (_INTEGER_BITS[field.type] - 1)

        def set_integer(message: Message, value: object) -> None:
            # JSON has one kind of number: 3.0 is an integer.
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, bool) or not isinstance(value, int) or not -limit <= value < limit:
                raise MalformedError("must be an integer")
            setattr(message, name, value)

        return set_integer

    if field.type != FieldDescriptor.TYPE_STRING or field.is_repeated:
        raise _no_mapping(field)

    def set_string(message: Message, value: object) -> None:
        if not isinstance(value, str):
            raise MalformedError("must be a string")
        setattr(message, name, value)

    return set_string


def text_setter(field: FieldDescriptor) -> Callable[[Message, str], None]:
    """Compiles what sets this field from a path or query parameter, or raises MalformedError.

    A repeated field takes one more value each time.
    """
    name, parse = field.name, _text_parser(field)
    if field.is_repeated:
        return lambda message, text: getattr(message, name).append(parse(text))
    return lambda message, text: setattr(message, name, parse(text))


def _text_parser(field: FieldDescriptor) -> Callable[[str], object]:
    if field.type == FieldDescriptor.TYPE_STRING:
        return lambda text: text
    if field.type in _INTEGER_BITS:
        limit = 2 ** (_INTEGER_BITS[field.type] - 1)

        def parse_integer(text: str) -> int:
            # The length comes first: int() takes seconds over a very long text, or refuses it.
            if _INTEGER.fullmatch(text) and len(text) <= 20 and -limit <= int(text) < limit:
                return int(text)
            raise MalformedError(f"must be an integer from {-limit} to {limit - 1}")

        return parse_integer
    if field.enum_type is not None:
        numbers = {word: number for number, word in _words(field.enum_type).items() if number != 0}

        def parse_word(text: str) -> int:
            if text in numbers:
                return numbers[text]
            raise MalformedError(f"must be one of {', '.join(numbers)}")

        return parse_word
    raise _no_mapping(field)


def json_path(path: str, message: Descriptor) -> str:
    """The path of a field in JSON names: `campaign_id` → `campaignId`.

    What lies inside a Struct is the caller's own naming, and stays: `trigger_payload.a_b[3]` →
    `triggerPayload.a_b[3]`.
    """
    names: list[str] = []
    inside: Descriptor | None = message
    for part in path.split("."):
        name, bracket, index = part.partition("[")
        field = inside.fields_by_name.get(name) if inside is not None else None
        names.append(part if field is None else field.json_name + bracket + index)
        inside = None if field is None else field.message_type
        if inside is not None and inside.full_name == _STRUCT:
            inside = None
    return ".".join(names)


def _words(enum: EnumDescriptor) -> dict[int, str]:
    """Number → lower-case word: RUN_STATUS_QUEUED of RunStatus is `queued`."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {value.number: value.name.removeprefix(prefix).lower() for value in enum.values}


def _no_mapping(field: FieldDescriptor) -> TypeError:
    return TypeError(f"the gateway has no JSON mapping for {field.full_name}")
