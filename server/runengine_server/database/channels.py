"""The channels on which processes are notified."""

from __future__ import annotations

from uuid import UUID

# For workers. There is something to claim; a run was cancelled, with "run_id attempt" as the payload; runs
# are watched, with the id of the process that does, and theirs; and all runs of tenants are, see
# WatchedTenants.
QUEUED, CANCELLED, WATCHED = "runengine_queued", "runengine_cancelled", "runengine_watched"
TENANTS_WATCHED = "runengine_tenants_watched"

# For processes that watch: a call has changed runs of the tenant that is the payload.
CHANGED = "runengine_changed"

# The payload on QUEUED for runs that were handed back. For triggered runs it is empty.
HANDED_BACK = "handed back"


def channel_of_watcher(process_id: UUID) -> str:
    """Where a process that watches runs is told of them."""
    return f"runengine_progress_{process_id.hex}"
