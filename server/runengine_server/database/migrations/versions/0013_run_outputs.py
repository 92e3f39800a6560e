"""A completed run keeps what its graph returned."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Of runs that completed before it, or by a worker of the version before, it is null."""
    op.execute("ALTER TABLE public.runs ADD COLUMN encoded_output bytea")
