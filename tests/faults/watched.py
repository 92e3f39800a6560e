"""The processes of the product, with what each has and what it logs."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncpg
from runengine_server.processes.children import Child

from tests.faults.pools import fill_notifier, fill_server, fill_worker, locked, until_waiting
from tests.faults.reporting import REPORTS
from tests.faults.resources import Reading, Reports, connections_of, ports_of
from tests.support.patience import SECONDS
from tests.support.stack import Stack, logging_to

PROCESSES = ("serve", "gateway", "worker")
WORKFLOWS = "tests.faults.leak_graphs:WORKFLOWS"
AGAIN_SECONDS = 0.25

# What no log may have: asyncio's words for what nobody waited for, with which it calls its exception
# handler, the words of ours, and Python's own.
_COMPLAINTS = re.compile(
    r"never retrieved|was destroyed but|unhandled|never awaited|unclosed|Exception ignored", re.IGNORECASE
)
_UNAWAITED = re.compile("never retrieved|was destroyed but|unhandled|never awaited", re.IGNORECASE)
_STOPPED = "--- told to stop\n"


class Watched:
    """serve, gateway and worker, with what each has and what it logs."""

    def __init__(self, database_url: str, state_dir: Path, directory: Path) -> None:
        self.stack = Stack(database_url, state_dir)
        self._database_url = database_url
        self._superuser_url = database_url.replace("runengine_app@", "postgres@")
        self._directory = directory
        self._children: dict[str, Child] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Watched]:
        """The processes, while the block runs."""
        separator = "&" if "?" in self._database_url else "?"
        path = self._directory / "reports"
        with Reports(path) as self._reports:
            self._admin = await asyncpg.create_pool(self._superuser_url, min_size=1)
            try:
                await self._admin.execute(
                    "INSERT INTO workflows (name) VALUES ('leaks-unserved') ON CONFLICT DO NOTHING"
                )
                for each in PROCESSES:
                    with logging_to(self._directory / f"{each}.log"):
                        (self._children[each],) = await self.stack.start(
                            each,
                            module="tests.faults.reporting",
                            DATABASE_URL=f"{self._database_url}{separator}application_name=leaks-{each}",
                            WORKFLOWS=WORKFLOWS,
                            **{REPORTS.removeprefix("RUNENGINE_"): str(path)},
                        )
                yield self
                for each in PROCESSES:
                    with (self._directory / f"{each}.log").open("a") as log:
                        log.write(_STOPPED)
            except BaseException:
                # What the load has met, with the server's own words for it.
                for each in PROCESSES:
                    lines = (self._directory / f"{each}.log").read_text().splitlines(keepends=True)
                    sys.stderr.writelines(line for line in lines if '"level":"error"' in line)
                raise
            finally:
                await self.stack.stop()
                await self._admin.close()

    async def read(self, collect: bool = False) -> Reading:
        """What each process has now; `collect`: after all garbage was collected, our own first, as a call
        that only a traceback keeps holds its connection to the server.
        """
        if collect:
            gc.collect()
        pids = {child.pid: name for name, child in self._children.items()}
        addresses = (self.stack.grpc_address, self.stack.rest_address)
        reading = await self._reports.read(pids, ports_of(addresses), collect)
        for name, connections in (await connections_of(self._admin, "leaks-")).items():
            reading[name]["connections"] = connections
        return reading

    async def quiet(self, seconds: float) -> Reading:
        """What they have once it has been the same for so long, the time for which idle threads stay."""
        last, since = await self.read(collect=True), time.monotonic()
        async with asyncio.timeout(seconds + SECONDS):
            while time.monotonic() - since < seconds:
                await asyncio.sleep(AGAIN_SECONDS)
                # Twice: a look for runs, or for the database's health, may be under way.
                if await self.read(collect=True) != last and (now := await self.read(collect=True)) != last:
                    last, since = now, time.monotonic()
        return last

    async def until(self, baseline: Reading) -> Reading:
        """What they have as soon as that is the baseline, or what they have when it does not become it."""
        until = time.monotonic() + SECONDS
        while (now := await self.read(collect=True)) != baseline and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(AGAIN_SECONDS)
        return now

    def locked(self, table: str) -> AbstractAsyncContextManager[None]:
        """Whatever reads or writes the table waits until the end of the block."""
        return locked(self._superuser_url, table)

    async def until_waiting(self, process: str, count: int) -> None:
        """Returns when so many connections of the process wait for a lock."""
        await until_waiting(self._admin, f"leaks-{process}", count)

    async def until_all_runs_have_ended(self) -> None:
        """But for those that nobody takes."""
        async with asyncio.timeout(SECONDS):
            while await self._admin.fetchval(  # noqa: ASYNC110
                """SELECT count(*) FROM runs WHERE status IN ('queued', 'running')
                AND workflow_name LIKE 'leaks-%' AND workflow_name <> 'leaks-unserved'"""
            ):
                await asyncio.sleep(AGAIN_SECONDS)

    async def fill(self) -> None:
        """Brings each pool to its size: connections of serve and of worker, and threads for nodes."""
        token = self.stack.token(f"org_{uuid.uuid4().hex}")
        async with self.stack.client(token) as client:
            await fill_worker(client, self._superuser_url, "leaks-worker", "leaks-wide")
            await fill_notifier(client, "leaks-bundling")
        # The last, when nobody watches any more: a watch that ends in the middle of a statement takes its
        # connection with it.
        async with self.stack.client(token) as client:
            await fill_server(client, self._superuser_url, "leaks-serve")

    def complaints(self) -> list[str]:
        """The lines of all logs that tell of something that nobody waited for or closed."""
        found = []
        for name in PROCESSES:
            # The socket by which a process hears of its parent's death is open to its own end.
            lines = (self._directory / f"{name}.log").read_text().split(_STOPPED)
            found += [f"{name}: {each}" for each in lines[0].splitlines() if _COMPLAINTS.search(each)]
            found += [
                f"{name}, stopping: {each}" for each in lines[-1].splitlines() if _UNAWAITED.search(each)
            ]
        return found
