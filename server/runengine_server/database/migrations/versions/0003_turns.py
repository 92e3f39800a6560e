"""Runs have a priority, and are claimed tenant by tenant."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """The order within a tenant, and the index that each claim walks."""
    op.execute("ALTER TABLE runs ADD COLUMN priority smallint NOT NULL DEFAULT 0")
    op.execute("DROP INDEX runs_queued")
    # claim_queued: the next tenant is one step in it, and so is the next run of a tenant.
    # workflow_name, so that runs which a worker does not serve are passed over within the index.
    op.execute("""
        CREATE INDEX runs_queued ON runs (tenant_id, priority DESC, queued_at, id, workflow_name)
        WHERE status = 'queued'
    """)
    # claim_queued: how many runs of a tenant are running.
    op.execute("CREATE INDEX runs_running ON runs (tenant_id, id) WHERE status = 'running'")
