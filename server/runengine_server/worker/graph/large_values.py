"""The large values of one execution of a run, which are stored once and not with everything that has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from hashlib import sha256
from typing import Any
from weakref import WeakValueDictionary

from pydantic import BaseModel

from runengine_server.repositories.write_behind import CutBytes

# A smaller value stays where it is: a row of its own, and 20 bytes for each reference, would cost more.
LARGE_BYTES = 2 << 10
_HASH_BYTES = 16
# Of a part that is looked for: how much is enough to find it, and how often it may be another part.
_HEAD_BYTES, _TRIES = 64, 8
# How many values that are not there may be looked for in the same bytes: all of these are read for each.
_MOST_MISSED = 8


@dataclass(slots=True, weakref_slot=True, eq=False)
class _Encoded:
    whole: bytes
    hash: bytes


@dataclass(slots=True)
class _Seen:
    """The value that had a name last; once it was cut out, what it is encoded as; and whether it stays where
    it is from now on.
    """

    value: Any
    encoded: _Encoded | None = None
    stays: bool = False


class LargeValues:
    """Cuts values out of what is stored. `encode` makes of a value the bytes that stand for it in that.

    A text is cut out at once. Any other value when it is the same object as the last time: one that changes
    each time, such as the messages of an agent, would be encoded twice, and save nothing. Values are looked
    for in the bytes: what is not found, because it was changed in place, stays there while it is the same
    object.
    """

    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self._encode = encode
        self._seen: dict[tuple[str, str], _Seen] = {}
        # By hash: a thousand sub-graphs side by side, which have the same document, have it here once.
        self._encoded: WeakValueDictionary[bytes, _Encoded] = WeakValueDictionary()
        # The hashes of those that are stored, or will be before anything that refers to them.
        self._stored: set[bytes] = set()

    def cut(self, namespace: str, encoded: bytes, values: Mapping[str, Any]) -> CutBytes:
        """`encoded` without the large ones of the values in it, which are there in that order.

        What is returned has to be queued for the database before anything else is cut, which may refer to
        its `new`.
        """
        if len(encoded) <= LARGE_BYTES:
            return CutBytes(encoded)
        rest: list[bytes] = []
        refs: list[bytes] = []
        new: dict[bytes, bytes] = {}
        end = length = missed = 0
        for name, value in values.items():
            seen = self._to_cut((namespace, name), value)
            if seen is None:
                continue
            if (place := self._place(seen, encoded, end)) < 0:
                seen.encoded, seen.stays = None, True
                missed += 1
                if missed == _MOST_MISSED:
                    break
                continue
            assert seen.encoded is not None
            rest.append(encoded[end:place])
            length += place - end
            refs.append(length.to_bytes(4, "big") + seen.encoded.hash)
            end = place + len(seen.encoded.whole)
            if seen.encoded.hash not in self._stored:
                self._stored.add(seen.encoded.hash)
                new[seen.encoded.hash] = seen.encoded.whole
        if not refs:
            return CutBytes(encoded)
        rest.append(encoded[end:])
        return CutBytes(b"".join(rest), b"".join(refs), new)

    def forget(self, namespaces: Iterable[str]) -> None:
        """Nothing will be cut any more in these."""
        dropped = set(namespaces)
        if dropped:
            self._seen = {key: seen for key, seen in self._seen.items() if key[0] not in dropped}

    def clear(self) -> None:
        """Nothing is stored any more of what was."""
        self._seen.clear()
        self._stored.clear()

    def sweep(self) -> bytes | None:
        """The hashes, one after the other, of those that will be referred to without being stored anew; None
        where nothing was stored. The others may be deleted where nothing that is stored refers to them.
        """
        if not self._stored:
            return None
        self._stored &= {seen.encoded.hash for seen in self._seen.values() if seen.encoded}
        return b"".join(self._stored)

    def _to_cut(self, key: tuple[str, str], value: Any) -> _Seen | None:
        seen = self._seen.get(key)
        if seen is not None and seen.value is value:
            return None if seen.stays else seen
        if least_size(value, LARGE_BYTES) > LARGE_BYTES:
            seen = self._seen[key] = _Seen(value)
            return seen if type(value) is str else None
        if seen is not None:
            del self._seen[key]
        return None

    def _place(self, seen: _Seen, whole: bytes, begin: int) -> int:
        if seen.encoded is None:
            try:
                encoded = self._encode(seen.value)
            except Exception:
                # What it is within may show it in a way of its own, as a serialiser of a model does.
                return -1
            hash_ = sha256(encoded).digest()[:_HASH_BYTES]
            seen.encoded = self._encoded.setdefault(hash_, _Encoded(encoded, hash_))
        return _find(seen.encoded.whole, whole, begin)


def _find(part: bytes, whole: bytes, begin: int) -> int:
    """As whole.find(part, begin), which would make a table of the part first: 17 µs for 14 KB, and this 3.
    Of bytes that repeat themselves it looks at the first few places alone.
    """
    head = part[:_HEAD_BYTES]
    for _ in range(_TRIES):
        begin = whole.find(head, begin)
        if begin < 0 or whole.startswith(part, begin):
            return begin
        begin += 1
    return -1


def least_size(value: Any, limit: int) -> int:
    """How many bytes of JSON the value takes at least. No more of it is looked at once that is above `limit`:
    to encode a large state with each step would take longer than many a node.
    """
    size, rest = 0, [value]
    while rest and size <= limit:
        each = rest.pop()
        kind = type(each)
        if kind is str:
            size += len(each) + 2
        elif kind is dict:
            size += 1 + 4 * len(each)  # `"":` and a comma or brace
            if size <= limit:
                rest.extend(each.values())
        elif kind is list or kind is tuple:
            size += 1 + len(each)
            if size <= limit:
                rest.extend(each)
        elif kind is bytes:
            size += len(each)
        elif kind is int or kind is float or kind is bool or each is None:
            size += 1
        elif isinstance(each, BaseModel) or (is_dataclass(each) and hasattr(each, "__dict__")):
            size += 1
            rest.extend(vars(each).values())
        else:
            size += 1
    return size
