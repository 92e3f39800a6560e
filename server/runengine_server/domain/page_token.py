"""Where the next page of a list begins, or a stream goes on, as an opaque string that the caller sends back
unchanged.

A token is its kind, the place, and a hash of the query that it belongs to: one of another tenant, campaign or
filter is refused, not misread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import re
import struct
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum, unique
from typing import Any
from uuid import UUID

from runengine_server.domain.changes import Position, Scope
from runengine_server.domain.run import RunStatus


@unique
class _Kind(IntEnum):
    """The first byte of a token. Servers of two versions read each other's, so a number stays."""

    RUNS_OF_CAMPAIGN = 2
    ARTIFACTS = 3
    EVENTS = 4
    FOUND_RUNS = 5
    NAMES = 6
    STEPS = 7
    POSITIONS = 8
    ITEMS = 9
    DELIVERIES = 10
    OPERATIONS = 11


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Kind, microseconds since the epoch and id of the last one, and the hash.
_OF_RUNS = struct.Struct(">Bq16s8s")
# Kind, id, hash.
_OF_IDS = struct.Struct(">B16s8s")
# Kind, number, hash. Of a position, the two snapshots follow, compressed.
_OF_NUMBERS = struct.Struct(">Bq8s")

_MOST_OF_SNAPSHOTS = 16 * 1024
_SNAPSHOT = re.compile("[0-9]{1,19}:[0-9]{1,19}:([0-9]{1,19}(,[0-9]{1,19})*)?")


def encode(
    last: tuple[datetime, UUID], tenant_id: str, campaign_id: UUID, statuses: Sequence[RunStatus]
) -> str:
    """The token of the page after the one that ends with the run of that (created_at, id)."""
    return _encode_run(_Kind.RUNS_OF_CAMPAIGN, last, _binding(tenant_id, campaign_id, statuses))


def decode(
    token: str, tenant_id: str, campaign_id: UUID, statuses: Sequence[RunStatus]
) -> tuple[datetime, UUID] | None:
    """(created_at, id) of the run before the page; None for a token that is not of this query."""
    return _decode_run(_Kind.RUNS_OF_CAMPAIGN, token, _binding(tenant_id, campaign_id, statuses))


def encode_found(last: tuple[datetime, UUID], tenant_id: str, query: bytes) -> str:
    """The token of the page after the one that ends with the run of that (created_at, id); `query` stands for
    what else was asked for.
    """
    return _encode_run(_Kind.FOUND_RUNS, last, _binding_of_query(tenant_id, query))


def decode_found(token: str, tenant_id: str, query: bytes) -> tuple[datetime, UUID] | None:
    """(created_at, id) of the run before the page; None for a token that is not of this query."""
    return _decode_run(_Kind.FOUND_RUNS, token, _binding_of_query(tenant_id, query))


def encode_artifact(last: UUID, tenant_id: str, run_id: UUID) -> str:
    """The token of the page after the one that ends with that artifact of the run."""
    return _text(_OF_IDS.pack(_Kind.ARTIFACTS, last.bytes, _binding(tenant_id, run_id, ())))


def decode_artifact(token: str, tenant_id: str, run_id: UUID) -> UUID | None:
    """The id of the artifact before the page; None for a token that is not of this run."""
    found = _unpack(_OF_IDS, _Kind.ARTIFACTS, token, _binding(tenant_id, run_id, ()))
    return None if found is None else UUID(bytes=found[0])


def encode_operation(last: UUID, tenant_id: str) -> str:
    """The token of the page after the one that ends with that bulk operation of the tenant."""
    return _text(_OF_IDS.pack(_Kind.OPERATIONS, last.bytes, _binding_of_query(tenant_id, b"")))


def decode_operation(token: str, tenant_id: str) -> UUID | None:
    """The id of the operation before the page; None for a token that is not of this tenant."""
    found = _unpack(_OF_IDS, _Kind.OPERATIONS, token, _binding_of_query(tenant_id, b""))
    return None if found is None else UUID(bytes=found[0])


def encode_item(last: int, tenant_id: str, operation_id: UUID, outcomes: Sequence[str]) -> str:
    """The token of the page after the run of that place in the operation, of those with these outcomes."""
    return _text(_OF_NUMBERS.pack(_Kind.ITEMS, last, _binding_of_words(tenant_id, operation_id, outcomes)))


def decode_item(token: str, tenant_id: str, operation_id: UUID, outcomes: Sequence[str]) -> int | None:
    """The place of the run before the page; None for a token that is not of this query."""
    return _decode_number(_Kind.ITEMS, token, _binding_of_words(tenant_id, operation_id, outcomes))


def encode_delivery(last: int, tenant_id: str, endpoint_id: UUID, statuses: Sequence[str]) -> str:
    """The token of the page after the delivery of the transition of that number, in one of these statuses."""
    binding = _binding_of_words(tenant_id, endpoint_id, statuses)
    return _text(_OF_NUMBERS.pack(_Kind.DELIVERIES, last, binding))


def decode_delivery(token: str, tenant_id: str, endpoint_id: UUID, statuses: Sequence[str]) -> int | None:
    """The number of the transition before the page; None for a token that is not of this query."""
    return _decode_number(_Kind.DELIVERIES, token, _binding_of_words(tenant_id, endpoint_id, statuses))


def encode_event(last: int, tenant_id: str, run_id: UUID) -> str:
    """The token that goes on after that transition of the run."""
    return _text(_OF_NUMBERS.pack(_Kind.EVENTS, last, _binding(tenant_id, run_id, ())))


def decode_event(token: str, tenant_id: str, run_id: UUID) -> int | None:
    """The number of the last transition; None for a token that is not of this run."""
    return _decode_number(_Kind.EVENTS, token, _binding(tenant_id, run_id, ()))


def encode_step(last: int, tenant_id: str, run_id: UUID) -> str:
    """The token of the page after the one that ends with the step of that place in the run."""
    return _text(_OF_NUMBERS.pack(_Kind.STEPS, last, _binding(tenant_id, run_id, ())))


def decode_step(token: str, tenant_id: str, run_id: UUID) -> int | None:
    """The place of the step before the page; None for a token that is not of this run."""
    return _decode_number(_Kind.STEPS, token, _binding(tenant_id, run_id, ()))


def encode_position(position: Position, scope: Scope) -> str:
    """The token of a stream that goes on after what is known at that position."""
    head = _OF_NUMBERS.pack(_Kind.POSITIONS, position.last, _binding_of_scope(scope))
    snapshots = " ".join([position.since or "", position.until or ""])
    return _text(head + zlib.compress(snapshots.encode(), wbits=-9))


def decode_position(token: str, scope: Scope) -> Position | None:
    """The position; None for a token that is not of this stream."""
    try:
        packed = _bytes(token)
        kind, last, binding = _OF_NUMBERS.unpack_from(packed)
        inflater = zlib.decompressobj(wbits=-9)
        snapshots = inflater.decompress(packed[_OF_NUMBERS.size :], _MOST_OF_SNAPSHOTS).decode("ascii")
        since, until = snapshots.split(" ")
        is_whole = inflater.eof and all(_is_snapshot(each) for each in (since, until) if each)
    except (binascii.Error, ValueError, struct.error, zlib.error):
        return None
    if kind != _Kind.POSITIONS or binding != _binding_of_scope(scope) or not is_whole or last < 0:
        return None
    if not since and scope.run_id is None:
        return None
    return Position(since or None, until or None, last)


def encode_name(last: str) -> str:
    """The token of the page after the one that ends with the thing of that name, which is everybody's."""
    return _text(bytes([_Kind.NAMES]) + last.encode())


def decode_name(token: str) -> str | None:
    """The name before the page; None for what is no such token."""
    try:
        packed = _bytes(token)
        name = packed[1:].decode()
    except (binascii.Error, ValueError):
        return None
    return name if packed[:1] == bytes([_Kind.NAMES]) and "\0" not in name else None


def _encode_run(kind: _Kind, last: tuple[datetime, UUID], binding: bytes) -> str:
    created_at, run_id = last
    microseconds = (created_at - _EPOCH) // timedelta(microseconds=1)
    return _text(_OF_RUNS.pack(kind, microseconds, run_id.bytes, binding))


def _decode_run(kind: _Kind, token: str, binding: bytes) -> tuple[datetime, UUID] | None:
    found = _unpack(_OF_RUNS, kind, token, binding)
    if found is None:
        return None
    microseconds, run_id = found
    try:
        return _EPOCH + timedelta(microseconds=microseconds), UUID(bytes=run_id)
    except OverflowError:
        return None


def _decode_number(kind: _Kind, token: str, binding: bytes) -> int | None:
    found = _unpack(_OF_NUMBERS, kind, token, binding)
    return None if found is None else int(found[0])


def _unpack(layout: struct.Struct, kind: _Kind, token: str, binding: bytes) -> Sequence[Any] | None:
    """The place in a token of that kind; None for one that is not of the query that the hash stands for."""
    try:
        found, *place, bound = layout.unpack(_bytes(token))
    except (binascii.Error, ValueError, struct.error):
        return None
    return place if (found, bound) == (kind, binding) else None


def _text(packed: bytes) -> str:
    return base64.urlsafe_b64encode(packed).decode()


def _bytes(token: str) -> bytes:
    return base64.b64decode(token, altchars="-_", validate=True)


def _binding(tenant_id: str, campaign_id: UUID, statuses: Sequence[RunStatus]) -> bytes:
    query = "\0".join([tenant_id, *sorted(set(statuses))])
    return hashlib.sha256(campaign_id.bytes + query.encode()).digest()[:8]


def _binding_of_query(tenant_id: str, query: bytes) -> bytes:
    return hashlib.sha256(query + tenant_id.encode()).digest()[:8]


def _binding_of_words(tenant_id: str, of: UUID, words: Sequence[str]) -> bytes:
    return _binding_of_query(tenant_id, of.bytes + " ".join(sorted(set(words))).encode())


def _binding_of_scope(scope: Scope) -> bytes:
    return hashlib.sha256(f"{scope.run_id}\0{scope.campaign_id}\0{scope.tenant_id}".encode()).digest()[:8]


def _is_snapshot(text: str) -> bool:
    # As PostgreSQL takes them: it reads those of several callers in one statement, which must not fail.
    if not _SNAPSHOT.fullmatch(text):
        return False
    first, end, between = text.split(":")
    numbers = [int(first), *(int(each) for each in between.split(",") if each), int(end)]
    return numbers[0] > 0 and numbers[-1] < 2**63 and all(a <= b for a, b in itertools.pairwise(numbers))
