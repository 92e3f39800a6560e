"""The product behind pgbouncer, in both of its modes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from runengine.v1.run_pb2 import RunStatus
from runengine_client import RunEngineClient, RunNotFound, Unavailable
from runengine_server.database.connecting import CALL_SETTINGS, Connector, keeps_session
from runengine_server.processes.migrate import migrate
from runengine_server.processes.open_database import ensure_listening_works, open_database
from runengine_server.settings import Settings, SettingsError

from tests.support.gates import Gates
from tests.support.leases import LEASE_ENDS
from tests.support.patience import SECONDS
from tests.support.postgresql_servers import PgBouncer, Server, needs_pgbouncer, pgbouncer
from tests.support.stack import Stack

pytestmark = needs_pgbouncer

TENANTS, CALLS = 5, 10
LEASE_SECONDS = "1"


@asynccontextmanager
async def serving(state_dir: Path, url: str, **settings: str) -> AsyncIterator[Stack]:
    stack = Stack(url, state_dir)
    try:
        await stack.start("serve", "worker", LEASE_SECONDS=LEASE_SECONDS, **settings)
        yield stack
    finally:
        await stack.stop()


@asynccontextmanager
async def clients_of(stack: Stack) -> AsyncIterator[Sequence[RunEngineClient]]:
    """Each of another tenant."""
    async with AsyncExitStack() as opened:
        yield [
            await opened.enter_async_context(stack.client(stack.token(f"org_{uuid4().hex}")))
            for _ in range(TENANTS)
        ]


async def work(stack: Stack, admin: asyncpg.Connection) -> None:
    """Calls of several tenants at once, while a run outlasts its lease."""
    async with Gates() as gates, clients_of(stack) as clients:
        held = await clients[0].trigger_run("gated", trigger_payload={"gates": gates.path})
        gate = await gates.next()
        lease = await admin.fetchval(f"SELECT {LEASE_ENDS} FROM runs WHERE id = $1", held.id)

        async def call(client: RunEngineClient) -> None:
            run = await client.trigger_run("unserved")
            assert (await client.get_run(run.id)).id == run.id
            assert (await client.cancel_run(run.id)).status == RunStatus.RUN_STATUS_CANCELLED
            if client is not clients[0]:
                with pytest.raises(RunNotFound):
                    await client.get_run(held.id)

        await asyncio.gather(*(call(client) for client in clients for _ in range(CALLS)))
        is_over = "SELECT clock_timestamp() > $1::timestamptz + interval '1 s'"
        async with asyncio.timeout(SECONDS):
            while not await admin.fetchval(is_over, lease):
                pass
        gate.open()
        run = await clients[0].wait(held.id, timeout_seconds=SECONDS)
        assert run.status == RunStatus.RUN_STATUS_COMPLETED
        # Nobody took it over.
        assert await admin.fetchval("SELECT epoch FROM runs WHERE id = $1", held.id) == 1


async def session_of(connection: asyncpg.Connection) -> tuple[Any, ...]:
    """The settings that matter, and how many runs are seen."""
    names = [*CALL_SETTINGS, "runengine.tenant", "runengine.dispatch"]
    shown = ", ".join(f"nullif(current_setting('{name}', true), '')" for name in names)
    async with connection.transaction():  # so that a pooler gives each a server of its own
        return tuple(await connection.fetchrow(f"SELECT count(*), {shown} FROM runs") or ())


async def test_sessions_that_a_pooler_gives_away_are_left_as_they_were(
    server: Server, state_dir: Path
) -> None:
    async with (
        server.superuser() as admin,
        pgbouncer(server, "transaction") as pooler,
        serving(state_dir, pooler.url("app"), LISTEN_DATABASE_URL=server.url("app")) as stack,
    ):
        await work(stack, admin)
        fresh = await asyncpg.connect(server.url("app"))
        others = [await asyncpg.connect(pooler.url("app"), statement_cache_size=0) for _ in range(5)]
        sessions = set(await asyncio.gather(*map(session_of, others)))
        assert sessions == {await session_of(fresh)}
        assert next(iter(sessions))[0] == 0
        prepared = await asyncio.gather(
            *(
                each.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
                for each in others
            )
        )
        assert set(prepared) == {0}
        for connection in (fresh, *others):
            connection.terminate()
        await outlive(pooler, stack)
        await work(stack, admin)


async def outlive(pooler: PgBouncer, stack: Stack) -> None:
    """Returns once calls work again after the pooler has died and come back."""
    pooler.kill()
    async with clients_of(stack) as (client, *_):
        with pytest.raises(Unavailable):
            await client.trigger_run("unserved")
        await pooler.start()
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    await client.trigger_run("unserved")
                except Unavailable:
                    continue
                return


async def test_a_pooler_that_keeps_sessions_is_as_good_as_the_server(server: Server, state_dir: Path) -> None:
    async with (
        server.superuser() as admin,
        pgbouncer(server, "session", "default_pool_size = 50") as pooler,
        serving(state_dir, pooler.url("app")) as stack,
    ):
        await work(stack, admin)


@pytest.mark.parametrize("settings", ["", "ignore_startup_parameters = extra_float_digits,statement_timeout"])
async def test_a_pooler_is_found_out_by_the_first_connection(server: Server, settings: str) -> None:
    for mode in ("transaction", "session"):
        async with pgbouncer(server, mode, settings) as pooler:
            connector = Connector(pooler.url("app"), "test")
            connection = await connector.connect()
            assert connector.pooled
            assert await keeps_session(connector) == (mode == "session")
            connection.terminate()
    connector = Connector(server.url("app"), "test")
    (await connector.connect()).terminate()
    assert not connector.pooled
    assert await keeps_session(connector)


async def test_a_process_that_needs_a_session_refuses_to_start_without_one(server: Server) -> None:
    async def start(process: Callable[[Settings], Awaitable[object]], **urls: Any) -> str:
        with pytest.raises(SettingsError) as refusal:
            await process(Settings(**urls))
        assert "\n" not in str(refusal.value)
        return str(refusal.value)

    async def worker(settings: Settings) -> None:
        database = await open_database(settings, "worker", 2)
        try:
            await ensure_listening_works(settings, database)
        finally:
            await database.close()

    direct = server.url("app")
    async with pgbouncer(server, "transaction") as pooler:
        pooled = pooler.url("app")
        assert (await start(worker, database_url=pooled)).startswith(
            "RUNENGINE_LISTEN_DATABASE_URL is missing, and RUNENGINE_DATABASE_URL is that of a pooler"
        )
        assert (await start(worker, database_url=direct, listen_database_url=pooled)).startswith(
            "RUNENGINE_LISTEN_DATABASE_URL is that of a pooler"
        )
        assert (await start(migrate, database_url=direct, owner_database_url=pooler.url("owner"))).startswith(
            "RUNENGINE_OWNER_DATABASE_URL is that of a pooler"
        )
        await worker(Settings(database_url=pooled, listen_database_url=direct))
    async with pgbouncer(server, "statement") as pooler:
        said = await start(worker, database_url=pooler.url("app"))
        assert said.startswith(
            f"RUNENGINE_DATABASE_URL: cannot use the database at 127.0.0.1:{pooler.port}: "
        )
        assert "statement pooling" in said
