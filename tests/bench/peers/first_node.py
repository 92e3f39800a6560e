"""What a first node waits for at least when claim and begin are durable: two commits of a row, and between
them LangGraph's start without a checkpointer. No claim is sought, nothing fenced, nobody notified.

Argument: the URL of a database. Asked for a count, it answers the median in milliseconds of so many.
"""

from __future__ import annotations

import asyncio
import sys
from statistics import median
from time import perf_counter
from typing import Any

import asyncpg
import uvloop

from tests.bench.data import PAYLOAD
from tests.bench.graphs import State
from tests.support.chains import chain_of

_INSERT = "INSERT INTO raw_commits VALUES ($1)"


async def main(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE IF NOT EXISTS raw_commits (number bigint)")
    entered = 0.0

    async def enter(state: State) -> State:
        nonlocal entered
        await connection.execute(_INSERT, 2)
        entered = perf_counter()
        return {}

    graph: Any = chain_of(State, enter=enter).compile()

    async def first_node() -> float:
        begin = perf_counter()
        await connection.execute(_INSERT, 1)
        await graph.ainvoke(PAYLOAD)
        await asyncio.sleep(0.02)
        return (entered - begin) * 1000

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := await asyncio.to_thread(sys.stdin.readline):
        sys.stdout.write(f"{median([await first_node() for _ in range(int(float(line)))])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
