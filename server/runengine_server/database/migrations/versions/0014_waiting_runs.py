"""A run may wait for somebody, and is held by nobody meanwhile."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """What a run waits for; a running run without a lease is one that waits. The new checks hold for all rows
    that the old one allows, and are validated by the next migration, without a lock that writers wait for.
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
