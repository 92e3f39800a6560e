"""Who calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """`tenant_id` is the active organisation of the token, `subject` its user or machine."""

    tenant_id: str
    subject: str


@dataclass(frozen=True, slots=True)
class Actor:
    """Who moves a run, for its log: a user, a machine or a worker, and the trace that it was in (32
    hexadecimal digits, of the call's W3C traceparent).
    """

    name: str
    trace_id: str | None
