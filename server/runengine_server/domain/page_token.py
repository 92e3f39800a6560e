"""Where the next page of a list begins, or a stream goes on, as an opaque string that the caller sends back
unchanged.
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
from uuid import UUID

from runengine_server.domain.changes import Position, Scope
from runengine_server.domain.run import RunStatus

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Version, microseconds since the epoch, id, and a hash of the query that it belongs to: a token of
# another tenant, campaign or filter is refused, not misread.
_LAYOUT = struct.Struct(">Bq16s8s")
_VERSION = 2

# The same for runs that a filter takes.
_VERSION_OF_FOUND = 5

# And a name in a list of names.
_VERSION_OF_NAMES = 6

# The same for the artifacts of a run: version, id, and a hash of tenant and run.
_LAYOUT_OF_ARTIFACTS = struct.Struct(">B16s8s")
_VERSION_OF_ARTIFACTS = 3

# For the bulk operations of a tenant, with a hash of that; and for the runs of one of them.
_VERSION_OF_OPERATIONS, _VERSION_OF_ITEMS = 8, 9

# For the deliveries to an endpoint of webhooks, as for the runs of a bulk operation.
_VERSION_OF_DELIVERIES = 10

# And for its transitions and its steps: version, number of the last one, and that hash.
_LAYOUT_OF_NUMBERS = struct.Struct(">Bq8s")
_VERSION_OF_EVENTS, _VERSION_OF_STEPS = 4, 7

# And for a position in what has become of runs: version, number of the last transition, a hash of whose runs
# they are; then the two snapshots, compressed.
_HEAD_OF_POSITIONS = struct.Struct(">Bq8s")
_VERSION_OF_POSITIONS = 8
_MOST_OF_SNAPSHOTS = 16 * 1024
_SNAPSHOT = re.compile("[0-9]{1,19}:[0-9]{1,19}:([0-9]{1,19}(,[0-9]{1,19})*)?")


def _binding(tenant_id: str, campaign_id: UUID, statuses: Sequence[RunStatus]) -> bytes:
    query = "\0".join([tenant_id, *sorted(set(statuses))])
    return hashlib.sha256(campaign_id.bytes + query.encode()).digest()[:8]


def encode(
    last: tuple[datetime, UUID], tenant_id: str, campaign_id: UUID, statuses: Sequence[RunStatus]
) -> str:
    """The token of the page after the one that ends with the run of that (created_at, id)."""
    created_at, run_id = last
    microseconds = (created_at - _EPOCH) // timedelta(microseconds=1)
    binding = _binding(tenant_id, campaign_id, statuses)
    packed = _LAYOUT.pack(_VERSION, microseconds, run_id.bytes, binding)
    return base64.urlsafe_b64encode(packed).decode()


def decode(
    token: str, tenant_id: str, campaign_id: UUID, statuses: Sequence[RunStatus]
) -> tuple[datetime, UUID] | None:
    """(created_at, id) of the run before the page; None for a token that is not of this query."""
    found = _decode_place(token)
    if found is None or found[0] != _VERSION or found[3] != _binding(tenant_id, campaign_id, statuses):
        return None
    return found[1], found[2]


def encode_found(last: tuple[datetime, UUID], tenant_id: str, query: bytes) -> str:
    """The token of the page after the one that ends with the run of that (created_at, id); `query` stands for
    what else was asked for.
    """
    microseconds = (last[0] - _EPOCH) // timedelta(microseconds=1)
    binding = _binding_of_query(tenant_id, query)
    packed = _LAYOUT.pack(_VERSION_OF_FOUND, microseconds, last[1].bytes, binding)
    return base64.urlsafe_b64encode(packed).decode()


def decode_found(token: str, tenant_id: str, query: bytes) -> tuple[datetime, UUID] | None:
    """(created_at, id) of the run before the page; None for a token that is not of this query."""
    found = _decode_place(token)
    if found is None or found[0] != _VERSION_OF_FOUND or found[3] != _binding_of_query(tenant_id, query):
        return None
    return found[1], found[2]


def _binding_of_query(tenant_id: str, query: bytes) -> bytes:
    return hashlib.sha256(query + tenant_id.encode()).digest()[:8]


def _decode_place(token: str) -> tuple[int, datetime, UUID, bytes] | None:
    try:
        packed = base64.b64decode(token, altchars="-_", validate=True)
        version, microseconds, run_id, binding = _LAYOUT.unpack(packed)
        created_at = _EPOCH + timedelta(microseconds=microseconds)
    except (binascii.Error, ValueError, struct.error, OverflowError):
        return None
    return version, created_at, UUID(bytes=run_id), binding


def encode_artifact(last: UUID, tenant_id: str, run_id: UUID) -> str:
    """The token of the page after the one that ends with that artifact of the run."""
    packed = _LAYOUT_OF_ARTIFACTS.pack(_VERSION_OF_ARTIFACTS, last.bytes, _binding(tenant_id, run_id, ()))
    return base64.urlsafe_b64encode(packed).decode()


def decode_artifact(token: str, tenant_id: str, run_id: UUID) -> UUID | None:
    """The id of the artifact before the page; None for a token that is not of this run."""
    try:
        packed = base64.b64decode(token, altchars="-_", validate=True)
        version, last, binding = _LAYOUT_OF_ARTIFACTS.unpack(packed)
    except (binascii.Error, ValueError, struct.error):
        return None
    if version != _VERSION_OF_ARTIFACTS or binding != _binding(tenant_id, run_id, ()):
        return None
    return UUID(bytes=last)


def encode_operation(last: UUID, tenant_id: str) -> str:
    """The token of the page after the one that ends with that bulk operation of the tenant."""
    packed = _LAYOUT_OF_ARTIFACTS.pack(_VERSION_OF_OPERATIONS, last.bytes, _binding_of_query(tenant_id, b""))
    return base64.urlsafe_b64encode(packed).decode()


def decode_operation(token: str, tenant_id: str) -> UUID | None:
    """The id of the operation before the page; None for a token that is not of this tenant."""
    try:
        packed = base64.b64decode(token, altchars="-_", validate=True)
        version, last, binding = _LAYOUT_OF_ARTIFACTS.unpack(packed)
    except (binascii.Error, ValueError, struct.error):
        return None
    if version != _VERSION_OF_OPERATIONS or binding != _binding_of_query(tenant_id, b""):
        return None
    return UUID(bytes=last)


def encode_item(last: int, tenant_id: str, operation_id: UUID, outcomes: Sequence[str]) -> str:
    """The token of the page after the run of that place in the operation, of those with these outcomes."""
    binding = _binding_of_items(tenant_id, operation_id, outcomes)
    return base64.urlsafe_b64encode(_LAYOUT_OF_NUMBERS.pack(_VERSION_OF_ITEMS, last, binding)).decode()


def decode_item(token: str, tenant_id: str, operation_id: UUID, outcomes: Sequence[str]) -> int | None:
    """The place of the run before the page; None for a token that is not of this query."""
    return _decode_number_of(_VERSION_OF_ITEMS, token, _binding_of_items(tenant_id, operation_id, outcomes))


def encode_delivery(last: int, tenant_id: str, endpoint_id: UUID, statuses: Sequence[str]) -> str:
    """The token of the page after the delivery of the transition of that number, in one of these statuses."""
    binding = _binding_of_items(tenant_id, endpoint_id, statuses)
    return base64.urlsafe_b64encode(_LAYOUT_OF_NUMBERS.pack(_VERSION_OF_DELIVERIES, last, binding)).decode()


def decode_delivery(token: str, tenant_id: str, endpoint_id: UUID, statuses: Sequence[str]) -> int | None:
    """The number of the transition before the page; None for a token that is not of this query."""
    binding = _binding_of_items(tenant_id, endpoint_id, statuses)
    return _decode_number_of(_VERSION_OF_DELIVERIES, token, binding)


def _binding_of_items(tenant_id: str, operation_id: UUID, outcomes: Sequence[str]) -> bytes:
    return _binding_of_query(tenant_id, operation_id.bytes + " ".join(sorted(set(outcomes))).encode())


def encode_event(last: int, tenant_id: str, run_id: UUID) -> str:
    """The token that goes on after that transition of the run."""
    return _encode_number(_VERSION_OF_EVENTS, last, tenant_id, run_id)


def decode_event(token: str, tenant_id: str, run_id: UUID) -> int | None:
    """The number of the last transition; None for a token that is not of this run."""
    return _decode_number(_VERSION_OF_EVENTS, token, tenant_id, run_id)


def encode_step(last: int, tenant_id: str, run_id: UUID) -> str:
    """The token of the page after the one that ends with the step of that place in the run."""
    return _encode_number(_VERSION_OF_STEPS, last, tenant_id, run_id)


def decode_step(token: str, tenant_id: str, run_id: UUID) -> int | None:
    """The place of the step before the page; None for a token that is not of this run."""
    return _decode_number(_VERSION_OF_STEPS, token, tenant_id, run_id)


def _encode_number(version: int, number: int, tenant_id: str, run_id: UUID) -> str:
    packed = _LAYOUT_OF_NUMBERS.pack(version, number, _binding(tenant_id, run_id, ()))
    return base64.urlsafe_b64encode(packed).decode()


def _decode_number(expected: int, token: str, tenant_id: str, run_id: UUID) -> int | None:
    return _decode_number_of(expected, token, _binding(tenant_id, run_id, ()))


def _decode_number_of(expected: int, token: str, expected_binding: bytes) -> int | None:
    try:
        packed = base64.b64decode(token, altchars="-_", validate=True)
        version, number, binding = _LAYOUT_OF_NUMBERS.unpack(packed)
    except (binascii.Error, ValueError, struct.error):
        return None
    if version != expected or binding != expected_binding:
        return None
    return int(number)


def encode_position(position: Position, scope: Scope) -> str:
    """The token of a stream that goes on after what is known at that position."""
    head = _HEAD_OF_POSITIONS.pack(_VERSION_OF_POSITIONS, position.last, _binding_of_scope(scope))
    snapshots = " ".join([position.since or "", position.until or ""])
    return base64.urlsafe_b64encode(head + zlib.compress(snapshots.encode(), wbits=-9)).decode()


def decode_position(token: str, scope: Scope) -> Position | None:
    """The position; None for a token that is not of this stream."""
    try:
        packed = base64.b64decode(token, altchars="-_", validate=True)
        version, last, binding = _HEAD_OF_POSITIONS.unpack_from(packed)
        inflater = zlib.decompressobj(wbits=-9)
        snapshots = inflater.decompress(packed[_HEAD_OF_POSITIONS.size :], _MOST_OF_SNAPSHOTS).decode("ascii")
        since, until = snapshots.split(" ")
        is_whole = inflater.eof and all(_is_snapshot(each) for each in (since, until) if each)
    except (binascii.Error, ValueError, struct.error, zlib.error):
        return None
    if version != _VERSION_OF_POSITIONS or binding != _binding_of_scope(scope) or not is_whole or last < 0:
        return None
    if not since and scope.run_id is None:
        return None
    return Position(since or None, until or None, last)


def _is_snapshot(text: str) -> bool:
    # As PostgreSQL takes them: it reads those of several callers in one statement, which must not fail.
    if not _SNAPSHOT.fullmatch(text):
        return False
    first, end, between = text.split(":")
    numbers = [int(first), *(int(each) for each in between.split(",") if each), int(end)]
    return numbers[0] > 0 and numbers[-1] < 2**63 and all(a <= b for a, b in itertools.pairwise(numbers))


def _binding_of_scope(scope: Scope) -> bytes:
    return hashlib.sha256(f"{scope.run_id}\0{scope.campaign_id}\0{scope.tenant_id}".encode()).digest()[:8]


def encode_name(last: str) -> str:
    """The token of the page after the one that ends with the thing of that name, which is everybody's."""
    return base64.urlsafe_b64encode(bytes([_VERSION_OF_NAMES]) + last.encode()).decode()


def decode_name(token: str) -> str | None:
    """The name before the page; None for what is no such token."""
    try:
        packed = base64.b64decode(token, altchars="-_", validate=True)
        name = packed[1:].decode()
    except (binascii.Error, ValueError):
        return None
    return name if packed[:1] == bytes([_VERSION_OF_NAMES]) and "\0" not in name else None
