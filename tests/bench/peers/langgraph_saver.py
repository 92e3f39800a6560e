"""LangGraph by itself, with its own AsyncPostgresSaver and durability "sync".

A saver serialises its calls with a lock, so that each of the concurrent runs has one, with a connection.
Arguments: the URL of its database, how many runs are under way at a time, the input as JSON.
Asked for RUNS, it answers how many runs a second it completed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any
from uuid import uuid4

import uvloop
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from tests.bench.graphs import FOUR_STEPS


async def main(url: str, concurrent: int, payload: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        savers = [
            await stack.enter_async_context(AsyncPostgresSaver.from_conn_string(url))
            for _ in range(concurrent)
        ]
        await savers[0].setup()
        graphs = [FOUR_STEPS.compile(checkpointer=saver) for saver in savers]
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while line := await asyncio.to_thread(sys.stdin.readline):
            left = int(float(line))
            runs = left

            async def execute(graph: Any) -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    config = {"configurable": {"thread_id": str(uuid4())}}
                    ended = await graph.ainvoke(payload, config, durability="sync")
                    assert ended["done"] == 4

            begin = perf_counter()
            await asyncio.gather(*(execute(graph) for graph in graphs))
            sys.stdout.write(f"{runs / (perf_counter() - begin)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])))
