"""The artifacts of a run can be listed."""

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """The index of list_run_artifacts. Writers go on meanwhile; all of it may come again after a crash."""
    with op.get_context().autocommit_block():
        # One that was not finished is there, and invalid.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS public.artifacts_of_runs")
        op.execute("CREATE INDEX CONCURRENTLY artifacts_of_runs ON public.artifacts (tenant_id, run_id, id)")
