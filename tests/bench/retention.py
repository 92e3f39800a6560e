"""How long a claim takes while 100,000 runs are purged, and while they are not.

python -m tests.bench.retention [RUNS]
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any
from uuid import UUID

import asyncpg
from runengine_server.database.database import Database
from runengine_server.repositories.artifact_store import ArtifactDirectory
from runengine_server.worker.retention import RetentionChore

from tests.support.own_worker import Engine, chain, serving
from tests.support.stack import ROOT, open_directory, own_postgres

_CLAIMED, _CLAIMS = 10, 300
_DAYS = 30


async def fill(engine: Engine, admin: asyncpg.Connection, run_id: UUID, count: int) -> None:
    """Runs like one that was executed, of a hundred campaigns, that ended forty days ago."""
    await admin.execute(
        f"CREATE TABLE copied AS SELECT gen_random_uuid() AS copy, n FROM generate_series(1, {count}) AS n"
    )
    old = "now() - interval '40 days' + n * interval '1 second'"
    campaign = "('00000000-0000-0000-0000-' || lpad((n % 100)::text, 12, '0'))::uuid"
    changed = {
        "runs": {
            "id": "copy",
            "created_at": old,
            "updated_at": old,
            "completed_at": old,
            "campaign_id": campaign,
        },
        "run_steps": {"run_id": "copy"},
        "run_events": {"run_id": "copy"},
    }
    # Without the triggers of the steps; what they write is copied too.
    await admin.execute("SET session_replication_role = replica")
    for table, of in {**changed, "step_events": {"run_id": "copy"}}.items():
        rows = await admin.fetch(
            """SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0
            AND NOT attisdropped AND attgenerated = '' AND attidentity = '' AND attname <> 'seq'""",
            table,
        )
        columns = [row["attname"] for row in rows]
        key = "id" if table == "runs" else "run_id"
        await admin.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(of.get(c, c) for c in columns)}"
            f" FROM {table}, copied WHERE {table}.{key} = '{run_id}' AND tenant_id = '{engine.tenant_id}'"
        )
    await admin.execute(
        """INSERT INTO campaign_run_counts (tenant_id, campaign_id, slot, completed)
        SELECT tenant_id, campaign_id, get_byte(uuid_send(id), 15) % 16, count(*) FROM runs
        WHERE campaign_id IS NOT NULL GROUP BY 1, 2, 3"""
    )
    await admin.execute("SET session_replication_role = DEFAULT; DROP TABLE copied")
    await admin.execute("VACUUM ANALYZE")


async def _claims(engine: Engine, number: int) -> list[float]:
    """The milliseconds of claims of ten runs of the same campaigns."""
    took = []
    for _ in range(number):
        for place in range(_CLAIMED):
            await engine.trigger(campaign_id=UUID(int=place))
        begun = perf_counter()
        claimed = await engine.queue.claim_queued(_CLAIMED)
        took.append((perf_counter() - begun) * 1000)
        assert len(claimed) == _CLAIMED
    return took


def _told(name: str, took: list[float]) -> str:
    cut = quantiles(took, n=100)
    times = f"median {median(took):.2f} ms, p95 {cut[94]:.2f}, p99 {cut[98]:.2f}"
    return f"{name}: {len(took)} claims of ten runs, {times}"


async def _measure(count: int) -> None:
    async def step(state: Any) -> dict[str, Any]:
        return {"seen": ["x" * 100]}

    with open_directory() as directory:
        async with own_postgres(directory) as (_, url):
            admin = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
            async with serving(url, chain(a=step, b=step, c=step, d=step)) as engine:
                run = await engine.execute({"text": "x" * 350})
                await fill(engine, admin, run.id, count)
                await _claims(engine, 50)
                print(_told("before", await _claims(engine, _CLAIMS)))
                begun = perf_counter()
                environment = {**os.environ, "PYTHONPATH": str(ROOT)}
                purging = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.bench.retention", url, env=environment
                )
                during: list[float] = []
                while purging.returncode is None:
                    during += await _claims(engine, 10)
                    await asyncio.sleep(0)
                seconds = perf_counter() - begun
                print(_told("during", during))
                left = await admin.fetchval("SELECT count(*) FROM runs WHERE status = 'completed'")
                print(f"{count + 1 - left:,} runs purged in {seconds:.0f} s, {left} left")
                print(_told("after", await _claims(engine, _CLAIMS)))
            await admin.close()


async def _purge(url: str) -> None:
    database = Database(url, 2)
    await database.open()
    with tempfile.TemporaryDirectory() as directory:
        await RetentionChore(database, ArtifactDirectory(Path(directory)), _DAYS).purge()
    await database.close()


if __name__ == "__main__":
    argument = sys.argv[1] if len(sys.argv) > 1 else "100000"
    asyncio.run(_measure(int(argument)) if argument.isdigit() else _purge(argument))
