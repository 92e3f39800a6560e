"""A step may be within another one."""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Steps that workers of the version before have recorded are within none."""
    op.execute("ALTER TABLE public.run_steps ADD COLUMN parent_id uuid")
