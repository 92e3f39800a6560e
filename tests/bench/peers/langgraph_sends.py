"""LangGraph by itself, with its in-memory saver: one run of so many Sends.

Asked for a number of Sends, it answers the seconds that the run took.
"""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter
from uuid import uuid4

import uvloop
from langgraph.checkpoint.memory import InMemorySaver

from tests.bench.graphs import MANY_SENDS


async def main() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := await asyncio.to_thread(sys.stdin.readline):
        graph = MANY_SENDS.compile(checkpointer=InMemorySaver())
        begin = perf_counter()
        ended = await graph.ainvoke(
            {"sends": float(line)}, {"configurable": {"thread_id": str(uuid4())}}, durability="sync"
        )
        assert len(ended["seen"]) == float(line)
        sys.stdout.write(f"{perf_counter() - begin}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
