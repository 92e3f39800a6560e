"""`make bench`: measures each row against its reference in turn, and writes the table.

`python -m tests.bench 1 3 6` measures those rows alone, and writes them only with `--write`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import uvloop
from runengine_server.logs import configure_logging

from tests.bench.cpu import Meter, Round
from tests.bench.data import CONTEXT_BYTES, PAYLOAD_BYTES
from tests.bench.goals import Row
from tests.bench.load import Generator, Missing
from tests.bench.profile import COSTS
from tests.bench.rows import ROWS
from tests.bench.servers import LOAD_CORE, SERVER_CORE, Bench
from tests.bench.verdicts import HEAD, Measured, merged
from tests.support.stack import ROOT

RESULTS = Path(__file__).with_name("RESULTS.md")
# What was found out about the missed rows, by hand.
NOTES = Path(__file__).with_name("NOTES.md")

_TRIES = 2


async def _measure(row: Row, bench: Bench) -> Measured:
    """Again, where the machine was not calm."""
    Generator.choose(row.h2load)
    meter = Meter(bench.directories)
    async with row.pair(bench) as pair:
        if row.warm:
            for measurement in pair:
                await measurement()
        for _ in range(_TRIES):
            sides: tuple[list[Round], list[Round]] = [], []
            for _ in range(row.rounds):
                for measurement, calls, rounds in zip(pair, row.calls, sides, strict=True):
                    rounds.append(await meter.round(measurement, Generator.counting(calls)))
            measured = Measured(row, *sides)
            if measured.calm:
                break
    return measured


async def _lines(rows: list[Row], verbose: bool) -> tuple[list[str], list[str]]:
    """Those of the table, and what there is to say of all of them."""
    begin, lines = perf_counter(), []
    async with Bench.open() as bench:
        for row in rows:
            try:
                measured = await _measure(row, bench)
                line = f"{measured} | {_commit()} |"
            except Missing as missing:
                measured = None
                line = (
                    f"| {row.number} | {row.figure} | | {row.reference} | | | | {row.goal} "
                    f"| **not measured**: {missing} | {_commit()} |"
                )
            lines.append(line)
            print(line, flush=True)
            if verbose and measured is not None:
                print(f"  {measured.load}", flush=True)
        facts = [
            f"{datetime.now(UTC):%Y-%m-%d}, in {perf_counter() - begin:.0f} s.",
            f"{_processor()}, {os.cpu_count()} cores: what is measured on core {SERVER_CORE}, the load and "
            f"PostgreSQL on core {LOAD_CORE}. Python {platform.python_version()}, {await bench.facts()}.",
            f"A run has a payload of {PAYLOAD_BYTES} bytes and a context of {CONTEXT_BYTES}.",
            *bench.notes,
        ]
    return lines, facts


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (
        " with changes" if git("status", "--porcelain", "-uno") else ""
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    """Runs the rows that the arguments name, or all."""
    configure_logging()
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("rows", nargs="*", type=int, help="their numbers; none: all, with --write")
    parser.add_argument("--verbose", action="store_true", help="say how much the load took, and others")
    parser.add_argument("--write", action="store_true", help=f"put what is measured into {RESULTS.name}")
    arguments = parser.parse_args()
    rows = [row for row in ROWS if not arguments.rows or row.number in arguments.rows]
    os.sched_setaffinity(0, [LOAD_CORE])
    print(HEAD, flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        lines, facts = runner.run(_lines(rows, arguments.verbose))
    print("", *facts, sep="\n")
    if arguments.write or not arguments.rows:
        before = RESULTS.read_text().splitlines() if RESULTS.exists() else []
        table = "\n".join([HEAD, *merged(ROWS, before, lines)])
        head = "# What was measured\n\n`make bench` writes this file.\n"
        facts_after = "\n".join([*facts, ""])
        RESULTS.write_text("\n".join([head, table, "", facts_after, NOTES.read_text(), COSTS.read_text()]))


if __name__ == "__main__":
    main()
