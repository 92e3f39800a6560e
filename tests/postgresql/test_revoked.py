"""The database takes away what it had granted, and gives it back, while a run is running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from runengine_server.database.connecting import NotGranted
from runengine_server.database.database import Database
from runengine_server.database.migrations.migrate import migrate
from runengine_server.domain.run import RunStatus
from runengine_server.processes.watch_database import watch_database
from structlog.testing import capture_logs

from tests.support.own_worker import SECONDS, Held, Ran, chain, ended, serving, until
from tests.support.postgresql_servers import Server, empty_postgresql

PASSWORD = "not-for-logs"
END_SESSIONS = (
    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name LIKE 'runengine %'"
)


@dataclass(frozen=True)
class Revocation:
    """`sql` takes something away, of which PostgreSQL says `sqlstate`, and `words` among others."""

    sql: str
    sqlstate: str
    words: str
    undone: str = ""
    ends_sessions: bool = True


REVOCATIONS = {
    "login": Revocation(
        "ALTER ROLE app NOLOGIN", "28000", 'role "app" is not permitted to log in', "ALTER ROLE app LOGIN"
    ),
    "password": Revocation(
        "ALTER ROLE app PASSWORD 'another'", "28P01", 'password authentication failed for user "app"',
        f"ALTER ROLE app PASSWORD '{PASSWORD}'",
    ),
    "connect": Revocation(
        "REVOKE CONNECT ON DATABASE runengine FROM PUBLIC", "42501",
        'permission denied for database "runengine"', "GRANT CONNECT ON DATABASE runengine TO PUBLIC",
    ),
    "role": Revocation("DROP OWNED BY app; DROP ROLE app", "28P01", 'failed for user "app"'),
    "tables": Revocation(
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM app", "42501", "permission denied for table",
        ends_sessions=False,
    ),
    "one table": Revocation(
        "REVOKE INSERT ON checkpoints FROM app", "42501", "the role lacks INSERT on checkpoints",
        ends_sessions=False,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
async def server(version: int) -> AsyncIterator[Server]:
    """One that asks the application for its password."""
    async with empty_postgresql(version) as server:
        async with server.superuser("postgres") as admin:
            await admin.execute("CREATE ROLE owner LOGIN CREATEROLE")
            await admin.execute("CREATE DATABASE runengine OWNER owner")
        await migrate(server.url("owner"), url_of(server))
        access = "host all app 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
        (server.directory / "pg_hba.conf").write_text(access)
        async with server.superuser("postgres") as admin:
            await admin.execute("SELECT pg_reload_conf()")
        yield server


def url_of(server: Server) -> str:
    return server.url(f"app:{PASSWORD}")


@pytest.mark.parametrize("name", REVOCATIONS)
async def test_a_run_goes_on_once_what_was_revoked_is_granted_again(server: Server, name: str) -> None:
    revocation, held, serves = REVOCATIONS[name], Held(), asyncio.Queue[bool]()
    graph = chain(held=held.node, last=Ran().node("last"))
    async with serving(url_of(server), graph, lease_seconds=3) as engine, server.superuser() as admin:
        watched = Database(url_of(server), 1)
        watching = asyncio.create_task(watch_database(watched, serves.put_nowait))
        run_id = await engine.trigger()
        with capture_logs() as logs:
            async with engine.working(), asyncio.timeout(4 * SECONDS):
                execution = await held.next()
                await admin.execute(revocation.sql)
                if revocation.ends_sessions:
                    # Twice: one that was let in just before may not have been there at the first.
                    for _ in range(2):
                        await admin.execute(END_SESSIONS)
                execution.go.set()
                # What `/readyz` says.
                assert await serves.get() is False

                async def status_and_words() -> tuple[str, list[Mapping[str, Any]]]:
                    await asyncio.sleep(0.01)
                    status = await admin.fetchval("SELECT status FROM runs WHERE id = $1", run_id)
                    return status, said(logs, "cannot work")

                status, told = await until(
                    status_and_words,
                    lambda found: (
                        found[0] != "running"
                        or revocation.sqlstate in [each["sqlstate"] for each in found[1]]
                    ),
                )
                assert status == "running"
                if revocation.undone:
                    await admin.execute(revocation.undone)
                else:
                    await migrate(server.url("owner"), url_of(server))
                assert await serves.get() is True
                going_on = asyncio.create_task(let_go(held))
                assert await ended(engine, run_id) is RunStatus.COMPLETED
                going_on.cancel()
        watching.cancel()
        await watched.close()
    assert revocation.words in told[-1]["why"]
    told = said(logs, "cannot work")
    assert len(told) == len({each["sqlstate"] for each in told})
    assert said(logs, "works again")
    assert PASSWORD not in str(logs)


async def test_a_process_sees_that_one_grant_is_missing_and_that_it_is_back(server: Server) -> None:
    database = Database(url_of(server), 1)
    async with server.superuser() as admin:
        await admin.execute("REVOKE INSERT ON checkpoints FROM app")
        with pytest.raises(NotGranted, match="the role lacks INSERT on checkpoints"):
            await database.check()
        await migrate(server.url("owner"), url_of(server))
        assert await database.check() is None
    await database.close()


def said(logs: Sequence[Mapping[str, Any]], what: str) -> list[Mapping[str, Any]]:
    return [each for each in logs if each["event"] == f"the worker {what}"]


async def let_go(held: Held) -> None:
    while True:
        (await held.next()).go.set()
