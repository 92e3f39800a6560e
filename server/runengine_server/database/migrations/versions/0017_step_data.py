"""A step keeps what it was called with, and what it wrote."""

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Of steps that began before it, or on a worker of the version before, they are null."""
    op.execute("ALTER TABLE public.run_steps ADD COLUMN encoded_input bytea, ADD COLUMN encoded_update bytea")
