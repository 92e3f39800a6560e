"""`make bench-against REV=…`: the same rows at this state and at a commit before it, in turn, as ratios.

`python -m tests.bench.against REV 1 2 6` runs the bench of each checkout alternately, so that a drift of
the machine meets both. A figure is the median that a bench prints; a rate has its ratio as it is, a time
the other way round: above 1 is faster than before.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

from tests.bench.rows import ROWS
from tests.stack import ROOT

ROUNDS = 3
DEFAULT_ROWS = ("1", "2", "6", "7", "8", "9", "10", "11")

# Holds a checkout for each commit compared with; git ignores it.
CHECKOUTS = ROOT / ".bench-against"

_LINE = re.compile(r"\| (?P<number>\d+) \| (?P<name>[^|]*): (?P<figure>[\d,.]+) (?P<unit>[^|]*?) \|")

Figures = dict[tuple[int, str, str], list[float]]


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


def measure(checkout: Path, number: str, figures: Figures) -> None:
    """Runs one row of a checkout's bench, and adds its figures. Raises CalledProcessError."""
    lines = subprocess.run(
        [".venv/bin/python", "-m", "tests.bench", number],
        cwd=checkout,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.splitlines()
    for line in lines:
        if (match := _LINE.match(line)) is not None:
            key = int(match["number"]), match["name"], match["unit"]
            figures[key].append(float(match["figure"].replace(",", "")))


def main() -> None:
    """Compares with the first argument, a commit, the rows that the others name, or DEFAULT_ROWS."""
    if len(sys.argv) < 2:
        sys.exit("usage: make bench-against REV=<commit> [ROWS='1 2 6']")
    before, numbers = checkout_of(sys.argv[1]), sys.argv[2:] or DEFAULT_ROWS
    goals = {row.number: row.goal for row in ROWS}
    print(f"| # | figure | now | {before.name} | median ratio (spread) |\n|---|---|---|---|---|")
    for number in numbers:
        now: Figures = defaultdict(list)
        then: Figures = defaultdict(list)
        for _ in range(ROUNDS):
            measure(ROOT, number, now)
            measure(before, number, then)
        for key in now.keys() & then.keys():
            slower_is_more = not goals[key[0]].at_least
            ratios = [b / a if slower_is_more else a / b for a, b in zip(now[key], then[key], strict=True)]
            print(
                f"| {key[0]} | {key[1]}, {key[2]} | {median(now[key]):,.2f} | {median(then[key]):,.2f} "
                f"| {median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
