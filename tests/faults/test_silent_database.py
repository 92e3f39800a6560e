"""A network that forgets the connections to PostgreSQL, and tells nobody."""

from __future__ import annotations

import asyncio

import pytest
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.database import Database
from runengine_server.repositories.run_repository import RunRepository
from runengine_server.start_database import watch

from tests.faults.proxy import Proxy
from tests.integration.harness import Held, chain, ended, serving

HEALED_SECONDS = 10


async def test_a_worker_hears_and_works_again_before_long(database_url: str) -> None:
    held = Held()
    direct = Database(database_url, 2)
    async with Proxy(database_url) as proxy, serving(proxy.url, chain(held=held.node)) as engine:
        watching = asyncio.create_task(watch(engine.database))
        async with engine.working():
            await engine.trigger()
            running = await held.next()
            proxy.strand()
            engine.runs = RunRepository(direct.tenant(engine.tenant_id))
            async with asyncio.timeout(HEALED_SECONDS):
                await engine.cancel(running.run_id)
                run_id = await engine.trigger()
                await running.ended.wait()
                (await held.next()).go.set()
                assert await ended(engine, run_id) is RunStatus.COMPLETED
        watching.cancel()
    await direct.close()


@pytest.mark.parametrize("idle", [0, 2])
async def test_calls_under_way_end_and_others_work_before_long(database_url: str, idle: int) -> None:
    begun = [asyncio.Event() for _ in range(3)]
    stranded = asyncio.Event()

    async def call(database: Database, number: int) -> None:
        async with database.dispatch().transaction() as connection:
            begun[number].set()
            if number >= idle:
                await stranded.wait()
            await connection.fetch("SELECT 1")

    async with Proxy(database_url) as proxy:
        database = Database(proxy.url, 3)
        watching = asyncio.create_task(watch(database))
        calls = [asyncio.create_task(call(database, number)) for number in range(3)]
        for event in begun:
            await event.wait()
        await asyncio.gather(*calls[:idle])
        proxy.strand()
        stranded.set()
        async with asyncio.timeout(HEALED_SECONDS):
            outcomes = await asyncio.gather(*calls[idle:], return_exceptions=True)
            assert {type(each) for each in outcomes} == {Unavailable}
            await asyncio.gather(*(call(database, number) for number in range(3)))
        watching.cancel()
        await database.close()
