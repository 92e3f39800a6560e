"""`make bench-against REV=…`: the same rows at this state and at a commit before it, in turn, as ratios.

Both are alive at the same time and measured round by round, so that a drift of the machine meets both: one
after the other they differed by up to 10 % of themselves. A rate has its ratio as it is, a time the other
way round: above 1 is faster than before.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import quantiles

from tests.bench.goals import Row
from tests.bench.rows import ROWS
from tests.support.stack import ROOT

ROUNDS = 24
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
            [".venv/bin/python", str(ROOT / "tests/bench/rounds.py"), str(row.number), str(place)],
            cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.title = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"a bench ended with {self._process.wait()}")
        return line.strip()

    def measure(self) -> float:
        """The figure of one round."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """Ends it, and what it has started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(row: Row, checkout: Path) -> str:
    """The row of the table."""
    sides = [Side(ROOT, row), Side(checkout, row)]
    try:
        if any(side.title.startswith("skipped") for side in sides):
            return f"| {row.number} | {row.figure} | | | {sides[0].title} |"
        rounds = []
        for turn in range(ROUNDS):
            # Each goes first in every other round.
            first, second = sides if turn % 2 == 0 else sides[::-1]
            figures = {first: first.measure(), second: second.measure()}
            rounds.append((figures[sides[0]], figures[sides[1]]))
    finally:
        for side in sides:
            side.close()
    ratios = [now / then if row.goal.at_least else then / now for now, then in rounds]
    (_, now, _), (_, then, _) = (quantiles(figures, n=4) for figures in zip(*rounds, strict=True))
    low, middle, high = quantiles(ratios, n=4)
    ratio = f"{middle:.2f} ({low:.2f}–{high:.2f})"
    return f"| {row.number} | {sides[0].title} | {now:,.2f} | {then:,.2f} | {ratio} |"


def main() -> None:
    """Compares with the first argument, a commit, the rows that the others name, or DEFAULT_ROWS."""
    if len(sys.argv) < 2:
        sys.exit("usage: make bench-against REV=<commit> [ROWS='1 2 6']")
    before, numbers = checkout_of(sys.argv[1]), sys.argv[2:] or DEFAULT_ROWS
    print(f"| # | figure | now | {before.name} | median ratio (quartiles) |\n|---|---|---|---|---|")
    for number in numbers:
        for row in ROWS:
            if row.number == int(number):
                print(compare(row, before), flush=True)


if __name__ == "__main__":
    main()
