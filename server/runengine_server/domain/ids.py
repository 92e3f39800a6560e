"""UUIDs as callers write them."""

from __future__ import annotations

import re
from uuid import UUID

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)

NOT_A_UUID = "must be a UUID, such as 0198d6a2-7c1e-7b53-9f4e-3d2c1b0a9f8e"


def is_uuid(text: str) -> bool:
    """Whether it is the canonical form, in either case (`UUID()` takes more)."""
    return _UUID.fullmatch(text) is not None


def parse_uuid(text: str) -> UUID | None:
    """The id, or None where it is none."""
    return UUID(text) if is_uuid(text) else None
