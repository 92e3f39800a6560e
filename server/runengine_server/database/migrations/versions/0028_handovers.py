"""Runs can be handed over to Temporal."""

from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    """Which are. Servers and workers that dispatch by PostgreSQL leave the table empty."""
    op.execute("""
        CREATE UNLOGGED TABLE public.handovers (
            tenant_id      text NOT NULL,
            run_id         uuid NOT NULL,
            attempt        integer NOT NULL,
            epoch          bigint NOT NULL,
            worker_id      uuid NOT NULL,
            queue          text NOT NULL,
            handed_over_at timestamptz NOT NULL DEFAULT public.now_ms(),
            PRIMARY KEY (tenant_id, run_id)
        )
    """)
    op.execute("ALTER TABLE public.handovers ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.handovers FORCE ROW LEVEL SECURITY")
    op.execute("""
        CREATE POLICY tenant ON public.handovers USING (tenant_id = (SELECT public.current_tenant()))
    """)
    op.execute("""
        CREATE POLICY owner ON public.handovers TO pg_database_owner
        USING ((SELECT current_setting('runengine.all_tenants', true) = 'on'))
    """)
    op.execute("CREATE POLICY dispatch ON public.handovers USING ((SELECT public.is_dispatch()))")
