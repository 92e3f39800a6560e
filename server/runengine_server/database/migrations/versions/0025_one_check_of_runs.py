"""What the state of a run may be is one CHECK instead of four."""

from alembic import op

revision = "0025"
down_revision = "0024"

_CHECK = """CASE status
    WHEN 'running' THEN error IS NULL AND (lease_expires_at IS NOT NULL OR encoded_waiting IS NOT NULL)
    WHEN 'failed' THEN error IS NOT NULL AND lease_expires_at IS NULL
    WHEN 'queued' THEN error IS NULL AND lease_expires_at IS NULL
    WHEN 'completed' THEN error IS NULL AND lease_expires_at IS NULL
    WHEN 'cancelled' THEN error IS NULL AND lease_expires_at IS NULL
    ELSE false END"""

_BEFORE = ("runs_status_check", "runs_check", "runs_lease_check", "runs_waiting_check")


def upgrade() -> None:
    """Writers go on while PostgreSQL looks at all runs. All of it may come again after a crash."""
    op.execute("ALTER TABLE public.runs DROP CONSTRAINT IF EXISTS runs_state_check")
    op.execute(f"ALTER TABLE public.runs ADD CONSTRAINT runs_state_check CHECK ({_CHECK}) NOT VALID")
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE public.runs VALIDATE CONSTRAINT runs_state_check")
    for name in _BEFORE:
        op.execute(f"ALTER TABLE public.runs DROP CONSTRAINT IF EXISTS {name}")
