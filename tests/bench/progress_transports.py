"""What brings progress from workers to servers: payloads of NOTIFY, or rows of an unlogged table?

`python -m tests.bench.progress_transports`: a worker sends fifty events of 200 bytes every 50 ms, and a
server receives them; first alone, then while sixteen clients commit, on a disk as it is and on one whose
fsync takes 2 ms longer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TypeAlias

import asyncpg
from rich.console import Console
from rich.table import Table

from tests.bench.notified_in_transaction import slowed
from tests.support.stack import open_directory, own_postgres

_ROUNDS, _SECONDS, _INTERVAL = 5, 4.0, 0.05
_EVENTS, _EVENT = 50, "e" * 200
_WRITERS = 16

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Transport: TypeAlias = Callable[["Measured", Connection, Connection], Coroutine[Any, Any, None]]

_SCHEMA = """CREATE UNLOGGED TABLE progress
    (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, sent float8, data text);
CREATE TABLE committed (id int)"""


class Measured:
    """What one round has measured."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.commits = 0
        self.cpu_us = 0.0


async def _batches(send: Callable[[], Coroutine[Any, Any, None]]) -> None:
    until = perf_counter() + _SECONDS
    while perf_counter() < until:
        await asyncio.gather(send(), asyncio.sleep(_INTERVAL))


async def by_payload(measured: Measured, worker: Connection, server: Connection) -> None:
    """Up to 7.8 kB of events a payload."""

    async def send() -> None:
        payload = f"{perf_counter()} " + _EVENT * (_EVENTS // 2)
        await worker.execute("SELECT pg_notify('progress', $1), pg_notify('progress', $1 || '.')", payload)

    def received(_connection: Any, _pid: int, _channel: str, payload: Any) -> None:
        measured.latencies.append(perf_counter() - float(str(payload).partition(" ")[0]))

    await server.add_listener("progress", received)
    await _batches(send)
    await server.remove_listener("progress", received)


async def by_table(measured: Measured, worker: Connection, server: Connection) -> None:
    """A row an event; NOTIFY without a payload, upon which the server reads what is new; the worker trims."""
    wake, count = asyncio.Event(), 0
    seen = await server.fetchval("SELECT coalesce(max(id), 0) FROM progress")

    async def send() -> None:
        nonlocal count
        await worker.execute(
            "WITH sent AS (INSERT INTO progress (sent, data) SELECT $1, unnest($2::text[])) "
            "SELECT pg_notify('progress', '')",
            perf_counter(),
            [_EVENT] * _EVENTS,
        )
        count += 1
        if count % 20 == 0:
            await worker.execute("DELETE FROM progress WHERE id <= (SELECT max(id) - 500 FROM progress)")

    async def read() -> None:
        nonlocal seen
        while True:
            await wake.wait()
            wake.clear()
            for row in await server.fetch("SELECT * FROM progress WHERE id > $1 ORDER BY id", seen):
                measured.latencies.append(perf_counter() - row["sent"])
                seen = row["id"]

    def received(*_: Any) -> None:
        wake.set()

    reading = asyncio.create_task(read())
    await server.add_listener("progress", received)
    await _batches(send)
    await server.remove_listener("progress", received)
    reading.cancel()


async def by_nothing(measured: Measured, worker: Connection, server: Connection) -> None:
    """No progress: what the others cost is the difference."""
    await asyncio.sleep(_SECONDS)


async def _round(url: str, postmaster: int, transport: Transport, clients: int) -> Measured:
    measured = Measured()
    writers = [await asyncpg.connect(url) for _ in range(clients)]
    worker, server = await asyncpg.connect(url), await asyncpg.connect(url)
    for listener in (listeners := [await asyncpg.connect(url) for _ in range(4)]):
        await listener.add_listener("other", lambda *_: None)  # as each worker and server has one

    async def commit(writer: Connection) -> None:
        while True:
            await writer.execute("INSERT INTO committed VALUES (1)")
            measured.commits += 1

    def cpu() -> float:
        pids = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
        return sum(int(each[11]) + int(each[12]) for each in stats) / os.sysconf("SC_CLK_TCK")

    writing = [asyncio.create_task(commit(writer)) for writer in writers]
    before = cpu()
    await transport(measured, worker, server)
    measured.cpu_us = (cpu() - before) * 1e6
    for task in writing:
        task.cancel()
    await asyncio.gather(*writing, return_exceptions=True)
    for connection in (*writers, *listeners, worker, server):
        connection.terminate()
    return measured


async def _measure(is_slow: bool, table: Table) -> None:
    with ExitStack() as exits:
        directory = exits.enter_context(open_directory())
        if is_slow:
            exits.enter_context(slowed(directory))
        async with own_postgres(directory) as (_, url):
            admin_url = url.replace("runengine_app@", "postgres@")
            admin = await asyncpg.connect(admin_url)
            await admin.execute(_SCHEMA)
            await admin.execute("ALTER SYSTEM SET wal_sync_method = fdatasync")
            await admin.execute("SELECT pg_reload_conf()")
            pid = int((directory / "postgres" / "postmaster.pid").read_text().split()[0])
            rounds: dict[tuple[int, str], list[Measured]] = {}
            for _ in range(_ROUNDS):
                for clients in (0, _WRITERS):
                    for transport in (by_nothing, by_payload, by_table):
                        found = await _round(admin_url, pid, transport, clients)
                        rounds.setdefault((clients, transport.__name__), []).append(found)
            await admin.close()
    for (clients, name), all_of in rounds.items():
        latencies = sorted(1000 * each for one in all_of for each in one.latencies)
        cpu = median(one.cpu_us for one in all_of) / _SECONDS / (_EVENTS / _INTERVAL)
        table.add_row(
            "2 ms longer" if is_slow else "as it is",
            str(clients),
            name.replace("by_", ""),
            f"{median(one.commits for one in all_of) / _SECONDS:,.0f}" if clients else "",
            "" if clients else f"{cpu:.1f}",
            f"{latencies[len(latencies) // 2]:.2f}" if latencies else "",
            f"{latencies[len(latencies) * 99 // 100]:.2f}" if latencies else "",
        )


async def main() -> None:
    """Prints a line for each transport and disk."""
    columns = (
        "fsync",
        "clients",
        "progress",
        "commits/s",
        "CPU µs of PostgreSQL an event",
        "p50 ms",
        "p99 ms",
    )
    table = Table(*columns)
    for is_slow in (False, True):
        await _measure(is_slow, table)
    Console(width=120).print(table)


if __name__ == "__main__":
    asyncio.run(main())
