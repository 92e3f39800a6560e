"""Every table with a tenant shows a transaction the rows of its own tenant alone."""

from alembic import op

revision = "0002"
down_revision = "0001"

TENANT_TABLES = (
    "campaigns",
    "runs",
    "campaign_run_counts",
    "run_steps",
    "run_events",
    "idempotency_keys",
    "artifacts",
    "checkpoints",
    "checkpoint_writes",
    "step_cache",
)

# What a worker touches for all tenants at once: it claims runs, keeps and gives back their leases,
# fails the steps of lost workers, and throws away what has expired.
DISPATCH_TABLES = ("runs", "campaign_run_counts", "run_steps", "run_events", "idempotency_keys", "step_cache")


def upgrade() -> None:
    """Functions that read the settings of the transaction, and the policies on them."""
    # After a transaction that set it, a setting reads as '' and not as NULL.
    op.execute("""
        CREATE FUNCTION current_tenant() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
            AS $$ SELECT nullif(current_setting('runengine.tenant', true), '') $$
    """)
    op.execute("""
        CREATE FUNCTION is_dispatch() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
            AS $$ SELECT coalesce(current_setting('runengine.dispatch', true), '') = 'on' $$
    """)
    # (SELECT …), so that the setting is read once a statement; bare, it costs a call for each row.
    # FORCE, because the owner of a table is otherwise shown everything.
    for table in TENANT_TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} USING (tenant_id = (SELECT current_tenant()))")
    for table in DISPATCH_TABLES:
        op.execute(f"CREATE POLICY dispatch ON {table} USING ((SELECT is_dispatch()))")
