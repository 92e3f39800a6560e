"""Which runs of a tenant are asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from runengine_server.domain.run import RunStatus


@dataclass(frozen=True, slots=True)
class RunFilter:
    """The runs to which all of it applies. At most one of `workflow_name` and `campaign_id`, and one of
    `statuses`, `error_code` and `is_waiting` are given: for each such pair an index serves.
    `created_after` is the first instant that counts, `created_before` the first that does not any more.
    """

    statuses: tuple[RunStatus, ...] = ()
    workflow_name: str | None = None
    campaign_id: UUID | None = None
    error_code: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    is_waiting: bool = False

    def digest(self) -> bytes:
        """The same for filters that are the same, and no other."""
        given = (
            [status.value for status in sorted(self.statuses)],
            self.workflow_name,
            self.campaign_id,
            self.error_code,
            self.created_after,
            self.created_before,
            self.is_waiting,
        )
        return hashlib.sha256(repr(given).encode()).digest()
