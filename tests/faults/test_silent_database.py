"""A network that forgets the connections to PostgreSQL, and tells nobody."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest
from runengine_server.database.database import Database
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import RunStatus
from runengine_server.processes.watch_database import watch_database
from runengine_server.repositories.campaign_repository import CampaignRepository
from runengine_server.repositories.run_repository import RunRepository

from tests.faults.proxy import Proxy
from tests.support.own_worker import Held, chain, ended, serving
from tests.support.patience import SECONDS


async def test_a_worker_hears_and_works_again_before_long(database_url: str) -> None:
    held = Held()
    direct = Database(database_url, 2)
    async with Proxy(database_url) as proxy, serving(proxy.url, chain(held=held.node)) as engine:
        watching = asyncio.create_task(watch_database(engine.database))
        async with engine.working():
            await engine.trigger()
            running = await held.next()
            proxy.strand()
            engine.runs = RunRepository(direct.tenant(engine.tenant_id))
            async with asyncio.timeout(SECONDS):
                await engine.cancel(running.run_id)
                run_id = await engine.trigger()
                await running.ended.wait()
                (await held.next()).go.set()
                assert await ended(engine, run_id) is RunStatus.COMPLETED
        watching.cancel()
    await direct.close()


async def test_calls_under_way_end_and_others_work_before_long(database_url: str) -> None:
    begun, stranded = asyncio.Event(), asyncio.Event()

    async def call(database: Database) -> None:
        async with database.dispatch().transaction() as connection:
            begun.set()
            await stranded.wait()
            await connection.fetch("SELECT 1")

    async with Proxy(database_url) as proxy:
        database = Database(proxy.url, 3)
        await database.open()  # this one is idle
        watching = asyncio.create_task(watch_database(database))
        async with database.connection():
            under_way = asyncio.create_task(call(database))
            await begun.wait()
        proxy.strand()
        stranded.set()
        async with asyncio.timeout(SECONDS):
            with pytest.raises(Unavailable):
                await under_way
            await asyncio.gather(*(call(database) for _ in range(3)))
        watching.cancel()
        await database.close()


async def test_calls_that_wait_for_a_lock_are_not_taken_for_dead(
    database_url: str, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runengine_server.database.pool.STALLED_SECONDS", 0)
    pool = Database(database_url, 2)
    lock = database.transaction()
    await lock.start()
    await database.execute("LOCK TABLE campaigns IN ACCESS EXCLUSIVE MODE")
    campaigns = CampaignRepository(pool.tenant("org_a"))
    calls = [asyncio.create_task(campaigns.get(uuid4())) for _ in range(2)]
    waiting = """SELECT count(*) FROM pg_locks
        WHERE NOT granted AND relation = 'campaigns'::regclass AND database = (
            SELECT oid FROM pg_database WHERE datname = current_database())"""
    while await database.fetchval(waiting) < 2:
        pass
    with pytest.raises(TimeoutError):
        await pool.check(0.05)
    await asyncio.sleep(0)
    await lock.rollback()
    assert await asyncio.gather(*calls) == [None, None]
    await pool.close()
