"""The indexes that claims use have the runs that are held, and those that have waited too long."""

from alembic import op

revision = "0015"
down_revision = "0014"

# (name, condition, columns, the index that it replaces), for claim_queued, where the tenant has a limit, and
# claim_expired. The first two have no condition on the status, for which PostgreSQL would take one of them in
# place of the primary key.
INDEXES = (
    ("runs_held", "lease_expires_at IS NOT NULL", "tenant_id, id", "runs_running"),
    ("runs_lease_ends", "lease_expires_at IS NOT NULL", "lease_expires_at", "runs_leased"),
    (
        "runs_waiting",
        "waiting_expires_at IS NOT NULL AND lease_expires_at IS NULL AND status = 'running'",
        "waiting_expires_at",
        None,
    ),
)


def upgrade() -> None:
    """Writers go on meanwhile. Each statement is a transaction, so all of it may come again after a crash."""
    with op.get_context().autocommit_block():
        for constraint in ("runs_lease_check", "runs_waiting_check"):
            op.execute(f"ALTER TABLE public.runs VALIDATE CONSTRAINT {constraint}")
        for name, condition, columns, replaced in INDEXES:
            # One that was not finished is there, and invalid.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS public.{name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON public.runs ({columns}) WHERE {condition}")
            if replaced:
                op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS public.{replaced}")
