"""Runs are stored as the canonical protobuf encoder would write them, by functions that name their schema."""

from alembic import op

from runengine_server.database import functions

revision = "0005"
down_revision = "0004"

# Of functions before this version.
REPLACED = ("public.encoded_time(bytea, timestamptz)", "public.encoded_error(jsonb)")

# Up to a thousand runs after the given one that are not stored canonically, in a transaction of their own;
# it returns the last of them. Locked ones are passed over, because a heartbeat locks many in any order. The
# setting shows the owner, whom the policies bind, the runs of all tenants. Field 13 was left out when
# runs that had a priority became encoded, and their input is the one with lengths of four bytes.
ENCODE_RUNS_AGAIN = r"""
CREATE OR REPLACE FUNCTION public.encode_runs_again(after_tenant text, after_id uuid)
    RETURNS TABLE (tenant_id text, id uuid) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true), set_config('enable_seqscan', 'off', true);
    RETURN QUERY WITH due AS (
        SELECT tenant_id, id FROM public.runs
        WHERE (tenant_id, id) > (after_tenant, after_id) AND (
            substring(encoded_input FROM 2 FOR 1) = '\xa4' OR encoded_state <> public.encoded_run_state(
                status, attempt, public.encoded_again(error, '{1,2,4,5}'), started_at, completed_at,
                created_at, updated_at))
        ORDER BY tenant_id, id LIMIT 1000 FOR UPDATE SKIP LOCKED
    ), done AS (
        UPDATE public.runs SET error = public.encoded_again(error, '{1,2,4,5}'),
            encoded_input = CASE WHEN substring(encoded_input FROM 2 FOR 1) = '\xa4' THEN
                public.encoded_again(encoded_input, '{1,2}')
                || CASE WHEN priority <> 0 THEN public.encoded_field(13, 0, priority) ELSE '' END
            ELSE encoded_input END
        FROM due WHERE runs.tenant_id = due.tenant_id AND runs.id = due.id
        RETURNING runs.tenant_id, runs.id
    )
    SELECT tenant_id, id FROM done ORDER BY tenant_id DESC, id DESC LIMIT 1;
END
$$
"""

EVENTS = r"""
DO $$ BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    UPDATE public.run_events SET error = public.encoded_again(error, '{1,2,4,5}')
    WHERE get_byte(error, 1) > 127;
END $$
"""


def upgrade() -> None:
    """Replaces the functions, then encodes again what is stored, while servers go on."""
    # Whoever writes a run now has done so when this is granted, and whoever does so later sees the new
    # functions: nothing is stored by the old ones after this transaction.
    op.execute("LOCK TABLE public.runs, public.run_events IN SHARE ROW EXCLUSIVE MODE")
    for statement in functions.ENCODING:
        op.execute(statement)
    for name in REPLACED:
        op.execute(f"DROP FUNCTION IF EXISTS {name}")
    op.execute(ENCODE_RUNS_AGAIN)
    with op.get_context().autocommit_block():
        op.execute(EVENTS)
        while _encode_runs_again():
            pass
    op.execute("DROP FUNCTION public.encode_runs_again(text, uuid)")


def _encode_runs_again() -> bool:
    """Goes through all runs once; whether there was one to encode."""
    found = False
    after: tuple[str, str] = ("", "00000000-0000-0000-0000-000000000000")
    while rows := op.get_bind().exec_driver_sql(
        "SELECT tenant_id, id::text FROM public.encode_runs_again($1::text, $2::text::uuid)", after
    ).all():  # fmt: skip
        found, after = True, (rows[0][0], rows[0][1])
    return found
