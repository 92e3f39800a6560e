"""Large values of a run are stored once, and not with each checkpoint and each step that has them."""

from alembic import op

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    """What is stored already stays whole."""
    op.execute("""
        CREATE TABLE public.run_values (
            tenant_id text NOT NULL,
            run_id    uuid NOT NULL,
            of_steps  boolean NOT NULL,
            hash      bytea NOT NULL,
            value     bytea NOT NULL,
            PRIMARY KEY (tenant_id, run_id, of_steps, hash),
            FOREIGN KEY (tenant_id, run_id) REFERENCES public.runs ON DELETE CASCADE
        ) WITH (
            autovacuum_vacuum_scale_factor = 0.05,
            autovacuum_vacuum_cost_delay = 0,
            toast.autovacuum_vacuum_scale_factor = 0.05,
            toast.autovacuum_vacuum_threshold = 1000,
            toast.autovacuum_vacuum_cost_delay = 0
        )
    """)
    op.execute("ALTER TABLE public.run_values ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.run_values FORCE ROW LEVEL SECURITY")
    op.execute("""
        CREATE POLICY tenant ON public.run_values
        USING (tenant_id = (SELECT public.current_tenant()))
    """)
    op.execute("""
        CREATE POLICY owner ON public.run_values TO pg_database_owner
        USING ((SELECT current_setting('runengine.all_tenants', true) = 'on'))
    """)
    op.execute("ALTER TABLE public.checkpoints ADD COLUMN value_refs bytea")
    op.execute("ALTER TABLE public.run_steps ADD COLUMN input_refs bytea")
