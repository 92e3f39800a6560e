"""What nodes put into `runtime.store`."""

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """The table, under forced row-level security."""
    op.execute("""
        CREATE TABLE public.store_items (
            tenant_id  text NOT NULL,
            namespace  text COLLATE "C" NOT NULL,
            key        text COLLATE "C" NOT NULL,
            value      json NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, namespace, key)
        )
    """)
    op.execute("ALTER TABLE public.store_items ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.store_items FORCE ROW LEVEL SECURITY")
    op.execute("""
        CREATE POLICY tenant ON public.store_items
        USING (tenant_id = (SELECT public.current_tenant()))
    """)
    op.execute("""
        CREATE POLICY owner ON public.store_items TO pg_database_owner
        USING ((SELECT current_setting('runengine.all_tenants', true) = 'on'))
    """)
