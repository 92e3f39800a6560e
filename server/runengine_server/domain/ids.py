"""UUIDs as callers write them."""

from __future__ import annotations

import re
from uuid import UUID

from runengine_server.domain.errors import InvalidArgument, Violation

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)

NOT_A_UUID = "must be a UUID, such as 0198d6a2-7c1e-7b53-9f4e-3d2c1b0a9f8e"


def parse_uuid(text: str) -> UUID | None:
    """The id, or None for anything but the canonical form in either case (`UUID()` takes more)."""
    return UUID(text) if _UUID.fullmatch(text) else None


def require_uuid(text: str, field: str) -> UUID:
    """The id; InvalidArgument naming `field` when it is malformed."""
    if (parsed := parse_uuid(text)) is None:
        raise InvalidArgument([Violation(field, NOT_A_UUID)])
    return parsed
