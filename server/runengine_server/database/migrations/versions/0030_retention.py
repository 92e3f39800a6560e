"""Runs that have ended can be deleted after a time."""

from alembic import op

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    """What is set for a tenant, and what is still to be deleted. Threads that are there count as used now."""
    op.execute("""
        CREATE TABLE public.tenant_settings (
            tenant_id      text NOT NULL,
            retention_days integer,
            PRIMARY KEY (tenant_id),
            CONSTRAINT tenant_settings_retention_days_check CHECK (retention_days > 0)
        )
    """)
    op.execute("""
        CREATE TABLE public.deleted_artifacts (
            tenant_id text NOT NULL,
            key       text NOT NULL,
            PRIMARY KEY (tenant_id, key)
        )
    """)
    for table in ("tenant_settings", "deleted_artifacts"):
        op.execute(f"ALTER TABLE public.{table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE public.{table} FORCE ROW LEVEL SECURITY")
        op.execute(f"""
            CREATE POLICY tenant ON public.{table}
            USING (tenant_id = (SELECT public.current_tenant()))
        """)
        op.execute(f"""
            CREATE POLICY owner ON public.{table} TO pg_database_owner
            USING ((SELECT current_setting('runengine.all_tenants', true) = 'on'))
        """)
        op.execute(f"CREATE POLICY dispatch ON public.{table} USING ((SELECT public.is_dispatch()))")
    op.execute("ALTER TABLE public.threads ADD COLUMN used_at timestamptz NOT NULL DEFAULT public.now_ms()")
