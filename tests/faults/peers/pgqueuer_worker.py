"""pgqueuer's part of the zombie scenario: `setup`, `defer GATES` or `work`, after the database's URL."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pgqueuer  # type: ignore[import-not-found]

from tests.support.gates import pass_gate

# Its defaults are 30 s each. A job whose heartbeat is older than this is taken over by any worker that looks
# for work, which it does when notified and once every DEQUEUE.
HEARTBEAT = timedelta(seconds=1.5)
DEQUEUE = timedelta(seconds=1)


@asynccontextmanager
async def create_worker(url: str) -> AsyncIterator[pgqueuer.PgQueuer]:
    connection = await asyncpg.connect(url)
    worker = pgqueuer.PgQueuer.from_asyncpg_connection(connection)

    @worker.entrypoint("held")  # type: ignore[untyped-decorator]
    async def held(job: pgqueuer.Job) -> None:
        if await pass_gate(job.payload.decode(), "held") == "fail":
            raise RuntimeError("The gate said so.")

    try:
        yield worker
    finally:
        await connection.close()


async def main(url: str, command: str, *arguments: str) -> None:
    if command == "work":
        await pgqueuer.run(lambda: create_worker(url), heartbeat_timeout=HEARTBEAT, dequeue_timeout=DEQUEUE)
        return
    connection = await asyncpg.connect(url)
    queries = pgqueuer.Queries.from_asyncpg_connection(connection)
    match command:
        case "setup":
            await queries.install()
        case "defer":
            await queries.enqueue("held", arguments[0].encode())
    await connection.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(*sys.argv[1:]))
