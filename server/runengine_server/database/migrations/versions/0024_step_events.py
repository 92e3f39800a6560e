"""Transitions of steps are logged, and whether a snapshot has a transition can be said."""

from alembic import op

from runengine_server.database.functions import ENCODING

revision = "0024"
down_revision = "0023"

_POLICIES = {
    "tenant": "USING (tenant_id = (SELECT public.current_tenant()))",
    "dispatch": "USING ((SELECT public.is_dispatch()))",
    "owner": "TO pg_database_owner USING ((SELECT current_setting('runengine.all_tenants', true) = 'on'))",
}

_BY_TRANSACTION = "(tenant_id, transaction) WHERE transaction IS NOT NULL"
_INDEX = "run_events_by_transaction"

_TRIGGERS = {
    "log_inserted_steps": "INSERT ON public.run_steps REFERENCING NEW TABLE AS inserted",
    "log_updated_steps": "UPDATE ON public.run_steps REFERENCING OLD TABLE AS before NEW TABLE AS updated",
}


def upgrade() -> None:
    """Transitions of before have no transaction, and those of steps are not there. Writers go on meanwhile
    but for a moment. All of it may come again after a crash.
    """
    for statement in ENCODING:
        op.execute(statement)
    op.execute("ALTER TABLE public.run_events ADD COLUMN IF NOT EXISTS transaction xid8")
    op.execute("ALTER TABLE public.run_events ALTER COLUMN transaction SET DEFAULT pg_current_xact_id()")
    op.execute("""
        CREATE TABLE IF NOT EXISTS public.step_events (
            tenant_id text NOT NULL, run_id uuid NOT NULL,
            seq bigint NOT NULL DEFAULT nextval('public.run_events_seq_seq'), at timestamptz NOT NULL,
            id uuid NOT NULL, attempt integer NOT NULL, status text NOT NULL,
            transaction xid8 DEFAULT pg_current_xact_id(),
            PRIMARY KEY (tenant_id, run_id, seq)
        )
    """)
    op.execute(
        f"CREATE INDEX IF NOT EXISTS step_events_by_transaction ON public.step_events {_BY_TRANSACTION}"
    )
    op.execute("ALTER TABLE public.step_events ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.step_events FORCE ROW LEVEL SECURITY")
    for name, policy in _POLICIES.items():
        op.execute(f"DROP POLICY IF EXISTS {name} ON public.step_events")
        op.execute(f"CREATE POLICY {name} ON public.step_events {policy}")
    # Before the triggers: servers of the version before go on, and `migrate` grants later.
    op.execute("""
        DO $$
        DECLARE
            role name;
        BEGIN
            FOR role IN SELECT DISTINCT grantee::name FROM information_schema.role_table_grants
                WHERE table_schema = 'public' AND table_name = 'run_steps' AND privilege_type = 'INSERT'
            LOOP
                EXECUTE format('GRANT SELECT, INSERT ON public.step_events TO %I', role);
                EXECUTE format('GRANT USAGE ON SEQUENCE public.run_events_seq_seq TO %I', role);
            END LOOP;
        END
        $$
    """)
    for name, of in _TRIGGERS.items():
        op.execute(
            f"CREATE OR REPLACE TRIGGER {name} AFTER {of} FOR EACH STATEMENT EXECUTE FUNCTION public.{name}()"
        )
    with op.get_context().autocommit_block():
        # One that was not finished is there, and invalid.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS public.{_INDEX}")
        op.execute(f"CREATE INDEX CONCURRENTLY {_INDEX} ON public.run_events {_BY_TRANSACTION}")
