"""DBOS: a workflow of four steps that do nothing, in this one process.

On threads, on which it is a tenth faster than on asyncio: its own statements are synchronous.
Arguments: the URL of its database, how many workflows are under way at a time, the input as JSON.
Asked for RUNS, it answers how many workflows a second it completed.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from dbos import DBOS, DBOSConfig


@DBOS.step()
def step(done: int) -> int:
    return done + 1


@DBOS.workflow()
def four_steps(payload: str) -> int:
    done = 0
    for _ in range(4):
        done = step(done)
    return done


def main(url: str, concurrent: int, payload: str) -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url.replace("postgresql://", "postgresql+psycopg://"),
        "run_admin_server": False,
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    with ThreadPoolExecutor(concurrent) as executor:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for line in sys.stdin:
            runs, begin = int(float(line)), perf_counter()
            assert set(executor.map(four_steps, [payload] * runs)) == {4}
            sys.stdout.write(f"{runs / (perf_counter() - begin)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
