"""`make bench-against REV=…`: the same rows at this state and at a commit before it, in turn, as ratios.

Both are alive at the same time and measured round by round, so that a drift of the machine meets both: one
after the other they differed by up to 10 % of themselves. A rate has its ratio as it is, a time the other
way round: above 1 is faster than before. CPU is compared like a time; where the machine is not quiet, it is
what to read, and the last column says how quiet it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median, quantiles

from tests.bench.cpu import POSTGRESQL, Round
from tests.bench.goals import Row
from tests.bench.rows import ROWS
from tests.bench.verdicts import cpu_by_name, number
from tests.support.stack import ROOT

ROUNDS = 24
# How often both are started anew: two starts of one commit differ by up to a seventh in the CPU of a worker.
STARTS = 4
DEFAULT_ROWS = ("1", "2", "6", "7", "8", "9", "10", "11")

# Holds a checkout for each commit compared with; git ignores it.
CHECKOUTS = ROOT / ".bench-against"


def checkout_of(revision: str) -> Path:
    """A checkout of the commit, installed, with the peers of this one. Raises CalledProcessError."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", revision], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    checkout = CHECKOUTS / commit
    if not checkout.exists():
        subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)
        subprocess.run(["git", "worktree", "add", "-q", "--detach", checkout, commit], cwd=ROOT, check=True)
    subprocess.run(["make", "-s", "install"], cwd=checkout, check=True)
    for peer in (ROOT / "tests/bench/peers").glob(".venv-*"):
        link = checkout / "tests/bench/peers" / peer.name
        if not link.exists():
            link.symlink_to(peer)
    return checkout


class Side:
    """One of the two: a bench in a checkout that measures a round when it is asked."""

    def __init__(self, checkout: Path, row: Row) -> None:
        place = [each for each in ROWS if each.number == row.number].index(row)
        self._process = subprocess.Popen(
            [".venv/bin/python", str(ROOT / "tests/bench/rounds.py"), str(row.number), str(place),
             str(row.calls[0] or 0), "h2load" if row.h2load else "alone"],
            cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.title = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"a bench ended with {self._process.wait()}")
        return line.strip()

    def measure(self) -> Round:
        """One round."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Round(**json.loads(self._line()))

    def close(self) -> None:
        """Ends it, and what it has started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(row: Row, checkout: Path) -> str:
    """The row of the table."""
    rounds: list[tuple[Round, Round]] = []
    for _ in range(STARTS):
        sides = [Side(ROOT, row), Side(checkout, row)]
        try:
            title = sides[0].title
            if any(side.title.startswith("skipped") for side in sides):
                return f"| {row.number} | {row.figure} | | | {title} | | | | | |"
            for turn in range(ROUNDS // STARTS):
                # Each goes first in every other round.
                first, second = sides if turn % 2 == 0 else sides[::-1]
                figures = {first: first.measure(), second: second.measure()}
                rounds.append((figures[sides[0]], figures[sides[1]]))
        finally:
            for side in sides:
                side.close()
    now, then = zip(*rounds, strict=True)
    values = [(mine.value, theirs.value) for mine, theirs in rounds]
    others = median(each.others for pair in rounds for each in pair)
    return " | ".join([
        f"| {row.number}", title, *(number(median(each)) for each in zip(*values, strict=True)),
        _quartiles([mine / theirs if row.goal.at_least else theirs / mine for mine, theirs in values]),
        cpu_by_name(now), cpu_by_name(then),
        _cheaper([(mine.micros(), theirs.micros()) for mine, theirs in rounds]),
        _cheaper([(mine.micros(POSTGRESQL), theirs.micros(POSTGRESQL)) for mine, theirs in rounds]),
        f"{others:.2f} |",
    ])  # fmt: skip


def _cheaper(micros: list[tuple[float, float]]) -> str:
    """Empty where nothing but what measures had a part in it."""
    return _quartiles([theirs / mine for mine, theirs in micros]) if all(map(all, micros)) else ""


def _quartiles(ratios: list[float]) -> str:
    low, middle, high = quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def main() -> None:
    """Compares with the first argument, a commit, the rows that the others name, or DEFAULT_ROWS."""
    if len(sys.argv) < 2:
        sys.exit("usage: make bench-against REV=<commit> [ROWS='1 2 6']")
    before, numbers = checkout_of(sys.argv[1]), sys.argv[2:] or DEFAULT_ROWS
    columns = (
        "#", "figure", "now", before.name, "ratio (quartiles)", "CPU µs each, now", before.name,
        "ratio of CPU", "without PostgreSQL", "cores of others",
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for wanted in map(int, numbers):
        for row in ROWS:
            if row.number == wanted:
                print(compare(row, before), flush=True)


if __name__ == "__main__":
    main()
