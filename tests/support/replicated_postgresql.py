# ruff: noqa: ASYNC110 - it waits for what a standby does
"""PostgreSQL on hosts of their own: a primary, and a standby that has all that the primary acknowledges."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from tests.support.network import EVERYBODY, Host
from tests.support.postgresql_servers import BINARIES, Server

PORT = 5432

# What a network drops is noticed soon: the defaults are a minute.
_CONFIGURATION = """
listen_addresses = '*'
max_connections = 150
wal_receiver_timeout = 2s
wal_sender_timeout = 2s
wal_retrieve_retry_interval = 500ms
"""
_CAUGHT_UP = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'"


class Database(Server):
    """One on a host, below the directory; anybody on the wire is let in."""

    def __init__(self, host: Host, directory: Path, version: int = 18) -> None:
        self.host = host
        self.binaries = BINARIES[version]
        self.port = PORT
        self.directory = directory / host.name / "data"
        self.directory.parent.mkdir()
        shutil.chown(self.directory.parent, "nobody", "nogroup")
        self.process = None

    def url(self, role: str, database: str = "runengine") -> str:
        return f"postgresql://{role}@{self.host.address}:{self.port}/{database}"

    def run(self, command: str, *arguments: str) -> None:
        with self.host.inside():
            super().run(command, *arguments)

    def _start(self) -> None:
        with self.host.inside():
            super()._start()

    async def lead(self) -> None:
        """Starts it with a migrated database."""
        await asyncio.to_thread(self.initialize)
        with (self.directory / "postgresql.auto.conf").open("a") as file:
            file.write(_CONFIGURATION)
        with (self.directory / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {EVERYBODY} trust\nhost replication all {EVERYBODY} trust\n")
        await self.start()
        await self.prepare()

    async def follow(self, primary: Database) -> None:
        """Starts it anew as a standby. From then on the primary acknowledges what both have."""
        shutil.rmtree(self.directory, ignore_errors=True)
        source = f"host={primary.host.address} port={PORT} user=postgres"
        arguments = ("-D", str(self.directory), "-d", source, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        await asyncio.to_thread(self.run, "pg_basebackup", *arguments)
        with (self.directory / "postgresql.auto.conf").open("a") as file:
            file.write("synchronous_standby_names = ''\n")  # once it is the primary it has no standby yet
        await self.start()
        async with primary.superuser() as admin:
            await admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            await admin.execute("SELECT pg_reload_conf()")
        await primary.until_caught_up()

    async def until_caught_up(self) -> None:
        """Its standby has what it has."""
        async with self.superuser() as admin:
            while await admin.fetchval(_CAUGHT_UP) is None:
                await asyncio.sleep(0.05)

    async def promote(self) -> None:
        """The standby takes writes from now on."""
        async with self.superuser("postgres") as admin:
            await admin.fetchval("SELECT pg_promote()")
