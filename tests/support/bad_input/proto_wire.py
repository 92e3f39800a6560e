"""Proto messages written byte by byte, so that they may hold what no library would write."""

from __future__ import annotations

import struct
from typing import TypeAlias

NO_KIND = object()  # a google.protobuf.Value in which nothing is set

Wire: TypeAlias = object  # None, bool, int, float, str, bytes (a string's, UTF-8 or not), list, dict, NO_KIND


def varint(number: int) -> bytes:
    """Negative numbers take ten bytes, as in int32 and int64."""
    number &= 2**64 - 1
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def text(number: int, content: str | bytes) -> bytes:
    """Field `number` with a length: a string or a message."""
    raw = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def a_struct(members: dict[str | bytes, Wire]) -> bytes:
    return b"".join(text(1, text(1, key) + text(2, a_value(value))) for key, value in members.items())


def a_value(value: Wire) -> bytes:
    if value is NO_KIND:
        return b""
    if value is None:
        return integer(1, 0)
    if isinstance(value, bool):
        return integer(4, value)
    if isinstance(value, int | float):
        return b"\x11" + struct.pack("<d", value)
    if isinstance(value, str | bytes):
        return text(3, value)
    if isinstance(value, dict):
        return text(5, a_struct(value))
    if isinstance(value, list):
        return text(6, b"".join(text(1, a_value(item)) for item in value))
    raise TypeError(value)


def nested(depth: int, number: int = 5) -> bytes:
    """A Struct so many objects deep; with `number` 6, arrays within one object."""
    inner = b""
    for _ in range(depth - 1):
        if number == 5:
            inner = text(1, text(1, "a") + text(2, text(5, inner)))
        else:
            inner = text(6, text(1, inner)) if inner else text(6, b"")
    return inner if number == 5 else text(1, text(1, "a") + text(2, inner))


def trigger(payload: Wire = None, context: Wire = None, workflow: str | bytes = "rejecting") -> bytes:
    """A TriggerRunRequest. A payload or a context in bytes goes in as it is."""
    message = text(1, workflow)
    for number, given in ((2, payload), (3, context)):
        if given is not None:
            message += text(number, a_struct(given) if isinstance(given, dict) else given)  # type: ignore[arg-type]
    return message
