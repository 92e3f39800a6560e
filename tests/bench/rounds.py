"""The figure of one row, a round for each line of its input: what `against` runs in two checkouts at once.

It is executed by its path, in a checkout of any version that has the rows: `python …/rounds.py NUMBER PLACE`.
"""

from __future__ import annotations

import asyncio
import os
import sys


async def _rounds(number: int, place: int) -> None:
    from tests.bench.rows import ROWS
    from tests.bench.servers import LOAD_CORE, Bench, Missing

    os.sched_setaffinity(0, [LOAD_CORE])
    row = [each for each in ROWS if each.number == number][place]
    loop = asyncio.get_running_loop()
    async with Bench.open() as bench:
        try:
            async with row.pair(bench) as (figure, _):
                await figure()
                print(f"{row.figure}, {row.unit}", flush=True)
                while await loop.run_in_executor(None, sys.stdin.readline):
                    print(await figure(), flush=True)
        except Missing as missing:
            print(f"skipped: {missing}", flush=True)


if __name__ == "__main__":
    import uvloop

    # The checkout that it is run in, and not the one that it lies in.
    sys.path[0] = os.getcwd()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_rounds(int(sys.argv[1]), int(sys.argv[2])))
