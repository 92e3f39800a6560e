"""Artifacts name the execution that saved them, and autovacuum looks after checkpoints."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """The columns, their index, and when autovacuum comes."""
    op.execute("ALTER TABLE public.artifacts ADD COLUMN task_id uuid, ADD COLUMN step_attempt int")
    # list_run_steps.
    op.execute("""
        CREATE INDEX artifacts_of_steps ON public.artifacts (tenant_id, run_id, task_id, step_attempt, id)
        WHERE task_id IS NOT NULL
    """)
    # Each step of a run replaces its checkpoint, of which a large state has a thousand rows in the TOAST
    # table. By default autovacuum would wait until a fifth of all of that is dead, and then take breaks.
    for table in ("checkpoints", "checkpoint_writes"):
        op.execute(f"""
            ALTER TABLE public.{table} SET (autovacuum_vacuum_scale_factor = 0.05,
                autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_scale_factor = 0.05,
                toast.autovacuum_vacuum_threshold = 1000, toast.autovacuum_vacuum_cost_delay = 0)
        """)
