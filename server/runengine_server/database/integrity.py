"""Whether the database is whole: a failed restore leaves tables on which a server would start."""

from __future__ import annotations

from runengine_server.database.database import Database
from runengine_server.domain.errors import StatementRefused

# What pg_restore creates after the rows, and omits where the rows violate it; and what generates encoded
# runs. Each part reads the catalogue or one row, so that tables of any size take the same time.
_FIND_DAMAGE = """
SELECT format('the table %s has no valid foreign key to runs', name) AS damage
FROM unnest('{run_steps,artifacts,checkpoints,checkpoint_writes,run_values}'::text[]) AS name
WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND convalidated
    AND conrelid = to_regclass('public.' || name) AND confrelid = to_regclass('public.runs'))
UNION ALL
SELECT format('the table %s has no primary key', name)
FROM unnest('{workflows,campaigns,runs,campaign_run_counts,run_steps,run_events,idempotency_keys,artifacts,
    checkpoints,checkpoint_writes,run_values,step_cache}'::text[]) AS name
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


async def find_damage(database: Database) -> str | None:
    """The first thing that is missing of the schema or its rows, in words, or None. Raises Unavailable."""
    try:
        row = await database.dispatch().fetchrow(_FIND_DAMAGE)
    except StatementRefused:
        return "a table is missing"
    return str(row["damage"]) if row else None
