"""What do the processes of the product keep of a mixed load? `python -m tests.faults.leaks --seconds 60`

One load warms them up and fills their pools, and what they have then, once they are quiet, is the baseline.
The same load goes on for so long, the pools are filled again (a call that is cut off in the middle of a
statement takes its connection with it), and then everything must be exactly as it was: tasks, threads,
descriptors, connections, each by its kind, so that one more of this does not make up for one less of that.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.leak_load import Load
from tests.faults.leak_stories import STORIES
from tests.faults.resources import Reading, differences
from tests.faults.watched import PROCESSES, Watched
from tests.support.stack import open_directory, own_postgres

# For so long does the thread pool of the artifact store, tokio's, keep a thread that has nothing to do: 10 s,
# and half as many again for a machine that has much else to do.
IDLE_SECONDS = 15.0


@dataclass(frozen=True)
class Measured:
    """What they had before, at most and after; what happened meanwhile; what they complained of."""

    baseline: Reading
    peak: dict[str, dict[str, int]]
    end: Reading
    hits: Counter[str]
    complaints: list[str]


# Each must have happened, or it proves nothing.
_KINDS = (
    "RUN_TIMED_OUT in slow-run",
    "STEP_TIMED_OUT in slow-step",
    "STEP_TIMED_OUT in slow-thread",
    "bad tokens",
    "clients vanish",
    "clients vanish over rest",
    "cut off in a statement: CancelledError",
    "cut off in a statement: DeadlineExceeded",
    "deadline exceeded",
    "deaf runs are cancelled",
    "downloads",
    "downloads are abandoned",
    "downloads are abandoned over rest",
    "ids of other tenants",
    "lists",
    "overloaded",
    "queued runs are cancelled",
    "running runs are cancelled",
    "runs are watched",
    "runs complete",
    "runs complete over rest",
    "runs fail",
    "too many at once",
    "too many downloads refused",
    "watches are abandoned",
    "wrong input",
    "wrong input over rest",
)


def missing(hits: Counter[str], least: int = 1) -> list[str]:
    """What has happened less often than that."""
    return [f"{kind}: {hits[kind]} times" for kind in _KINDS if hits[kind] < least]


async def measure(
    database_url: str, state_dir: Path, *, warm_up: float, seconds: float, idle_seconds: float
) -> Measured:
    """One measurement, on processes of its own."""
    with tempfile.TemporaryDirectory(prefix="leaks-") as name:
        watched = Watched(database_url, state_dir, Path(name))
        async with watched.running():
            await _load(watched, warm_up)
            baseline = await watched.quiet(idle_seconds)
            peak = {name: {key: kinds.total() for key, kinds in baseline[name].items()} for name in PROCESSES}
            load = asyncio.create_task(_load(watched, seconds))
            while not load.done():
                for name, figures in (await watched.read()).items():
                    for key, kinds in figures.items():
                        peak[name][key] = max(peak[name][key], kinds.total())
                await asyncio.wait({load}, timeout=1)
            hits = load.result()
            end = await watched.until(baseline)
        # Once they have stopped: much is complained of only then.
        return Measured(baseline, peak, end, hits, watched.complaints())


async def _load(watched: Watched, seconds: float) -> Counter[str]:
    load = Load(watched)
    await load.go(STORIES, seconds)
    await watched.fill()
    return load.hits


async def _measure_here(warm_up: float, seconds: float) -> Measured:
    with open_directory() as directory:
        async with own_postgres(directory) as (_, url):
            return await measure(url, directory, warm_up=warm_up, seconds=seconds, idle_seconds=IDLE_SECONDS)


def main() -> None:
    """Measures on a PostgreSQL of its own, prints what there was, and fails when it is not the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--warm-up", type=float, default=10)
    given = parser.parse_args()
    measured = asyncio.run(_measure_here(given.warm_up, given.seconds))
    console = Console()
    table = Table("process", "figure", "baseline", "peak", "end", title=f"{given.seconds:g} s of mixed load")
    for name in PROCESSES:
        for key, kinds in measured.baseline[name].items():
            figures = (kinds.total(), measured.peak[name][key], measured.end[name][key].total())
            table.add_row(name, key, *map(str, figures))
    console.print(table)
    console.print("\n".join(f"{count:7} {kind}" for kind, count in sorted(measured.hits.items())))
    wrong = [
        *differences(measured.baseline, measured.end),
        *measured.complaints,
        *missing(measured.hits, 3 if given.seconds >= 30 else 1),
    ]
    console.print("\n".join(wrong) or "Everything is exactly as it was.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
