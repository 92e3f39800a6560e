"""Who calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """`tenant_id` is the active organisation of the token, `subject` its user."""

    tenant_id: str
    subject: str
