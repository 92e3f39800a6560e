"""Which versions of the functions are there, and when a server last used them."""

from alembic import op

revision = "0012"
down_revision = "0010"


def upgrade() -> None:
    """The table that `migrate --prune` reads. Functions made before it stand in `public`, for servers of
    the version before; the migration that drops them belongs into a later release.
    """
    op.execute("""
        CREATE TABLE public.function_schemas (
            name    text PRIMARY KEY,
            used_at timestamptz NOT NULL DEFAULT public.now_ms()
        )
    """)
