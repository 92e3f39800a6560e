"""Workers say what they serve, and which does what is due once an hour; functions keep their path."""

from alembic import op

from runengine_server.database import functions

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Two tables of no tenant, with a few rows each; and functions that mean the same on any search_path."""
    # One row for each workflow of each worker process that is there; served until it expires. No index on
    # expires_at, so that to put it off is a HOT update.
    op.execute("""
        CREATE TABLE public.workflow_workers (
            workflow_name text NOT NULL REFERENCES public.workflows ON DELETE CASCADE,
            worker_id     uuid NOT NULL,
            worker        text NOT NULL,
            expires_at    timestamptz NOT NULL,
            PRIMARY KEY (workflow_name, worker_id)
        )
    """)
    # What one worker does for all, and when one began it last.
    op.execute("""
        CREATE TABLE public.chores (
            name     text PRIMARY KEY,
            begun_at timestamptz NOT NULL
        )
    """)
    for statement in functions.ENCODING:
        op.execute(statement)
