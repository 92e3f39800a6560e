"""Fills requests from JSON and text, and turns replies into JSON (contract: REST JSON).

Everything here is compiled once from a descriptor: a call walks closures, not descriptors.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.rest_json import Encoders, encoder_of, no_mapping, value_of_map, words_of
from runengine.v1.run_pb2 import Run

from runengine_gateway.cached_json import cached_run_encoder, with_encoded_runs

_INTEGER = re.compile("-?[0-9]+")
_STRUCT = Struct.DESCRIPTOR.full_name
_VALUE = Value.DESCRIPTOR.full_name
_TIMESTAMP = Timestamp.DESCRIPTOR.full_name
_INTEGER_BITS = {FieldDescriptor.TYPE_INT32: 32, FieldDescriptor.TYPE_INT64: 64}

# Of the items of a list: nobody reads more.
_MOST_FOUND = 100

Path: TypeAlias = tuple[str | int, ...]


class MalformedError(ValueError):
    """A value that its field cannot take. Its message tells the caller what the field takes; `found` says so
    for each path within the value, of keys and indexes.
    """

    def __init__(self, description: str, found: Sequence[tuple[Path, str]] = ()) -> None:
        super().__init__(description)
        self.found = found or [((), description)]


def reply_encoder(message: Descriptor, response_body: str) -> Callable[[bytes], bytes]:
    """Compiles what turns encoded messages of this type into JSON text: that of the whole message, or of the
    field `response_body` where that is not empty. Raises TypeError for a type without a JSON mapping.
    """
    stored = with_encoded_runs(message)
    parse = GetMessageClass(stored).FromString
    # JSON text goes in as it is: orjson writes 254 levels in all, which a value may have by itself.
    encode_run = encoder_of(Run.DESCRIPTOR, Encoders(orjson.Fragment))
    encode = encoder_of(stored, Encoders(orjson.Fragment, cached_run_encoder(encode_run)))
    key = response_body and message.fields_by_name[response_body].json_name
    if key:
        return lambda reply: orjson.dumps(encode(parse(reply))[key])
    return lambda reply: orjson.dumps(encode(parse(reply)))


def json_setter(field: FieldDescriptor) -> Callable[[Message, object], None]:
    """Compiles what sets this field from a member of a JSON body, or raises MalformedError.

    A Value takes anything, a Struct an object, a map of Values an object with a member or more, another
    message an object with its fields, a repeated field a list; every other type takes its own JSON type
    alone. Null comes here only where `takes_null`; within another message it counts as absent.
    """
    name = field.name
    if _is_of_values(field):

        def set_value(message: Message, value: object) -> None:
            _set_value(getattr(message, name), value)

        def set_values(message: Message, value: object) -> None:
            if not isinstance(value, dict) or not value:
                raise MalformedError("must be an object with a member or more")
            values = getattr(message, name)
            for key, item in value.items():
                _set_value(values[key], item)

        return set_value if value_of_map(field) is None else set_values

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

    if _is_time(field):
        return lambda message, value: _set_time(getattr(message, name), value)
    if field.message_type is not None and not field.is_repeated:
        return _message_setter(field)
    parse = _json_parser(field)
    if field.is_repeated:
        return lambda message, value: _extend(getattr(message, name), value, parse)
    return lambda message, value: setattr(message, name, parse(value))


def _message_setter(field: FieldDescriptor) -> Callable[[Message, object], None]:
    assert field.message_type is not None
    name = field.name
    setters = {each.json_name: json_setter(each) for each in field.message_type.fields}

    def set_members(into: Message, members: dict[str, object]) -> Iterable[tuple[Path, str]]:
        for key, member in members.items():
            if (setter := setters.get(key)) is None:
                yield (key,), "is no field of this object"
            elif member is not None:
                try:
                    setter(into, member)
                except MalformedError as malformed:
                    yield from (((key, *path), description) for path, description in malformed.found)

    def set_message(message: Message, value: object) -> None:
        if not isinstance(value, dict):
            raise MalformedError("must be an object or null")
        into: Message = getattr(message, name)
        into.SetInParent()  # an empty object is not an absent one
        if found := list(set_members(into, value)):
            raise MalformedError("is malformed", found)

    return set_message


def _extend(into: Any, value: object, parse: Callable[[object], object]) -> None:
    if not isinstance(value, list):
        raise MalformedError("must be a list")
    found: list[tuple[Path, str]] = []
    for index, item in enumerate(value):
        try:
            into.append(parse(item))
        except MalformedError as malformed:
            found.append(((index,), str(malformed)))
        if len(found) == _MOST_FOUND:
            break
    if found:
        raise MalformedError("is malformed", found)


def _json_parser(field: FieldDescriptor) -> Callable[[object], object]:
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _bool
    if field.enum_type is None and field.type != FieldDescriptor.TYPE_STRING:
        raise no_mapping(field)
    parse = _text_parser(field)
    return lambda value: parse(_text(value))


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise MalformedError("must be true or false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise MalformedError("must be a string")
    return value


def takes_null(field: FieldDescriptor) -> bool:
    """Whether null is a value for this field, and does not count as absent: for a Value, and for a map of
    them, which it is no value for.
    """
    return _is_of_values(field)


def _is_of_values(field: FieldDescriptor) -> bool:
    of_map = value_of_map(field)
    kind = (of_map or field).message_type
    return kind is not None and kind.full_name == _VALUE and (of_map is not None or not field.is_repeated)


def _set_value(into: Value, value: Any) -> None:
    # A Struct and a ListValue take what Python has; a Value by itself does not.
    holder = ListValue()
    holder.append(value)
    into.CopyFrom(holder.values[0])


def text_setter(field: FieldDescriptor) -> Callable[[Message, str], None]:
    """Compiles what sets this field from a path or query parameter, or raises MalformedError.

    A repeated field takes one more value each time.
    """
    name = field.name
    if _is_time(field):
        return lambda message, text: _set_time(getattr(message, name), text)
    parse = _text_parser(field)
    if field.is_repeated:
        return lambda message, text: getattr(message, name).append(parse(text))
    return lambda message, text: setattr(message, name, parse(text))


def _is_time(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.full_name == _TIMESTAMP and not field.is_repeated


def _set_time(into: Timestamp, value: object) -> None:
    try:
        into.FromJsonString(_text(value))
    except ValueError:
        raise MalformedError("must be a time such as 2026-01-31T09:30:00Z") from None


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
    if field.type == FieldDescriptor.TYPE_BOOL:

        def parse_bool(text: str) -> bool:
            if text in ("true", "false"):
                return text == "true"
            raise MalformedError("must be true or false")

        return parse_bool
    if field.enum_type is not None:
        numbers = {word: number for number, word in words_of(field.enum_type).items() if number != 0}

        def parse_word(text: str) -> int:
            if text in numbers:
                return numbers[text]
            raise MalformedError(f"must be one of {', '.join(numbers)}")

        return parse_word
    raise no_mapping(field)


def json_path(path: str, message: Descriptor) -> str:
    """The path of a field in JSON names: `campaign_id` → `campaignId`.

    What lies inside a Struct, a Value or a map is the caller's own naming, and stays:
    `trigger_payload.a_b[3]` → `triggerPayload.a_b[3]`.
    """
    names: list[str] = []
    inside: Descriptor | None = message
    for part in path.split("."):
        name, bracket, index = part.partition("[")
        field = inside.fields_by_name.get(name) if inside is not None else None
        names.append(part if field is None else field.json_name + bracket + index)
        inside = None if field is None or value_of_map(field) else field.message_type
        if inside is not None and inside.full_name in (_STRUCT, _VALUE):
            inside = None
    return ".".join(names)
