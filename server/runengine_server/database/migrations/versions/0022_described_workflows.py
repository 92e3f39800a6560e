"""Workers describe the workflows that they serve."""

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Workers of the version before describe nothing."""
    op.execute("""
        ALTER TABLE public.workflows ADD COLUMN description bytea, ADD COLUMN described_at timestamptz
    """)
