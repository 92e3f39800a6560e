"""A disk without room, for real: a small tmpfs that a file has filled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine_server.database.database import Database
from runengine_server.domain.run import RunStatus
from runengine_server.processes.watch_database import watch_database
from runengine_server.repositories.artifact_store import ArtifactStore

from tests.support.own_worker import SECONDS, chain, serving, until
from tests.support.postgresql_servers import Server
from tests.support.stack import Stack, logging_to, open_directory


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """A file system of so much room, mounted there."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    mounted = (
        os.geteuid() == 0
        and shutil.which("mount") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )
    if not mounted:
        pytest.skip("needs to mount a file system")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextmanager
def filled(directory: Path) -> Iterator[None]:
    """Not a byte is free there."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(64 * 1024)):
            pass
    assert shutil.disk_usage(directory).free == 0
    try:
        yield
    finally:
        filler.unlink()


@asynccontextmanager
async def postgresql_on(disk: Path, beside: Path) -> AsyncIterator[Server]:
    """A migrated server with its tables on the disk, and its log of writes beside."""
    server = Server(18, disk / "data")
    for directory in (disk, beside):
        if os.geteuid() == 0:
            shutil.chown(directory, "nobody", "nogroup")
    wal = ("-X", str(beside / "wal"), "--no-sync")
    server.run("initdb", "-D", str(server.directory), "-U", "postgres", "-A", "trust", *wal)
    (server.directory / "postgresql.auto.conf").write_text("shared_buffers = 16MB\nfsync = off\n")
    try:
        await server.start()
        await server.prepare()
        yield server
    finally:
        server.stop()


async def test_readiness_follows_the_room_on_the_disk_of_the_database(
    state_dir: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with open_directory() as beside, open_directory() as where, small_disk(where, "128m") as disk:
        async with postgresql_on(disk, beside) as server:
            stack = Stack(server.url("app"), state_dir)
            try:
                with logging_to(log):
                    await stack.start("serve", rest_by="serve")
                async with httpx.AsyncClient(base_url=f"http://{stack.rest_address}") as rest:

                    async def ready() -> httpx.Response:
                        return await rest.get("/readyz")

                    assert (await ready()).status_code == 200
                    with filled(disk):
                        full = await until(ready, lambda response: response.status_code == 503)
                        assert full.json()["reason"] == "UNAVAILABLE"
                        assert (await rest.get("/healthz")).status_code == 200
                    await until(ready, lambda response: response.status_code == 200)
            finally:
                await stack.stop()
    said = log.read_text()
    assert '"the database takes no writes"' in said
    assert '"53100"' in said


async def test_a_process_that_watches_sees_that_there_is_no_room_and_that_there_is() -> None:
    with open_directory() as beside, open_directory() as where, small_disk(where, "128m") as disk:
        async with postgresql_on(disk, beside) as server:
            looks, told = asyncio.Semaphore(0), list[bool]()

            class Watched(Database):
                async def check(self, seconds: float = SECONDS) -> str | None:
                    looks.release()
                    return await super().check(SECONDS)

            database = Watched(server.url("app"), 1)

            async def look() -> None:
                """Returns when it has looked since, from beginning to end."""
                while not looks.locked():
                    await looks.acquire()
                for _ in range(2):
                    await looks.acquire()

            watching = asyncio.create_task(
                watch_database(database, told.append, seconds=0.01, disk_seconds=0)
            )
            try:
                async with asyncio.timeout(SECONDS):
                    await look()
                    assert told == []
                    with filled(disk):
                        await look()
                        assert told == [False]
                    await look()
                    assert told == [False, True]
            finally:
                watching.cancel()
                await database.close()


async def test_an_artifact_that_finds_no_room_fails_its_step_in_plain_words(
    database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def save(state: Any, runtime: Runtime[RunContext]) -> dict[str, Any]:
        await runtime.context.save_artifact("large.bin", bytes(512 * 1024), "application/octet-stream")
        return {}

    with small_disk(tmp_path_factory.mktemp("disk"), "1m") as disk:
        async with serving(database_url, chain(save=save)) as engine:
            engine.directory = disk / "artifacts"
            engine.deploy(chain(save=save))
            with filled(disk):
                failed = await engine.execute()
            assert failed.error is not None
            assert failed.error.message == "ArtifactNotStored: The artifact could not be stored."
            assert failed.error.retryable
            assert [path for path in disk.rglob("*") if path.is_file()] == []
            assert (await engine.execute_again(failed.id)).status is RunStatus.COMPLETED
            (saved,) = [path for path in disk.rglob("*") if path.is_file()]
            assert saved.stat().st_size == 512 * 1024
            assert ArtifactStore.key(engine.tenant_id, failed.id, failed.id).startswith(
                str(saved.parent.relative_to(engine.directory))
            )
