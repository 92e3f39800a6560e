"""The channels on which workers are notified."""

from __future__ import annotations

# There is something to claim; and a run was cancelled, with "run_id attempt" as the payload.
QUEUED, CANCELLED = "runengine_queued", "runengine_cancelled"

# The payload on QUEUED for runs that were handed back. For triggered runs it is empty.
HANDED_BACK = "handed back"
