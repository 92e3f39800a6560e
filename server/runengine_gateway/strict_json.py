"""Parses a body strictly: it must be JSON that the engine can store unchanged (contract: Bounds).

The parser puts a marker in place of each invalid value, and a second pass finds the JSON path of each marker,
so that one response lists all violations.
"""

import json
import math
import re
from typing import Any, Final, NamedTuple

from runengine.rest_json import MAX_INTEGER

from runengine_gateway.problems import Violation

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 32  # the body itself is 1
MAX_KEYS: Final = 1_000  # of one object

# A hostile body has room for a hundred thousand violations. Nobody reads so many, and each makes the response
# longer.
MAX_VIOLATIONS: Final = 100

_PLAIN_KEY: Final = re.compile("[A-Za-z_][A-Za-z0-9_-]{0,63}")
_MAX_KEY_SHOWN: Final = 64  # characters


class _Invalid(NamedTuple):
    """Takes the place of an invalid value in the parsed body."""

    description: str


# The parser has checked these. Skipping them here halves the time for a body full of numbers.
_CHECKED_TYPES: Final = frozenset({int, float, bool, type(None)})

# The value of a member whose violations are in the list already.
INVALID: Final = _Invalid("breaks a bound")


class _InvalidObject(dict[str, Any]):
    """An object with too many keys, or with the same one twice."""

    violations: list[tuple[str | None, str]]  # (key, None for the object itself; description)


class Parsed(NamedTuple):
    """A parsed body, and its violations. A member with a violation has the value INVALID."""

    members: dict[str, object]
    violations: list[Violation]


def parse_object(raw: bytes) -> Parsed:
    """Parses a body that must be one JSON object within all bounds. Never raises: every error is a violation.

    A number comes out as the int or float that it is written as. The reader of the request has
    limited `raw` to MAX_BYTES.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return _unreadable(f"is not UTF-8 at byte {error.start}")
    if text.startswith("\ufeff"):
        return _unreadable("starts with a byte order mark")
    try:
        body = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        return _unreadable(f"is not JSON at line {error.lineno}, column {error.colno}")
    except RecursionError:
        return _unreadable(_TOO_DEEP)
    if not isinstance(body, dict):
        return _unreadable("must be a JSON object")
    return _inspect(body)


_TOO_DEEP: Final = f"is nested deeper than {MAX_DEPTH}"


def _unreadable(description: str) -> Parsed:
    return Parsed({}, [Violation("body", description)])


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs) <= MAX_KEYS:
        return members
    invalid = _InvalidObject(members)
    invalid.violations = []
    if len(pairs) > MAX_KEYS:
        invalid.violations.append((None, f"has more than {MAX_KEYS} keys"))
    if len(members) < len(pairs):
        last_place = {key: place for place, (key, _) in enumerate(pairs)}
        repeated = {key: None for place, (key, _) in enumerate(pairs) if place != last_place[key]}
        invalid.violations += [(key, "is given more than once") for key in repeated]
    return invalid


_BEYOND: Final = _Invalid(f"is an integer beyond ±2^53 (±{MAX_INTEGER})")


def _parse_integer(digits: str) -> int | _Invalid:
    # The length comes first: int() refuses very long texts, and is slow on long ones.
    if len(digits) > 17 or abs(int(digits)) > MAX_INTEGER:
        return _BEYOND
    return int(digits)


def _parse_float(digits: str) -> float | _Invalid:
    number = float(digits)
    if math.isinf(number):
        return _Invalid("is a number too large for a double")
    # So large a double has no fraction: 1e300 is an integer too, and a Struct holds no other kind.
    return _BEYOND if abs(number) > MAX_INTEGER else number


def _parse_constant(name: str) -> _Invalid:
    return _Invalid(f"is {name}, which is not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_parse_object,
    parse_int=_parse_integer,
    parse_float=_parse_float,
    parse_constant=_parse_constant,
)


def _inspect(body: dict[str, Any]) -> Parsed:
    inspection = _Inspection()
    members: dict[str, object] = {}
    inspection.keys(body)
    for key, value in body.items():
        known = len(inspection.violations)
        inspection.member(key, value, depth=2)
        is_valid = len(inspection.violations) == known < MAX_VIOLATIONS
        members[key] = value if is_valid else INVALID
    return Parsed(members, inspection.violations)


class _Inspection:
    """Walks a parsed body and collects what breaks a bound; stops at MAX_VIOLATIONS."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self._trail: list[str | int] = []  # the keys and indexes that lead to where the walk is

    def member(self, key: str | int, value: object, depth: int) -> None:
        """Inspects the value under `key` of the object or array where the walk is."""
        self._trail.append(key)
        self._value(value, depth)
        self._trail.pop()

    def keys(self, members: dict[str, Any]) -> None:
        """Inspects the keys of the object where the walk is, but none of its values."""
        if isinstance(members, _InvalidObject):
            for key, description in members.violations:
                self._report(description, key)
        for key in members:
            if violation := _text_violation(key):
                self._report(f"is a key that {violation}", key)

    def _value(self, value: object, depth: int) -> None:
        if isinstance(value, str):
            if violation := _text_violation(value):
                self._report(violation)
        elif isinstance(value, _Invalid):
            self._report(value.description)
        elif depth > MAX_DEPTH and isinstance(value, dict | list):
            self._report(_TOO_DEEP)
        elif isinstance(value, dict):
            self.keys(value)
            for key, item in value.items():
                if type(item) not in _CHECKED_TYPES:
                    self.member(key, item, depth + 1)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if type(item) not in _CHECKED_TYPES:
                    self.member(index, item, depth + 1)

    def _report(self, description: str, key: str | None = None) -> None:
        if len(self.violations) < MAX_VIOLATIONS:
            trail = self._trail if key is None else [*self._trail, key]
            self.violations.append(Violation(shown_path(trail), description))


def _text_violation(text: str) -> str | None:
    if "\0" in text:
        return "contains \\u0000"
    # UTF-8 holds no lone surrogate, so an escape made it.
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "contains a lone surrogate"
    return None


def shown_path(trail: list[str] | list[str | int]) -> str:
    """The path as a caller reads it: `triggerPayload.items[3].price`; `body` where it is empty.

    A key that is no plain word is quoted, `triggerPayload["a b"]`, in ASCII whatever it holds, and a long
    one is cut short.
    """
    path = ""
    for step in trail:
        if isinstance(step, int):
            path += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            path += f".{step}" if path else step
        else:
            path += f"[{json.dumps(step[:_MAX_KEY_SHOWN])}]"
    return path or "body"
