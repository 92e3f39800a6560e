"""A worker has one lease for all its runs."""

from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    """Runs that are held keep leases of their own. Writers go on while the index is built. Each statement is
    a transaction, so all of it may come again after a crash.
    """
    with op.get_context().autocommit_block():
        # No index on expires_at, so that a heartbeat is a HOT update.
        op.execute("""
            CREATE TABLE IF NOT EXISTS public.worker_leases (
                worker_id     uuid PRIMARY KEY,
                expires_at    timestamptz NOT NULL,
                lease_seconds double precision NOT NULL
            ) WITH (fillfactor = 50)
        """)
        op.execute("ALTER TABLE public.runs ADD COLUMN IF NOT EXISTS worker_id uuid")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS public.runs_leases")
        op.execute("""
            CREATE INDEX CONCURRENTLY runs_leases ON public.runs (lease_expires_at, worker_id)
            WHERE lease_expires_at IS NOT NULL
        """)
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS public.runs_lease_ends")
