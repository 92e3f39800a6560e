"""What every transition of a run does besides moving it: it is logged, and it is counted.

Both are CTEs on the rows that the transition moved, so they share its statement and transaction. Of
those rows they need tenant_id, id, campaign_id, attempt, updated_at, error and trace_id.
"""

from __future__ import annotations

from runengine_server.domain.run import RunStatus

# What is notified when there is something to claim, and, with "run_id attempt", when a run was cancelled.
QUEUED, CANCELLED = "runengine_queued", "runengine_cancelled"

# When a run or a step that ends now has ended: the clock may have gone back since it began.
ENDED = "greatest(public.now_ms(), started_at)"

# The payload on QUEUED when it is runs that were handed back; those just triggered have none.
HANDED_BACK = "handed back"


def logged(
    moved: str, source: str | None, target: str, actor: str, reason: str, trace: str = "trace_id"
) -> str:
    """A CTE that adds to run_events; `actor`, `reason` and `trace` are SQL expressions."""
    from_status = f"'{source}'" if source else "NULL"
    return f"""logged AS (
    INSERT INTO public.run_events (tenant_id, run_id, at, from_status, to_status, attempt, actor, reason,
        trace_id, error)
    SELECT tenant_id, id, updated_at, {from_status}, '{target}', attempt, {actor}, {reason}, {trace}, error
    FROM {moved}
)"""


def counted(moved: str, source: RunStatus | None, target: RunStatus) -> str:
    """A CTE that moves the counts of the runs' campaigns. Sorted, so that two statements that move
    many runs lock the slots in the same order and cannot deadlock.
    """
    columns, amounts = [target.value], ["count(*)"]
    if source is not None:
        columns, amounts = [source.value, *columns], ["-count(*)", *amounts]
    updates = ", ".join(f"{column} = counts.{column} + excluded.{column}" for column in columns)
    return f"""counted AS (
    INSERT INTO public.campaign_run_counts AS counts (tenant_id, campaign_id, slot, {", ".join(columns)})
    SELECT tenant_id, campaign_id, get_byte(uuid_send(id), 15) % 16 AS slot, {", ".join(amounts)}
    FROM {moved} WHERE campaign_id IS NOT NULL
    GROUP BY tenant_id, campaign_id, slot ORDER BY tenant_id, campaign_id, slot
    ON CONFLICT (tenant_id, campaign_id, slot) DO UPDATE SET {updates}
)"""
