"""Who makes a call."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Caller:
    """`tenant_id` is the active organisation of the token, `subject` its user or machine; `impersonator`
    is who acts as that user, None when the user does; `expires` is until when the token is good, in seconds
    since the epoch.
    """

    tenant_id: str
    subject: str
    impersonator: str | None = None
    expires: float = field(default=math.inf, compare=False)

    @property
    def actor(self) -> str:
        """For the log of a run: `user_b`, or `user_b by user_a` when user_a acts as user_b."""
        return self.subject if self.impersonator is None else f"{self.subject}{_BY}{self.impersonator}"


# No subject of a token has a space in it.
_BY = " by "


def split_actor(actor: str) -> tuple[str, str | None]:
    """The subject or worker, and who acts as it, of an actor that `Caller.actor` has made."""
    subject, _, impersonator = actor.partition(_BY)
    return subject, impersonator or None


@dataclass(frozen=True, slots=True)
class Actor:
    """Who moves a run, for its log: `Caller.actor` or a worker, and the trace that it was in (32
    hexadecimal digits, of the call's W3C traceparent).
    """

    name: str
    trace_id: str | None
