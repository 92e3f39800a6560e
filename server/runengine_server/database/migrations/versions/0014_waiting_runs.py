"""A run may wait for somebody, and is held by nobody meanwhile."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """What a run waits for; a running run without a lease is one that waits. The new checks hold for all rows
    that the old one allows, so they are validated without a lock that writers would wait for.
    """
    op.execute("""
        ALTER TABLE public.runs
            ADD COLUMN encoded_waiting bytea,
            ADD COLUMN waiting_since timestamptz,
            ADD COLUMN waiting_expires_at timestamptz,
            ADD COLUMN waited_seconds float NOT NULL DEFAULT 0,
            ADD COLUMN resume_values bytea,
            DROP CONSTRAINT runs_check1,
            ADD CONSTRAINT runs_lease_check
                CHECK (lease_expires_at IS NULL OR status = 'running') NOT VALID,
            ADD CONSTRAINT runs_waiting_check CHECK (status <> 'running' OR lease_expires_at IS NOT NULL
                OR encoded_waiting IS NOT NULL) NOT VALID
    """)
    with op.get_context().autocommit_block():
        for constraint in ("runs_lease_check", "runs_waiting_check"):
            op.execute(f"ALTER TABLE public.runs VALIDATE CONSTRAINT {constraint}")
        # claim_queued, where the tenant has a limit, and claim_expired. Without a condition on the status,
        # for which PostgreSQL would take one of them in place of the primary key.
        for name, replaced, columns in (
            ("runs_held", "runs_running", "tenant_id, id"),
            ("runs_lease_ends", "runs_leased", "lease_expires_at"),
        ):
            op.execute(f"""
                CREATE INDEX CONCURRENTLY {name} ON public.runs ({columns})
                WHERE lease_expires_at IS NOT NULL
            """)
            op.execute(f"DROP INDEX CONCURRENTLY public.{replaced}")
        # claim_expired.
        op.execute("""
            CREATE INDEX CONCURRENTLY runs_waiting ON public.runs (waiting_expires_at)
            WHERE waiting_expires_at IS NOT NULL AND lease_expires_at IS NULL AND status = 'running'
        """)
