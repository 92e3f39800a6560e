"""The channels on which workers are notified."""

from __future__ import annotations

# Of something to claim; and, with "run_id attempt", of a run that was cancelled.
QUEUED, CANCELLED = "runengine_queued", "runengine_cancelled"

# The payload on QUEUED when it is runs that were handed back; those just triggered have none.
HANDED_BACK = "handed back"
