"""A PostgreSQL that lets nobody in, takes no writes, waits for a standby, or freezes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.database.connecting import CALL_SETTINGS, Connector
from runengine_server.database.database import Database
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import NewRun
from runengine_server.processes.backup import backup
from runengine_server.processes.watch_database import watch_database
from runengine_server.repositories.run_repository import IdempotencyKey, RunRepository
from runengine_server.settings import Settings

from tests.postgresql.commands import refusal
from tests.support.own_worker import ACTOR
from tests.support.patience import SECONDS
from tests.support.postgresql_servers import Server, postgresql_with_standby
from tests.support.stack import Stack, logging_to

# Less than the nine after which a call is given up: what ends by then did not wait for that.
AT_ONCE_SECONDS = 8
WRITES = 8

END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'"


def runs_of(database: Database) -> RunRepository:
    return RunRepository(database.tenant(f"org_{uuid4().hex}"))


async def trigger(runs: RunRepository) -> UUID:
    """A call with a key, which is a statement of its own, and so takes a connection of its own."""
    new = NewRun(uuid4(), TriggerRunRequest(workflow_name="unserved"))
    await runs.trigger(new, ACTOR, IdempotencyKey(uuid4().hex, b"hash"), None)
    return new.id


async def within(seconds: float, call: Any) -> Any:
    """As under a caller's deadline."""
    async with asyncio.timeout(seconds):
        return await call


async def test_calls_wait_for_a_busy_connection_when_there_are_no_more_slots(server: Server) -> None:
    async with server.superuser() as admin:
        await admin.execute("ALTER ROLE app CONNECTION LIMIT 2")
        database = Database(server.url("app"), 16)
        try:
            runs = runs_of(database)
            await asyncio.gather(*(trigger(runs) for _ in range(100)))
            async with database.connection():
                count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"
                assert await admin.fetchval(count) <= 2
        finally:
            await database.close()
            await admin.execute("ALTER ROLE app CONNECTION LIMIT -1")


async def test_without_any_slot_calls_are_unavailable_at_once(server: Server) -> None:
    async with server.superuser() as admin:
        await admin.execute("ALTER ROLE app CONNECTION LIMIT 0")
        database = Database(server.url("app"), 16)
        try:
            outcomes = await asyncio.gather(
                *(within(AT_ONCE_SECONDS, trigger(runs_of(database))) for _ in range(40)),
                return_exceptions=True,
            )
            assert {type(each) for each in outcomes} == {Unavailable}
        finally:
            await admin.execute("ALTER ROLE app CONNECTION LIMIT -1")
        await trigger(runs_of(database))
        await database.close()


async def test_reads_go_on_while_commits_wait_for_a_standby_that_is_gone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection: Any = Database.connection
    monkeypatch.setattr(connection, "__defaults__", (3600,))
    monkeypatch.setitem(CALL_SETTINGS, "statement_timeout", "0")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = 'app'"
    triggering = f"{waiting} AND query NOT LIKE 'NOTIFY%'"
    async with server.superuser() as admin:
        database = Database(server.url("app"), WRITES, kept_for_reads=2)
        runs = runs_of(database)
        run_id = await trigger(runs)
        await admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
        await admin.execute("SELECT pg_reload_conf()")
        try:
            triggers: list[asyncio.Task[UUID]] = []
            async with asyncio.timeout(SECONDS):
                # Some are done before the server has the new configuration; then they take all they can get.
                while await admin.fetchval(triggering) < WRITES:
                    triggers = [each for each in triggers if not each.done()]
                    triggers += [asyncio.create_task(trigger(runs)) for _ in range(24 - len(triggers))]
                reads = [await runs.get(run_id) for _ in range(20)]
            assert None not in reads
            assert await admin.fetchval(triggering) == WRITES
            for each in triggers:
                each.cancel()
            await asyncio.wait(triggers)
            async with asyncio.timeout(SECONDS):
                while await admin.fetchval(waiting):
                    pass
        finally:
            await admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await admin.execute("SELECT pg_reload_conf()")
        # What was cut off while it waited is committed, though nobody was told.
        await trigger(runs)
        await database.close()


@pytest.fixture
async def pair(version: int) -> AsyncIterator[tuple[Server, Server]]:
    async with postgresql_with_standby(version) as pair:
        yield pair


async def test_a_frozen_primary_is_left_when_its_standby_is_promoted(pair: tuple[Server, Server]) -> None:
    primary, standby = pair
    url = f"postgresql://app@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/runengine"
    database = Database(url, 8)
    watching = asyncio.create_task(watch_database(database))
    runs = runs_of(database)
    run_id = await trigger(runs)
    async with primary.superuser() as admin, standby.superuser() as follower:
        async with asyncio.timeout(SECONDS):
            until = await admin.fetchval("SELECT pg_current_wal_lsn()::text")
            while not await follower.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", until):
                pass
    await asyncio.gather(*(trigger(runs) for _ in range(20)))  # all connections are open
    primary.freeze()
    outcomes = await asyncio.gather(*(within(1, trigger(runs)) for _ in range(20)), return_exceptions=True)
    assert {type(each) for each in outcomes} <= {TimeoutError, Unavailable}
    async with standby.superuser() as follower:
        await follower.execute("SELECT pg_promote()")
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await within(1, trigger(runs))
            except (TimeoutError, Unavailable):
                continue
            break
    await asyncio.gather(*(runs.get(run_id) for _ in range(20)))
    assert await runs.get(run_id) is not None
    watching.cancel()
    await database.close()


async def test_a_backup_is_of_the_primary_though_its_standby_comes_first(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    primary, standby = pair
    hosts = f"127.0.0.1:{standby.port},127.0.0.1:{primary.port}"
    owner, app = (f"postgresql://{role}@{hosts}/runengine" for role in ("owner", "app"))
    settings = Settings(database_url=app, owner_database_url=owner, state_dir=tmp_path / "state")
    await backup(settings, tmp_path / "file")
    assert (tmp_path / "file").exists()


async def test_readiness_says_whether_the_database_can_be_written(
    server: Server, state_dir: Path, tmp_path: Path
) -> None:
    stack = Stack(server.url("app"), state_dir)
    log = tmp_path / "log"
    with logging_to(log):
        (serve,) = await stack.start("serve", rest_by="serve")
    rest = stack.rest(stack.token("org_a"))

    async def until_ready(status: int) -> None:
        async with asyncio.timeout(SECONDS):
            while (await rest.get("/readyz")).status_code != status:
                pass

    try:
        async with rest, server.superuser() as admin:
            await until_ready(200)
            names = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE usename = 'app'"
            assert await admin.fetchval(names) == f"runengine serve {serve.pid}"
            await admin.execute("ALTER DATABASE runengine SET default_transaction_read_only = on")
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'"
            )
            await until_ready(503)
            responses: list[httpx.Response] = [
                await rest.post("/runs", json={"workflowName": "unserved"}) for _ in range(5)
            ]
            assert {each.status_code for each in responses} == {503}
            assert (await rest.get(f"/runs/{uuid4()}")).status_code == 404
            said = await refusal("serve", state_dir, DATABASE_URL=server.url("app"))
            assert said.endswith("it is read-only")
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute("ALTER DATABASE runengine RESET default_transaction_read_only")
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'"
            )
            await until_ready(200)
    finally:
        await stack.stop()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = [line for line in lines if line["event"] == "trouble with the database"]
    assert [line["error"] for line in told if line["sqlstate"] == "25006"] == ["ReadOnlySQLTransactionError"]
    assert {"event": "the database takes no writes", "sqlstate": "25006", "error": "NotWritable"}.items() <= {
        **next(line for line in lines if "takes no writes" in line["event"])
    }.items()


async def test_the_kernel_looks_after_connections_too(server: Server) -> None:
    """Through a network that swallows what is sent; what a proxy acknowledges, it cannot know of."""
    url = f"{server.url('app')}?tcp_user_timeout=7000&keepalives_idle=3"
    connection = await Connector(url, "test").connect()
    watched = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    assert watched.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert watched.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 3
    assert watched.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
    await connection.close()
