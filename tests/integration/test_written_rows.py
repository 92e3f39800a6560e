"""What runs make PostgreSQL write: rows, and bytes of its write-ahead log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from runengine_server.worker.graph import execution

from tests.support.own_worker import Ran, chain, serving, until
from tests.support.stack import own_postgres

RUNS = 10

# Of a run of four nodes that is alone, inserted and updated; then what that and a heartbeat take now, with
# room for a page that is split.
ROWS = {
    "runs": (1, 2),  # claimed, ended
    "run_events": (3, 0),  # triggered, claimed, completed
    "run_steps": (4, 4),  # each begins and ends
    "step_events": (8, 0),
    "checkpoints": (4, 0),  # the input, and one after each node but the last
}
BYTES_OF_A_RUN = 19_200
BYTES_OF_A_HEARTBEAT = 200  # of ten runs: one row, and a page that is tidied


@pytest.fixture
def nothing_goes_out_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "FLUSH_SECONDS", 3600)


@pytest.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[tuple[str, asyncpg.Connection]]:
    """The application's URL of a server that writes for nobody else, and a superuser's connection."""
    async with own_postgres(tmp_path) as (_, url):
        admin = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
        for setting in ("autovacuum = off", "full_page_writes = off"):
            await admin.execute(f"ALTER SYSTEM SET {setting}")
        await admin.execute("SELECT pg_reload_conf()")
        await until(lambda: admin.fetchval("SHOW full_page_writes"), lambda value: value == "off")
        yield url, admin
        await admin.close()


async def written(admin: asyncpg.Connection) -> int:
    """All bytes of the log until now."""
    return int(await admin.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'"))


@pytest.mark.usefixtures("nothing_goes_out_by_the_clock")
async def test_a_run_writes_no_more_than_it_needs(postgres: tuple[str, asyncpg.Connection]) -> None:
    url, admin = postgres
    nodes = Ran()
    graph = chain(**{name: nodes.node(name) for name in ("one", "two", "three", "four")})
    async with serving(url, graph) as engine:
        await engine.execute()
        before = await written(admin)
        for _ in range(RUNS):
            await engine.execute({"seen": ["x" * 300]})
        of_a_run = (await written(admin) - before) / RUNS
    # Connections that end report what they have counted.
    await until(
        lambda: admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = 'runengine_app'"),
        lambda count: count == 0,
    )
    rows = await admin.fetch(
        "SELECT relname, n_tup_ins, n_tup_upd FROM pg_stat_user_tables WHERE relname = ANY($1)", [*ROWS]
    )
    counted = {name: (inserted / (RUNS + 1), updated / (RUNS + 1)) for name, inserted, updated in rows}
    assert counted == ROWS
    assert of_a_run <= BYTES_OF_A_RUN


async def test_a_heartbeat_writes_no_more_than_it_needs(postgres: tuple[str, asyncpg.Connection]) -> None:
    url, admin = postgres
    async with serving(url, chain(one=Ran().node("one"))) as engine:
        for _ in range(RUNS):
            await engine.trigger({"seen": ["x" * 300]})
        held = await engine.queue.claim_queued(RUNS)
        async with engine.queue.lease_renewer(lambda channel, payload: None) as renewer:
            await renewer.heartbeat(held, 5)
            before = await written(admin)
            await renewer.heartbeat(held, 5)
            of_a_heartbeat = await written(admin) - before
    assert len(held) == RUNS
    assert of_a_heartbeat <= BYTES_OF_A_HEARTBEAT
