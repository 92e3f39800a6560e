"""Is the database whole? A restore that went wrong leaves tables, and a server that would start on them."""

from __future__ import annotations

from runengine_server.database.database import Database
from runengine_server.domain.errors import StatementRefused

# What a dump restores after the rows, and leaves out where the rows do not fit; and what runs are generated
# by. Each look is into the catalogue, or at one row: tables of any size take the same time.
_DAMAGE = """
SELECT format('the table %s has no valid foreign key to runs', name) AS words
FROM unnest('{run_steps,run_events,artifacts,checkpoints,checkpoint_writes}'::text[]) AS name
WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND convalidated
    AND conrelid = to_regclass('public.' || name) AND confrelid = to_regclass('public.runs'))
UNION ALL
SELECT format('the table %s has no primary key', name)
FROM unnest('{workflows,campaigns,runs,campaign_run_counts,run_steps,run_events,idempotency_keys,artifacts,
    checkpoints,checkpoint_writes,step_cache}'::text[]) AS name
WHERE NOT EXISTS (SELECT FROM pg_index WHERE indisprimary AND indisvalid
    AND indrelid = to_regclass('public.' || name))
UNION ALL
SELECT format('the function %s is missing', name)
FROM unnest('{now_ms(),touch(timestamptz),current_tenant(),is_dispatch(),encoded_number(bigint),
    "encoded_field(int,int,bigint)","encoded_time(bigint,timestamptz)",
    "encoded_run_state(text,int,bytea,timestamptz,timestamptz,timestamptz,timestamptz)",
    "encoded_response(bytea,bytea,smallint)"}'::text[]) AS name
WHERE to_regprocedure('public.' || name) IS NULL
UNION ALL
SELECT 'the column runs.encoded_state is not generated'
WHERE NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('public.runs')
    AND attname = 'encoded_state' AND attgenerated = 's')
UNION ALL
SELECT format('the table runs is empty, but %s is not', name)
FROM (SELECT CASE WHEN EXISTS (SELECT FROM public.run_events) THEN 'run_events'
    WHEN EXISTS (SELECT FROM public.run_steps) THEN 'run_steps' END AS name) AS referring
WHERE name IS NOT NULL AND NOT EXISTS (SELECT FROM public.runs)
LIMIT 1
"""


async def damage(database: Database) -> str | None:
    """What is wrong with the schema or its rows, in words; None when nothing is. Raises Unavailable."""
    try:
        row = await database.dispatch().fetchrow(_DAMAGE)
    except StatementRefused:
        return "a table is missing"
    return str(row["words"]) if row else None
