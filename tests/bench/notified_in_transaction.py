"""Four servers, and beside them four whose triggers notify in their transaction, on a disk as it is or a slow
one. One server alone sends triggers that wait at the same time as one transaction, and so with one NOTIFY.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

from tests.bench.load import Missing
from tests.bench.servers import SERVER_CORE, UNSERVED, Bench
from tests.support.stack import ROOT, Stack, environment, free_address

_SLOW_FSYNC = Path(__file__).with_name("slow_fsync.c")
_NOTIFYING = "tests.bench.peers.notifying_serve"
_COMMITS = 50
_SERVERS = ["serve --shares-port"] * 4


@contextmanager
def slowed(directory: Path) -> Iterator[None]:
    """Whatever is started in the block has an fsync that takes 2 ms longer. Raises Missing."""
    if (compiler := shutil.which("cc")) is None:
        raise Missing("there is no C compiler, cc, to make fsync slow")
    library = directory / "slow_fsync.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, _SLOW_FSYNC], check=True)
    os.environ["LD_PRELOAD"] = str(library)
    try:
        yield
    finally:
        del os.environ["LD_PRELOAD"]


@asynccontextmanager
async def both(bench: Bench) -> AsyncIterator[tuple[Stack, str]]:
    """The stack, and the address of the others. Nobody else uses them, and no worker listens."""
    name = await bench.create_database()
    await bench.register(name, UNSERVED)
    async with bench.stack(name) as stack:
        environ = environment(DATABASE_URL=stack.settings["DATABASE_URL"], OWNER_DATABASE_URL=bench.url(name))
        command = (sys.executable, "-m", _NOTIFYING, "migrate")
        migrate = await asyncio.create_subprocess_exec(*command, env=environ, cwd=ROOT)
        assert await migrate.wait() == 0
        address = free_address()
        await bench.start(stack, SERVER_CORE, *_SERVERS)
        await bench.start(stack, SERVER_CORE, *_SERVERS, module=_NOTIFYING, GRPC_ADDRESS=address)
        yield stack, address


@asynccontextmanager
async def both_on_a_slow_disk(bench: Bench) -> AsyncIterator[tuple[Stack, str]]:
    """The same, on a PostgreSQL of their own."""
    async with AsyncExitStack() as exits:
        with slowed(bench.directory):
            slow = await exits.enter_async_context(Bench.open())
        bench.directories.append(slow.directory)
        async with slow.admin() as admin:
            await admin.execute("ALTER SYSTEM SET wal_sync_method = fdatasync")
            await admin.execute("SELECT pg_reload_conf()")
        bench.notes.append(
            f"fsync slowed: LD_PRELOAD of {_SLOW_FSYNC.name}, wal_sync_method fdatasync; a commit alone "
            f"takes {await _commit(slow):.2f} ms, and {await _commit(bench):.2f} ms on the disk as it is."
        )
        yield await exits.enter_async_context(both(slow))


async def _commit(bench: Bench) -> float:
    """The median milliseconds of a commit with nothing else under way."""
    async with bench.admin() as admin:
        taken = []
        for _ in range(_COMMITS):
            begin = perf_counter()
            await admin.execute("SELECT pg_logical_emit_message(true, 'bench', '')")
            taken.append((perf_counter() - begin) * 1000)
    return median(taken)
