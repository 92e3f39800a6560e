"""The arguments of the client's methods, as requests and metadata have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.rest_json import words_of
from runengine.v1.run_pb2 import RunStatus

from runengine_client.structs import to_struct

Id = str | UUID

Status: TypeAlias = str | RunStatus.ValueType
"""A status word such as `failed`, or a value of RunStatus."""


def struct_or_none(value: Mapping[str, Any] | None, name: str) -> Struct | None:
    """The object as a Struct. Raises ValueError for what is not JSON."""
    return None if value is None else to_struct(value, name)


def key_metadata(idempotency_key: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata of a call with this idempotency key."""
    if idempotency_key is None:
        return ()
    return (("idempotency-key", header_value(idempotency_key, "The idempotency key")),)


def header_value(value: str, name: str) -> str:
    """The value, where it can be one. Raises ValueError, with the name in it."""
    # gRPC's own refusal names neither the header nor what is wrong with it.
    if not (value and value.isascii() and value.isprintable()):
        raise ValueError(f"{name} must be printable ASCII, and not empty.")
    return value


def statuses_of(status: Status | Iterable[Status]) -> list[RunStatus.ValueType]:
    """One status or several as values of RunStatus. Raises ValueError for another word."""
    return [_status(each) for each in ([status] if isinstance(status, str | int) else status)]


def _status(status: Status) -> RunStatus.ValueType:
    if not isinstance(status, str):
        return status
    words = {word: RunStatus.ValueType(number) for number, word in words_of(RunStatus.DESCRIPTOR).items()}
    del words["unspecified"]
    if status not in words:
        raise ValueError(f"No run has the status {status!r}; there are {', '.join(words)}.")
    return words[status]


def timestamp_or_none(at: datetime | None, name: str) -> Timestamp | None:
    """The time as a Timestamp. Raises ValueError for one without a time zone."""
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError(f"{name} has no time zone.")
    timestamp = Timestamp()
    timestamp.FromDatetime(at)
    return timestamp
