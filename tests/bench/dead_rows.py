"""How long parts of runs take while dead rows come together, and once these are vacuumed away.

    python -m tests.bench.dead_rows [RUNS]

Autovacuum is off, so that what it has to do is there: by default it comes when a fifth of a table's rows
are dead.
"""

from __future__ import annotations

import asyncio
import sys
from statistics import median
from time import perf_counter
from typing import Any
from uuid import UUID

import asyncpg
from runengine_server.domain.run import ClaimedRun

from tests.bench.retention import fill
from tests.support.own_worker import Engine, chain, serving
from tests.support.stack import open_directory, own_postgres

_TABLES = ("runs", "run_steps", "run_events", "step_events", "campaign_run_counts")
_ROUNDS, _SHARE = 4, 0.1


async def _timed(took: list[float], call: Any) -> Any:
    begun = perf_counter()
    result = await call
    took.append((perf_counter() - begun) * 1000)
    return result


async def _round(engine: Engine, number: int) -> str:
    """Executes that many runs, ten at a time, and says what the parts of it took."""
    took: dict[str, list[float]] = {name: [] for name in ("trigger", "claim", "process", "page")}
    for batch in range(number // 10):
        await asyncio.gather(
            *(_timed(took["trigger"], engine.trigger(campaign_id=UUID(int=n))) for n in range(10))
        )
        held: list[ClaimedRun] = await _timed(took["claim"], engine.queue.claim_queued(10))
        await asyncio.gather(*(_timed(took["process"], engine.processor.process(run)) for run in held))
        if batch % 10 == 0:
            await _timed(took["page"], engine.runs.list_of_campaign(UUID(int=1), (), 20, 0, None))
    return ", ".join(f"{name} {median(each):.2f}" for name, each in took.items())


async def _sizes(admin: asyncpg.Connection) -> str:
    found = []
    for name in _TABLES:
        (row,) = await admin.fetch(
            "SELECT pg_relation_size($1::regclass) / 1024, pg_indexes_size($1::regclass) / 1024", name
        )
        heap, indexes = row
        found.append(f"{name} {heap:,}+{indexes:,} kB")
    return ", ".join(found)


async def _measure(count: int) -> None:
    async def step(state: Any) -> dict[str, Any]:
        return {"seen": ["x" * 100]}

    with open_directory() as directory:
        async with own_postgres(directory) as (_, url):
            admin = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
            await admin.execute("ALTER SYSTEM SET autovacuum = off")
            await admin.execute("SELECT pg_reload_conf()")
            async with serving(url, chain(a=step, b=step, c=step, d=step)) as engine:
                run = await engine.execute({"text": "x" * 350})
                await fill(engine, admin, run.id, count)
                print(await _sizes(admin))
                for number in range(_ROUNDS):
                    if number == _ROUNDS - 1:
                        await admin.execute("VACUUM ANALYZE")
                        print("vacuumed")
                    print("ms:", await _round(engine, int(count * _SHARE)))
                    print(await _sizes(admin), await _dead(admin))
            await admin.close()


async def _dead(admin: asyncpg.Connection) -> str:
    await asyncio.sleep(1.5)  # a session tells of its rows once a second
    rows = await admin.fetch(
        "SELECT relname, n_live_tup, n_dead_tup, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
        " WHERE relname = ANY($1) ORDER BY relname",
        list(_TABLES),
    )
    return ", ".join(
        f"{row['relname']} {row['n_dead_tup']:,} dead beside {row['n_live_tup']:,}"
        f" ({row['n_tup_hot_upd']:,} of {row['n_tup_upd']:,} updates HOT)"
        for row in rows
    )


if __name__ == "__main__":
    asyncio.run(_measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
