"""`runengine-server up`: starts everything, says clearly why it cannot, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from runengine_client import InvalidArgument, RunEngineClient, RunEngineError
from runengine_server.auth import development
from runengine_server.database.migrations.migrate import ADVISORY_LOCK, migrate

from tests.support.patience import SECONDS
from tests.support.stack import environment, free_address
from tests.support.up import Up, running


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up")


async def completed_run(up: Up) -> str:
    token = development.sign(up.state_dir, "org_up", "user", 3600)
    async with RunEngineClient(up.grpc_address, token) as client:
        run = await client.trigger_run("campaign-bundle", trigger_payload={})
        return (await client.wait(run.id, timeout_seconds=SECONDS)).id


async def test_an_embedded_postgresql_keeps_its_data_and_leaves_nothing_running(directory: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        up = Up(directory)
        async with running(up) as greeting:
            assert up.grpc_address in greeting
            run_id = await completed_run(up)
            assert await Up(directory).refusal() == (
                f"runengine-server: runengine already runs in {directory}: stop it, "
                "or set RUNENGINE_STATE_DIR to another directory\n"
            )
            assert await up.end(number) == 0
        assert up.processes() == []
    up = Up(directory)
    async with running(up):
        token = development.sign(directory, "org_up", "user", 3600)
        async with RunEngineClient(up.grpc_address, token) as client:
            assert (await client.get_run(run_id)).id == run_id


async def test_the_processes_of_a_killed_start_stop_and_the_next_start_works(directory: Path) -> None:
    up = Up(directory)
    async with running(up):
        await up.end(signal.SIGKILL)
        # PostgreSQL too.
        async with asyncio.timeout(SECONDS):
            while await asyncio.to_thread(up.processes):
                pass
    again = Up(directory)
    async with running(again):
        assert await completed_run(again)
    assert again.processes() == []


LINGERING = """
import fcntl, os, subprocess, sys
state_dir = sys.argv[1]
lock = os.open(state_dir + "/lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
module = "runengine_server.processes.postgres_guard"
guard = subprocess.Popen([sys.executable, "-m", module, state_dir, str(os.getpid())], stdin=subprocess.PIPE)
guard.stdin.close()
try:
    guard.wait(2)  # one that takes the lock for another `up`'s ends within 0.1 s
except subprocess.TimeoutExpired:
    pass
"""


async def test_the_guard_stops_postgresql_though_the_lock_of_the_dead_is_held_longer_than_its_pipe(
    directory: Path,
) -> None:
    postmaster = await asyncio.create_subprocess_exec("sleep", "1000")
    (directory / "postgres").mkdir()
    (directory / "postgres" / "postmaster.pid").write_text(f"{postmaster.pid}\n")
    try:
        dying = await asyncio.create_subprocess_exec(sys.executable, "-c", LINGERING, str(directory))
        assert await dying.wait() == 0
        assert await asyncio.wait_for(postmaster.wait(), SECONDS) == -signal.SIGTERM
    finally:
        if postmaster.returncode is None:
            postmaster.kill()


async def test_a_state_directory_may_have_spaces_and_quotes_in_its_path(directory: Path) -> None:
    up = Up(directory / "the user's state directory")
    async with running(up):
        assert await completed_run(up)
    assert up.processes() == []


async def test_a_process_that_dies_is_started_again(directory: Path) -> None:
    up = Up(directory)
    async with running(up):
        os.kill(_worker_of(directory), signal.SIGKILL)
        assert await completed_run(up)


def _worker_of(directory: Path) -> int:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().endswith(b"\0runengine_server\0worker\0") and (
                f"RUNENGINE_STATE_DIR={directory}" in (entry / "environ").read_text(errors="replace")
            ):
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError("there is no worker")


async def test_the_greeting_and_the_triggers_follow_the_workflows_of_now(directory: Path) -> None:
    """A run of a workflow that no worker has any more would stay queued, and nobody would say so."""
    up = Up(directory)
    async with running(up) as greeting:
        assert '"campaign-bundle"' in greeting
        assert await completed_run(up)
    other = Up(directory, WORKFLOWS="tests.support.graphs:RESTARTED")
    async with running(other) as greeting:
        assert "campaign-bundle" not in greeting
        assert "YOUR-WORKFLOW" in greeting
        with pytest.raises(InvalidArgument):
            await completed_run(other)


async def test_a_key_of_clerk_without_its_issuer_is_not_ignored(directory: Path) -> None:
    up = Up(directory, CLERK_JWT_KEY=development.public_pem(directory))
    assert "RUNENGINE_CLERK_ISSUER is missing" in await up.refusal()
    assert up.processes() == []


async def test_a_taken_port_is_named(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for variable in ("GRPC_ADDRESS", "REST_ADDRESS"):
            up = Up(directory, **{variable: address})
            assert f"RUNENGINE_{variable}: {address} cannot be used" in await up.refusal()
            assert up.processes() == []


async def test_a_state_directory_that_cannot_be_written_is_named(directory: Path) -> None:
    (directory / "file").touch()
    up = Up(directory / "file" / "state")
    assert f"RUNENGINE_STATE_DIR: cannot write {up.state_dir}" in await up.refusal()


async def test_a_database_that_cannot_be_reached_is_named_without_its_password(directory: Path) -> None:
    address = free_address()
    up = Up(directory, DATABASE_URL=f"postgresql://app:hush@{address}/runengine")
    refusal = await up.refusal()
    assert f"RUNENGINE_DATABASE_URL: cannot use the database at {address}" in refusal
    assert "hush" not in refusal
    assert up.processes() == []


@pytest.mark.parametrize(
    ("workflows", "says"),
    [
        ("no.such:WORKFLOWS", "cannot import no.such:WORKFLOWS (ModuleNotFoundError"),
        ("tests.support.graphs:NONE", "cannot import tests.support.graphs:NONE (AttributeError"),
        ("tests.support.graphs:GATED", "must be a dict"),
        ("tests.support.graphs", "must be module:attribute"),
    ],
)
async def test_workflows_that_cannot_be_had_are_named(directory: Path, workflows: str, says: str) -> None:
    up = Up(directory, WORKFLOWS=workflows)
    refusal = await up.refusal()
    assert refusal.startswith("runengine-server: RUNENGINE_WORKFLOWS")
    assert says in refusal
    assert up.processes() == []


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("serve", "RUNENGINE_CLERK_ISSUER is required"),
        ("worker", "there is no database"),
        ("migrate", "there is no"),
    ],
)
async def test_a_process_alone_refuses_to_start_half_configured(
    directory: Path, command: str, says: str
) -> None:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RUNENGINE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runengine_server", command,
        env={**inherited, "RUNENGINE_STATE_DIR": str(directory)}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await process.communicate()
    assert process.returncode == 1
    assert says in err.decode()
    assert err.count(b"\n") == 1


async def test_a_postgres_that_dies_is_started_again(directory: Path) -> None:
    up = Up(directory)
    async with running(up):
        pid = int((directory / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)
        # Calls fail until it is back; the first that does not is the event.
        async with asyncio.timeout(SECONDS):
            while True:
                with suppress(RunEngineError):
                    assert await completed_run(up)
                    break
    assert up.processes() == []


async def test_a_signal_ends_it_while_it_waits_for_the_migrations_of_another(
    directory: Path, database_url: str, database: asyncpg.Connection
) -> None:
    waiting = """SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'SELECT pg_try_advisory_lock%'"""
    owner_url = database_url.replace("runengine_app@", "runengine_owner@")
    await database.execute("SELECT pg_advisory_lock($1)", ADVISORY_LOCK)
    up = Up(directory, DATABASE_URL=database_url, OWNER_DATABASE_URL=owner_url)
    await up.start()
    try:
        async with asyncio.timeout(SECONDS):
            while not await database.fetchval(waiting):
                pass
        up.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SECONDS):
            assert await up.process.wait() == 0
    finally:
        if up.process.returncode is None:
            up.process.kill()
            await up.process.wait()
    assert up.processes() == []


@pytest.fixture
async def new_database(database_url: str, database: asyncpg.Connection) -> AsyncIterator[str]:
    """The URL of a database without a schema, as its owner."""
    name = f"new_{uuid.uuid4().hex}"
    await database.execute(f"CREATE DATABASE {name} OWNER runengine_owner")
    parts = urlsplit(database_url)
    yield f"postgresql://runengine_owner@/{name}?{parts.query}"
    await database.execute(f"DROP DATABASE {name} WITH (FORCE)")


def as_application(owner_url: str) -> str:
    return owner_url.replace("runengine_owner@", "runengine_app@")


async def tables(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
    finally:
        await connection.close()
    return sorted(row["tablename"] for row in rows)


async def test_migrations_run_twice_and_twice_at_once(new_database: str) -> None:
    await asyncio.gather(*(migrate(new_database, as_application(new_database)) for _ in range(3)))
    found = await tables(new_database)
    assert "runs" in found
    await migrate(new_database, as_application(new_database))
    assert await tables(new_database) == found


@pytest.mark.parametrize(("scheme", "more"), [("postgres", ""), ("postgresql", "&application_name=x")])
async def test_migrations_run_with_every_url_that_connects(new_database: str, scheme: str, more: str) -> None:
    url = new_database.replace("postgresql", scheme) + more
    await migrate(url, as_application(url))
    assert "runs" in await tables(new_database)


async def test_the_application_cannot_write_the_version_of_the_schema(new_database: str) -> None:
    await migrate(new_database, as_application(new_database))
    connection = await asyncpg.connect(as_application(new_database))
    try:
        for statement in (
            "DELETE FROM alembic_version",
            "UPDATE alembic_version SET version_num = '0'",
            "INSERT INTO alembic_version VALUES ('0')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("role", "says"),
    [("postgres", "the role postgres is a superuser"), ("runengine_owner", "the role runengine_owner owns")],
)
async def test_a_role_that_sees_every_tenant_is_refused(
    directory: Path, database_url: str, role: str, says: str
) -> None:
    settings = {
        "STATE_DIR": str(directory),
        "DATABASE_URL": database_url.replace("runengine_app@", f"{role}@"),
        "CLERK_ISSUER": development.ISSUER,
        "CLERK_JWT_KEY": development.public_pem(directory),
        "GRPC_ADDRESS": free_address(),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runengine_server", "serve",
        env=environment(**settings), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 1
    assert out == b""
    assert err.decode().startswith(f"runengine-server: RUNENGINE_DATABASE_URL: {says}")
    assert err.count(b"\n") == 1


@pytest.mark.parametrize(
    ("process", "without"),
    [
        ("serve", {"langgraph", "langchain_core", "sqlalchemy"}),
        ("gateway", {"langgraph", "langchain_core", "sqlalchemy"}),
        ("worker", {"sqlalchemy"}),
        ("up", {"langgraph", "langchain_core", "sqlalchemy", "grpc"}),
    ],
)
async def test_a_process_does_not_import_what_it_may_never_need(process: str, without: set[str]) -> None:
    code = f"import sys, runengine_server.processes.{process}; print(*{without} & sys.modules.keys())"
    started = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await started.communicate()
    assert (started.returncode, out.decode().split()) == (0, [])


@pytest.mark.parametrize("command", ["up", "serve", "gateway", "worker"])
async def test_a_process_does_not_import_rich_which_whoever_wants_it_still_gets(command: str) -> None:
    code = f"""import sys
from runengine_server import __main__
__main__._run = lambda process: print("structlog" in sys.modules, "rich" in sys.modules)
__main__.cli(["{command}"], standalone_mode=False)
import rich
"""
    started = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await started.communicate()
    assert (started.returncode, out.decode().split()) == (0, ["True", "False"])
