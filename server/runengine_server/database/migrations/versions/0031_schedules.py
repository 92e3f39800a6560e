"""Runs can be triggered by the clock."""

from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    """The schedules."""
    op.execute("""
        CREATE TABLE public.schedules (
            tenant_id   text NOT NULL,
            id          uuid NOT NULL,
            cron        text NOT NULL,
            time_zone   text NOT NULL,
            request     bytea NOT NULL,
            overlap     text NOT NULL,
            is_paused   boolean NOT NULL,
            next_at     timestamptz,
            due_at      timestamptz,
            last_at     timestamptz,
            last_run_id uuid,
            note        text,
            created_at  timestamptz NOT NULL DEFAULT public.now_ms(),
            updated_at  timestamptz NOT NULL DEFAULT public.now_ms(),
            PRIMARY KEY (tenant_id, id),
            CONSTRAINT schedules_overlap_check CHECK (overlap IN ('skip', 'queue', 'cancel')),
            CONSTRAINT schedules_check
                CHECK (is_paused = (next_at IS NULL) AND is_paused = (due_at IS NULL))
        )
    """)
    op.execute("CREATE INDEX schedules_due ON public.schedules (due_at) WHERE due_at IS NOT NULL")
    op.execute("ALTER TABLE public.schedules ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.schedules FORCE ROW LEVEL SECURITY")
    op.execute("""
        CREATE POLICY tenant ON public.schedules
        USING (tenant_id = (SELECT public.current_tenant()))
    """)
    op.execute("""
        CREATE POLICY owner ON public.schedules TO pg_database_owner
        USING ((SELECT current_setting('runengine.all_tenants', true) = 'on'))
    """)
    op.execute("CREATE POLICY dispatch ON public.schedules USING ((SELECT public.is_dispatch()))")
