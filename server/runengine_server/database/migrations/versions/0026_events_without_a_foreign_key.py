"""The events of runs have no foreign key."""

from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    """Its check took a twentieth of a claim. Each event is inserted by the statement that changes its run.

    Both tables are locked, while others write to one after the other: who waits gives up before PostgreSQL
    looks for a deadlock, after a second, of which one of the others might be the victim.
    """
    op.execute("""
        DO $$
        BEGIN
            SET LOCAL lock_timeout = '300ms';
            LOOP
                BEGIN
                    LOCK TABLE public.runs, public.run_events IN ACCESS EXCLUSIVE MODE;
                    ALTER TABLE public.run_events DROP CONSTRAINT IF EXISTS run_events_tenant_id_run_id_fkey;
                    EXIT;
                EXCEPTION WHEN lock_not_available THEN
                    PERFORM pg_sleep(0.1);
                END;
            END LOOP;
            SET LOCAL lock_timeout = DEFAULT;
        END
        $$
    """)
