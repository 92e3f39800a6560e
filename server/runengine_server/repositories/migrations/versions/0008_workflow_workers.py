"""Workers say what they serve, and which does what is due once an hour; functions keep their path."""

from alembic import op

revision = "0008"
down_revision = "0007"

# Bodies that are parsed here and now, and not, as those in quotes are, on the search_path of each caller.
FUNCTIONS = """
CREATE OR REPLACE FUNCTION public.now_ms() RETURNS timestamptz LANGUAGE sql VOLATILE
    RETURN date_trunc('milliseconds', clock_timestamp());
CREATE OR REPLACE FUNCTION public.touch(before timestamptz) RETURNS timestamptz LANGUAGE sql VOLATILE
    RETURN greatest(public.now_ms(), before + interval '1 millisecond');
CREATE OR REPLACE FUNCTION public.current_tenant() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('runengine.tenant', true), '');
CREATE OR REPLACE FUNCTION public.is_dispatch() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(current_setting('runengine.dispatch', true), '') = 'on'
"""


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
    for function in FUNCTIONS.split(";\n"):
        op.execute(function)
