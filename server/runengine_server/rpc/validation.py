"""Checks requests against the rules in the protos. A description continues a sentence that its field begins.

The rules are those that the protos have so far, compiled once for each message: a GetRun is checked in 1 µs,
where protovalidate 2.1 takes 9, and has descriptions of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from runengine.rest_json import words_of
from runengine.rules import alternatives_of, is_required, rules_of

from runengine_server.domain.errors import InvalidArgument, Violation
from runengine_server.domain.ids import NOT_A_UUID, is_uuid

_Check = Callable[[Any], Sequence[Violation]]


def require_valid(request: Message) -> None:
    """Raises InvalidArgument with every violation of the rules."""
    if found := violations_of(request):
        raise InvalidArgument(found)


def violations_of(request: Message) -> list[Violation]:
    """What the rules forbid, in the order of the fields. Raises TypeError for a rule not known here."""
    found: list[Violation] = []
    for name, has_presence, check in checks_of(request.DESCRIPTOR):
        if (not has_presence or request.HasField(name)) and (violations := check(request)):
            found += violations
    return found


@cache
def checks_of(message: Descriptor) -> list[tuple[str, bool, _Check]]:
    """(name, presence, check) of each field that has rules, and of the message as a whole."""
    checks = ((field, _check_of(field)) for field in message.fields)
    found = [(field.name, field.has_presence, check) for field, check in checks if check is not None]
    if alternatives := alternatives_of(message):
        found.append((message.name, False, _alternatives_check(message, alternatives)))
    return found


def _check_of(field: FieldDescriptor) -> _Check | None:
    match rules_of(field):
        case rules if not rules:
            return None
        case {"string.uuid": True, **others} if not others:
            return _value_check(field, is_uuid, NOT_A_UUID)
        case {"string.min_len": 1, **others} if not others:
            return _value_check(field, bool, "is required" if is_required(field) else "must not be empty")
        case {"string.max_len": most, **others} if not others:
            return _value_check(field, lambda value: len(value) <= most, f"has more than {most:,} characters")
        case {"enum.defined_only": True, "enum.not_in": [0], **others} if not others:
            return _enum_check(field)
        case {"repeated.max_items": most, "repeated.items.string.uuid": True, **others} if not others:
            return _uuids_check(field, most)
        case {"repeated.max_items": most, "repeated.items.string.in": words, **others} if not others:
            return _items_check(field, most, words)
        case {"int32.gte": least, "int32.lte": most, **others} if not others:
            return _value_check(field, lambda value: least <= value <= most, f"must be {least} to {most}")
        case {"int32.gte": least, **others} if not others:
            return _value_check(field, lambda value: value >= least, f"must be {least} or more")
        case {
            "repeated.max_items": most,
            "repeated.items.enum.defined_only": True,
            "repeated.items.enum.not_in": [0],
            **others,
        } if not others:
            return _enums_check(field, most)
        case rules:
            raise TypeError(f"{field.full_name} has rules that are not checked here: {', '.join(rules)}")


def _value_check(field: FieldDescriptor, is_good: Callable[[Any], bool], otherwise: str) -> _Check:
    read, wrong = attrgetter(field.name), [Violation(field.name, otherwise)]
    return lambda request: () if is_good(read(request)) else wrong


def _alternatives_check(message: Descriptor, names: list[str]) -> _Check:
    first, *others = names
    missing = [Violation(first, f"is required, or {' or '.join(others)} in its place")]

    def check(request: Any) -> list[Violation]:
        fields = {field.name for field, _ in request.ListFields()}
        given = [name for name in names if name in fields]
        return [Violation(name, f"goes with no {given[0]}") for name in given[1:]] if given else missing

    return check


def _enum_check(field: FieldDescriptor) -> _Check:
    assert field.enum_type is not None
    known = {number: word for number, word in words_of(field.enum_type).items() if number != 0}
    return _value_check(field, known.__contains__, f"must be one of {', '.join(known.values())}")


def _uuids_check(field: FieldDescriptor, most: int) -> _Check:
    read, name = attrgetter(field.name), field.name

    def check(request: Any) -> list[Violation]:
        given = read(request)
        if len(given) > most:
            return [Violation(name, f"has more than {most:,}")]
        wrong = (index for index, value in enumerate(given) if not is_uuid(value))
        return [Violation(f"{name}[{index}]", NOT_A_UUID) for index in wrong]

    return check


def _enums_check(field: FieldDescriptor, most: int) -> _Check:
    assert field.enum_type is not None
    known = {number: word for number, word in words_of(field.enum_type).items() if number != 0}
    return _items_check(field, most, known, known.values())


def _items_check(
    field: FieldDescriptor, most: int, known: Collection[object], words: Iterable[str] | None = None
) -> _Check:
    shown = map(str, known) if words is None else words
    read, name, one_of = attrgetter(field.name), field.name, f"must be one of {', '.join(shown)}"

    def check(request: Any) -> Sequence[Violation]:
        given = read(request)
        if not given:
            return ()
        # A message of 2 MiB holds two million of them, which took 3.8 s to find wrong one by one.
        if len(given) > most:
            return [Violation(name, f"is given more than {most} times")]
        return [
            Violation(f"{name}[{index}]", one_of) for index, value in enumerate(given) if value not in known
        ]

    return check
