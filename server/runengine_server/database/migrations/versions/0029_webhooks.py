"""Transitions can be sent to URLs of a tenant's."""

from alembic import op

revision = "0029"
down_revision = "0028"

_TABLES = ("webhook_endpoints", "webhook_deliveries", "campaign_events")


def upgrade() -> None:
    """The endpoints, what is sent to them, and a log of the transitions of campaigns."""
    op.execute("""
        CREATE TABLE public.webhook_endpoints (
            tenant_id   text NOT NULL,
            id          uuid NOT NULL,
            url         text NOT NULL,
            secret      bytea NOT NULL,
            events      text[] NOT NULL,
            is_disabled boolean NOT NULL,
            note        text,
            created_at  timestamptz NOT NULL DEFAULT public.now_ms(),
            updated_at  timestamptz NOT NULL DEFAULT public.now_ms(),
            since       text NOT NULL,
            until       text,
            last        bigint NOT NULL DEFAULT 0,
            read_at     timestamptz NOT NULL DEFAULT public.now_ms(),
            PRIMARY KEY (tenant_id, id)
        )
    """)
    op.execute("""
        CREATE TABLE public.webhook_deliveries (
            tenant_id       text NOT NULL,
            endpoint_id     uuid NOT NULL,
            id              uuid NOT NULL,
            seq             bigint NOT NULL,
            event           text NOT NULL,
            run_id          uuid NOT NULL,
            campaign_id     uuid,
            payload         text NOT NULL,
            status          text NOT NULL DEFAULT 'pending',
            attempts        integer NOT NULL DEFAULT 0,
            attempted_at    timestamptz,
            next_attempt_at timestamptz,
            response_status integer,
            error           text,
            created_at      timestamptz NOT NULL DEFAULT public.now_ms(),
            expires_at      timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, endpoint_id, id),
            CONSTRAINT webhook_deliveries_status_check CHECK (status IN ('pending', 'delivered', 'dead')),
            CONSTRAINT webhook_deliveries_check CHECK ((status = 'pending') = (next_attempt_at IS NOT NULL))
        )
    """)
    op.execute("""
        CREATE INDEX webhook_deliveries_by_status
        ON public.webhook_deliveries (tenant_id, endpoint_id, status, seq DESC) WHERE seq IS NOT NULL
    """)
    op.execute("""
        CREATE INDEX webhook_deliveries_due
        ON public.webhook_deliveries (tenant_id, endpoint_id, next_attempt_at)
        WHERE next_attempt_at IS NOT NULL
    """)
    op.execute("""
        CREATE INDEX webhook_deliveries_ended ON public.webhook_deliveries (expires_at)
        WHERE status <> 'pending'
    """)
    op.execute("""
        CREATE TABLE public.campaign_events (
            tenant_id   text NOT NULL,
            campaign_id uuid NOT NULL,
            seq         bigint NOT NULL DEFAULT nextval('public.run_events_seq_seq'),
            at          timestamptz NOT NULL,
            status      text NOT NULL,
            run_id      uuid NOT NULL,
            transaction xid8 DEFAULT pg_current_xact_id(),
            PRIMARY KEY (tenant_id, campaign_id, seq)
        )
    """)
    op.execute("""
        CREATE INDEX campaign_events_by_transaction ON public.campaign_events (tenant_id, transaction)
        WHERE transaction IS NOT NULL
    """)
    op.execute("CREATE INDEX campaign_events_by_age ON public.campaign_events (at)")
    for table in _TABLES:
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
