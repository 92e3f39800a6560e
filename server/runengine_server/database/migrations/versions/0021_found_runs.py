"""Runs can be found by status, workflow, error and whether they wait."""

from alembic import op

from runengine_server.database.functions import ENCODING

revision = "0021"
down_revision = "0020"

_ORDER = "created_at DESC, id DESC"
_ENDED = "WHERE status IN ('completed', 'failed', 'cancelled') AND updated_at IS NOT NULL"
_QUEUED = "WHERE status = 'queued' AND updated_at IS NOT NULL"
_FAILED = "WHERE error_code IS NOT NULL"
_WAITING = "WHERE encoded_waiting IS NOT NULL AND status = 'running'"

INDEXES = {
    "runs_ended": f"(tenant_id, status, {_ORDER}) {_ENDED}",
    "runs_of_workflow_ended": f"(tenant_id, workflow_name, status, {_ORDER}) {_ENDED}",
    "runs_queued_last": f"(tenant_id, {_ORDER}) {_QUEUED}",
    "runs_failed": f"(tenant_id, error_code, {_ORDER}) {_FAILED}",
    "runs_asking": f"(tenant_id, {_ORDER}) {_WAITING}",
}


def upgrade() -> None:
    """PostgreSQL rewrites the table for the column, under a lock. Writers go on while it makes the indexes.
    All of it may come again after a crash.
    """
    for statement in ENCODING:
        op.execute(statement)
    op.execute(
        "ALTER TABLE public.runs ADD COLUMN IF NOT EXISTS error_code text "
        "GENERATED ALWAYS AS (public.code_of_error(error)) STORED"
    )
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            # One that was not finished is there, and invalid.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS public.{name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON public.runs {definition}")
