"""INSERT and commit of one row on many connections, by nothing but asyncpg: what PostgreSQL takes at most.

Arguments: the URL of a database, the id of a run in it, how many connections. The rows go into a copy of
`runs` with all its indexes and checks, and have all of the run's columns; only the id is another each time.
Asked for SECONDS, it answers how many rows a second were committed.
"""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter

import asyncpg
import uvloop
from uuid_utils.compat import uuid7

from tests.bench.data import run_columns


async def main(url: str, run_id: str, count: str) -> None:
    connections = [await asyncpg.connect(url) for _ in range(int(count))]
    await connections[0].execute("CREATE TABLE IF NOT EXISTS raw_runs (LIKE runs INCLUDING ALL)")
    columns = await run_columns(connections[0])
    row = await connections[0].fetchrow(f"SELECT {', '.join(columns)} FROM runs WHERE id = $1", run_id)
    assert row is not None
    places = ", ".join(f"${number + 1}" for number in range(len(columns)))
    sql = f"INSERT INTO raw_runs ({', '.join(columns)}) VALUES ({places})"
    values, place = list(row.values()), columns.index("id")

    async def insert(connection: asyncpg.Connection, end: float) -> int:
        count, mine = 0, list(values)
        while perf_counter() < end:
            mine[place] = uuid7()
            await connection.execute(sql, *mine)
            count += 1
        return count

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := await asyncio.to_thread(sys.stdin.readline):
        begin = perf_counter()
        counts = await asyncio.gather(*(insert(each, begin + float(line)) for each in connections))
        sys.stdout.write(f"{sum(counts) / (perf_counter() - begin)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
