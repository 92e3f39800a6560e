"""An embedded PostgreSQL that all test processes of a user share, for `runengine.testing`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from runengine_server.database.connecting import Connector
from runengine_server.database.functions import schema
from runengine_server.database.migrations.migrate import migrate
from runengine_server.processes.embedded_postgres import EmbeddedPostgres
from runengine_server.processes.embedded_urls import OWNER, running_urls

# Nothing of it has to outlive the machine.
_CONFIGURE = (
    "ALTER SYSTEM SET fsync = off",
    "ALTER SYSTEM SET synchronous_commit = off",
    "ALTER SYSTEM SET max_connections = 400",
    "SELECT pg_reload_conf()",
)

# What earlier sessions have left.
_EMPTY = """
DO $$ DECLARE _tables text; BEGIN
    SELECT string_agg(format('%I', tablename), ', ') INTO _tables
    FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version';
    EXECUTE 'TRUNCATE ' || _tables || ' CASCADE';
END $$
"""

# In a process: the application's URL, by the directory that the server is in.
_urls: dict[Path, str] = {}


async def shared_postgres() -> str:
    """The application's URL of a migrated PostgreSQL, which this process has until it ends. It is stopped
    once no process has it; its directory stays, because to make one takes seconds.

    Raises RuntimeError, in one line, when it cannot start.
    """
    directory = _directory()
    if directory not in _urls:
        lock = os.open(directory / "starting", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
            if directory not in _urls:
                _urls[directory] = await _start(directory)
        except Exception as error:
            raise RuntimeError(
                f"PostgreSQL does not start ({type(error).__name__}: {error}); delete {directory}"
            ) from error
        finally:
            os.close(lock)
    return _urls[directory]


def _directory() -> Path:
    """That of this user and of this version's SQL."""
    directory = Path(tempfile.gettempdir(), f"runengine-testing-{os.getuid()}-{schema()}")
    # PostgreSQL runs as a user of its own where this one is root.
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o711)
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        raise RuntimeError(f"{directory} is another user's")
    return directory


async def _start(directory: Path) -> str:
    await asyncio.to_thread(_hold_until_the_end, directory)
    was_running = running_urls(directory) is not None
    owner_url, url = await EmbeddedPostgres(directory).start()
    if not was_running:
        await _execute(owner_url.replace(OWNER, "postgres", 1), *_CONFIGURE)
    await migrate(owner_url, url)
    if not was_running:
        await _execute(owner_url, _EMPTY)
    return url


async def _execute(url: str, *statements: str) -> None:
    connection = await Connector(url, "testing").connect()
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def _hold_until_the_end(directory: Path) -> None:
    """Has the server run for as long as this process does. Each process that has it shares a lock, and its
    guard stops the server where nobody else has that.
    """
    fcntl.flock(os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_SH)
    # Its standard input reaches end of file when this process ends.
    reader, _ = os.pipe()
    guard = subprocess.Popen(
        [sys.executable, "-m", "runengine_server.processes.postgres_guard", str(directory), str(os.getpid())],
        stdin=reader,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(reader)
    guard.returncode = 0  # it outlives this process, which would warn of that
