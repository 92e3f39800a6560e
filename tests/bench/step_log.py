"""`python -m tests.bench.step_log`: what the log of transitions of steps costs PostgreSQL.

One step begins and completes, again and again, in a database with the triggers and without, in turn; commits
wait for no disk. Prints the medians, in µs a step.
"""

from __future__ import annotations

import asyncio
from statistics import median
from time import perf_counter
from uuid import UUID, uuid4

import asyncpg

from tests.support.stack import open_directory, own_postgres

_ROUNDS, _STEPS = 5, 1000
_TENANT = "org_bench"
_PREPARE = f"""
INSERT INTO runs (tenant_id, id, workflow_name, encoded_input) VALUES ('{_TENANT}', $1, 'bench', '')"""
_STEP = f"""
CREATE FUNCTION one_step(_run uuid, _id uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status)
    VALUES ('{_TENANT}', _run, _id, 1, 1, 'one', 'one', 'running');
    UPDATE run_steps SET status = 'completed' WHERE tenant_id = '{_TENANT}' AND run_id = _run AND id = _id;
END
$$"""


async def _micros(connection: asyncpg.Connection, run_id: UUID) -> float:
    begin = perf_counter()
    for _ in range(_STEPS):
        await connection.execute("SELECT one_step($1, $2)", run_id, uuid4())
    return (perf_counter() - begin) / _STEPS * 1e6


async def main() -> None:
    """Measures, and prints."""
    with open_directory() as directory:
        async with own_postgres(directory) as (_, url):
            connection = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
            await connection.execute("SET synchronous_commit = off")
            run_id = uuid4()
            await connection.execute(_PREPARE, run_id)
            await connection.execute(_STEP)
            await _micros(connection, run_id)
            found: dict[str, list[float]] = {"ENABLE": [], "DISABLE": []}
            for _ in range(_ROUNDS):
                for how, figures in found.items():
                    await connection.execute(f"ALTER TABLE run_steps {how} TRIGGER USER")
                    figures.append(await _micros(connection, run_id))
            await connection.close()
    print(f"logged {median(found['ENABLE']):.0f} µs, not logged {median(found['DISABLE']):.0f} µs a step")


if __name__ == "__main__":
    asyncio.run(main())
