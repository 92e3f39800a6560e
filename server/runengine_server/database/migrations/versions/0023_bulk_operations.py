"""Many runs can be retried or cancelled by one operation."""

from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """The operations, and their runs. Transitions name the operation that made them: none of those that are
    there.
    """
    op.execute("ALTER TABLE public.run_events ADD COLUMN operation_id uuid")
    op.execute("""
        CREATE TABLE public.bulk_operations (
            tenant_id     text NOT NULL,
            id            uuid NOT NULL,
            action        text NOT NULL,
            status        text NOT NULL DEFAULT 'starting',
            filter        bytea,
            reason        text,
            pace          integer NOT NULL,
            matched       integer NOT NULL DEFAULT 0,
            processed     integer NOT NULL DEFAULT 0,
            done          integer NOT NULL DEFAULT 0,
            refused       jsonb NOT NULL DEFAULT '{}',
            actor         text NOT NULL,
            trace_id      text,
            created_at    timestamptz NOT NULL DEFAULT public.now_ms(),
            ended_at      timestamptz,
            next_batch_at timestamptz NOT NULL DEFAULT public.now_ms(),
            is_over_quota boolean NOT NULL DEFAULT false,
            PRIMARY KEY (tenant_id, id),
            CONSTRAINT bulk_operations_action_check CHECK (action IN ('retry', 'cancel')),
            CONSTRAINT bulk_operations_status_check
                CHECK (status IN ('starting', 'running', 'completed', 'aborted'))
        )
    """)
    op.execute("""
        CREATE INDEX bulk_operations_running ON public.bulk_operations (next_batch_at)
        WHERE status = 'running' AND created_at IS NOT NULL
    """)
    op.execute("""
        CREATE TABLE public.bulk_operation_items (
            tenant_id    text NOT NULL,
            operation_id uuid NOT NULL,
            place        integer NOT NULL,
            run_id       uuid NOT NULL,
            outcome      text,
            reason       text,
            at           timestamptz,
            PRIMARY KEY (tenant_id, operation_id, place),
            CONSTRAINT bulk_operation_items_outcome_check CHECK (outcome IN ('done', 'refused'))
        )
    """)
    op.execute("""
        CREATE INDEX bulk_operation_items_by_outcome
        ON public.bulk_operation_items (tenant_id, operation_id, outcome, place)
        WHERE outcome IS NOT NULL
    """)
    for table in ("bulk_operations", "bulk_operation_items"):
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
    op.execute("""
        CREATE POLICY dispatch ON public.bulk_operations USING ((SELECT public.is_dispatch()))
    """)
