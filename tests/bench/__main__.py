"""`make bench`: measures each row against its reference in turn, and writes the table.

`python -m tests.bench 1 3 6` measures those rows alone, and writes nothing.
"""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

import uvloop
from runengine_server.logs import configure_logging

from tests.bench.data import CONTEXT_BYTES, PAYLOAD_BYTES
from tests.bench.goals import Row
from tests.bench.profile import COSTS
from tests.bench.rows import ROWS
from tests.bench.servers import LOAD_CORE, SERVER_CORE, Bench, Missing
from tests.support.stack import ROOT

RESULTS = Path(__file__).with_name("RESULTS.md")
# What was found out about the missed rows, by hand.
NOTES = Path(__file__).with_name("NOTES.md")

# A reference that moves by more than this says that it was the machine that was measured.
_NOISE = 1.25
_TRIES = 3


@dataclass(frozen=True)
class Measured:
    """What the rounds of a row gave."""

    row: Row
    figures: list[float]
    references: list[float]
    tries: int

    @property
    def ratios(self) -> list[float]:
        """One a round."""
        return [figure / reference for figure, reference in zip(self.figures, self.references, strict=True)]

    @property
    def noisy(self) -> bool:
        """Whether the reference moved."""
        return max(self.references) > _NOISE * min(self.references)

    @property
    def met(self) -> bool:
        """Whether the median ratio is as it has to be."""
        return self.row.goal.met(median(self.ratios), self.figures)

    def __str__(self) -> str:
        row, ratios = self.row, self.ratios
        verdict = "" if row.goal.bound is None else "met" if self.met else "**missed**"
        if self.noisy:
            verdict = f"{verdict} noisy ({self.tries} tries)".strip()
        return " | ".join([
            f"| {row.number}", f"{row.figure}: {_number(self.figures)} {row.unit}",
            f"{row.reference}: {_number(self.references)} {row.unit}",
            f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})", f"{row.goal}", f"{verdict} |",
        ])  # fmt: skip


def _number(values: list[float]) -> str:
    value = median(values)
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


async def _measure(row: Row, bench: Bench) -> Measured:
    async with row.pair(bench) as (figure, reference):
        if row.warm:
            await figure()
            await reference()
        for tries in range(1, _TRIES + 1):
            figures, references = [], []
            for _ in range(row.rounds):
                figures.append(await figure())
                references.append(await reference())
            measured = Measured(row, figures, references, tries)
            if not measured.noisy:
                break
    return measured


HEAD = """\
| # | figure | reference, same run | median ratio (spread) | goal | |
|---|---|---|---|---|---|"""


async def _table(rows: list[Row]) -> str:
    begin = perf_counter()
    print(HEAD, flush=True)
    lines = [HEAD]
    async with Bench.open() as bench:
        for row in rows:
            try:
                line = str(await _measure(row, bench))
            except Missing as missing:
                line = f"| {row.number} | {row.figure} | {row.reference} | skipped | {row.goal} | {missing} |"
            lines.append(line)
            print(line, flush=True)
        facts = [
            f"{datetime.now(UTC):%Y-%m-%d}, commit {_commit()}, in {perf_counter() - begin:.0f} s.",
            f"{_processor()}, {os.cpu_count()} cores: what is measured on core {SERVER_CORE}, the load and "
            f"PostgreSQL on core {LOAD_CORE}. Python {platform.python_version()}, {await bench.facts()}.",
            f"A run has a payload of {PAYLOAD_BYTES} bytes and a context of {CONTEXT_BYTES}.",
            *bench.notes,
        ]
    return "\n".join([*lines, "", *facts, ""])


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
    numbers = {int(each) for each in sys.argv[1:]}
    rows = [row for row in ROWS if not numbers or row.number in numbers]
    os.sched_setaffinity(0, [LOAD_CORE])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        table = runner.run(_table(rows))
    if numbers:
        print(table[table.index("\n\n") :])
    else:
        head = "# What was measured\n\n`make bench` writes this file.\n"
        RESULTS.write_text("\n".join([head, table, NOTES.read_text(), COSTS.read_text()]))


if __name__ == "__main__":
    main()
