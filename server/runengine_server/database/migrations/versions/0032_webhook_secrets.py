"""The secrets of webhooks can be rotated."""

from alembic import op

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    """The secrets from before a rotation, and until when each of them signs."""
    op.execute("""
        ALTER TABLE public.webhook_endpoints
            ADD COLUMN old_secrets bytea[] NOT NULL DEFAULT '{}',
            ADD COLUMN old_until timestamptz[] NOT NULL DEFAULT '{}'
    """)
