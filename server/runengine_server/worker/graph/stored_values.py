"""What a value becomes when it is stored and read back, so that a graph can work with that from the
beginning.

A graph that is not interrupted hands values from node to node as they are. After a retry, a takeover or a
cache hit it hands on what the store gives back: with langgraph-checkpoint 4.3.2 a list for a tuple, a deque
without its bound, a dict for a defaultdict or for an object that cannot be made again.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections import deque
from collections.abc import Iterable
from enum import Enum
from types import FunctionType
from typing import Any

import ormsgpack
from langgraph._internal._constants import ERROR, RETURN
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from runengine_server.worker.graph.failures import ValueNotStorable

# Types whose values always come back as they were. Of lists and dicts that depends on their items.
FLAT = frozenset((float, bool, type(None), bytes))
_LEAST_INT, _GREATEST_INT = -(2**63), 2**64 - 1

# Types that may come back as another of them: subclasses as the class itself, tuples as lists, buffers as
# bytes.
_PLAIN = (str, int, float, bytes, bytearray, memoryview, list, tuple, dict, type(None))

# The extension code of an error in msgpack. langgraph-checkpoint uses 0 to 7, and reads others as None; an
# error that is read as None is handled by nobody, and its node runs again.
_ERROR = 100

_BASE = JsonPlusSerializer()


def _read_extension(code: int, data: bytes) -> Any:
    return _read_error(data) if code == _ERROR else _BASE._unpack_ext_hook(code, data)


SERIALISER = JsonPlusSerializer(__unpack_ext_hook__=_read_extension)


def as_stored(value: Any, key: str = "") -> Any:
    """The value as it comes back from the store; the value itself when that is the same.

    Raises ValueNotStorable, which names `key` and the type, for a value that cannot be stored, or of which
    something would come back as another type.
    """
    try:
        if is_plain(value):
            return value
        # In a list, as in a checkpoint, where a bytearray comes back as bytes; alone it comes back as it was.
        (stored,) = SERIALISER.loads_typed(SERIALISER.dumps_typed([value]))
        changed = find_changed(value, stored)
    except RecursionError:
        raise ValueNotStorable(key, _name(value), "it is nested too deep, or holds itself") from None
    except Exception as error:
        raise ValueNotStorable(key, _name(value), str(error)) from None
    if changed is not None:
        before, after = changed
        words = f"a value of type {_name(before)!r} comes back as {_name(after)!r}"
        raise ValueNotStorable(key, _name(value), words)
    return stored


def is_plain(value: Any) -> bool:
    """Whether the value is made of JSON's types and bytes alone, and so comes back as it was."""
    kind = type(value)
    if kind is str:
        return value.isascii() or _is_encodable(value)
    if kind in FLAT:
        return True
    if kind is int:
        return bool(_LEAST_INT <= value <= _GREATEST_INT)
    if kind is list:
        # Not all(), whose generator takes twice the time.
        for each in value:  # noqa: SIM110
            if not is_plain(each):
                return False
        return True
    if kind is dict:
        for name, each in value.items():  # noqa: SIM110
            if type(name) is not str or not is_plain(each):
                return False
        return True
    return False


def objects_in(value: Any) -> Iterable[Any]:
    """The values in lists and dicts, at any depth, that are not plain."""
    kind = type(value)
    if kind is list or kind is dict:
        for each in value if kind is list else value.values():
            yield from objects_in(each)
    elif not is_plain(value):
        yield value


def with_objects_as_stored(value: Any, known: set[int], key: str) -> Any:
    """As as_stored, for a value of which the objects with the ids `known` have come from the store."""
    kind = type(value)
    if id(value) in known or is_plain(value):
        return value
    if kind is list:
        return [with_objects_as_stored(each, known, key) for each in value]
    if kind is dict and all(type(name) is str for name in value):
        return {name: with_objects_as_stored(each, known, key) for name, each in value.items()}
    return as_stored(value, key)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_changed(before: Any, after: Any) -> tuple[Any, Any] | None:
    """A value within `before` that came back as another type, and what it came back as; None if there is
    none.
    """
    if type(before) is not type(after) and not (_is_plain_kind(before) and type(after) in _PLAIN):
        return before, after
    if isinstance(before, dict):
        if len(before) != len(after):
            return before, after
        pairs = zip(before.values(), after.values(), strict=True)
    elif isinstance(before, list | tuple | deque):
        pairs = zip(before, after, strict=True)
    elif dataclasses.is_dataclass(before):
        names = [each.name for each in dataclasses.fields(before)]
        pairs = zip(_attributes(before, names), _attributes(after, names), strict=True)
    elif isinstance(fields := getattr(type(before), "model_fields", None), dict):
        pairs = zip(_attributes(before, fields), _attributes(after, fields), strict=True)
    else:
        return None
    return next((found for pair in pairs if (found := find_changed(*pair)) is not None), None)


def _is_plain_kind(value: Any) -> bool:
    return (
        isinstance(value, _PLAIN)
        and not isinstance(value, Enum)
        and (type(value) is tuple or not isinstance(value, tuple))  # a named tuple has to come back as one
    )


def _attributes(value: Any, names: Iterable[str]) -> list[Any]:
    return [getattr(value, name, None) for name in names]


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


# langgraph-checkpoint stores errors as text, so that after a takeover a handler of the graph would find
# another type.


def dump_write(channel: str, value: Any) -> tuple[str, bytes]:
    """Type and bytes of what a task wrote to that channel. Raises ValueNotStorable and TypeError."""
    if channel == ERROR and isinstance(value, BaseException):
        return dump_error(value)
    # The result of a task is not written by the node that called it, where StoringNode would have checked it.
    return SERIALISER.dumps_typed(as_stored(value, "the result of a task") if channel == RETURN else value)


def dump_error(error: BaseException) -> tuple[str, bytes]:
    """Type and bytes of an error that a handler of the graph takes. It comes back with its type, arguments
    and attributes, those that cannot be stored as text. An error whose class is not found by its name comes
    back as text.
    """
    kind = type(error)
    attributes = {name: _or_text(each) for name, each in vars(error).items()}
    content = (kind.__module__, kind.__qualname__, [_or_text(each) for each in error.args], attributes)
    encoded = SERIALISER.dumps_typed(content)[1]
    if type(_read_error(encoded)) is not kind:
        return SERIALISER.dumps_typed(error)
    return "msgpack", ormsgpack.packb(ormsgpack.Ext(_ERROR, encoded))


def _or_text(value: Any) -> Any:
    try:
        return as_stored(value)
    except ValueNotStorable:
        return repr(value)


def _read_error(encoded: bytes) -> BaseException | None:
    module, qualname, arguments, attributes = SERIALISER.loads_typed(("msgpack", encoded))
    try:
        kind: Any = importlib.import_module(module)
        for name in qualname.split("."):
            kind = getattr(kind, name)
        if not issubclass(kind, BaseException):  # nothing else is made or called, whatever has that name
            return None
        error: BaseException = kind.__new__(kind, *arguments)
        if not isinstance(kind.__init__, FunctionType):
            error.__init__(*arguments)  # type: ignore[misc]
        vars(error).update(attributes)
    except Exception:
        return None
    return error
