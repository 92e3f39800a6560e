"""Runs of one thread see the state that the one before them has left."""

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """The threads, and which runs are of one: none of those that are there. All of it may come again after a
    crash.
    """
    op.execute("""
        ALTER TABLE public.runs
            ADD COLUMN IF NOT EXISTS thread_id text,
            ADD COLUMN IF NOT EXISTS thread_place bigint,
            ADD COLUMN IF NOT EXISTS thread_base uuid,
            ADD COLUMN IF NOT EXISTS thread_base_seq bigint
    """)
    op.execute("""
        CREATE TABLE IF NOT EXISTS public.threads (
            tenant_id     text NOT NULL,
            workflow_name text NOT NULL,
            thread_id     text NOT NULL,
            last_place    bigint NOT NULL,
            state_run_id  uuid,
            PRIMARY KEY (tenant_id, workflow_name, thread_id)
        )
    """)
    op.execute("ALTER TABLE public.threads ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.threads FORCE ROW LEVEL SECURITY")
    op.execute("DROP POLICY IF EXISTS tenant ON public.threads")
    op.execute("""
        CREATE POLICY tenant ON public.threads
        USING (tenant_id = (SELECT public.current_tenant()))
    """)
    op.execute("DROP POLICY IF EXISTS owner ON public.threads")
    op.execute("""
        CREATE POLICY owner ON public.threads TO pg_database_owner
        USING ((SELECT current_setting('runengine.all_tenants', true) = 'on'))
    """)
    with op.get_context().autocommit_block():
        # One that was not finished is there, and invalid.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS public.runs_of_threads")
        op.execute("""
            CREATE INDEX CONCURRENTLY runs_of_threads
            ON public.runs (tenant_id, workflow_name, thread_id, status, queued_at, thread_place)
            WHERE thread_id IS NOT NULL AND status IN ('queued', 'running')
        """)
