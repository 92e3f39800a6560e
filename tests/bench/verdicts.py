"""What the rounds of a row say: its line of the table, and whether it reaches its goal."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.cpu import LOAD, POSTGRESQL, Round
from tests.bench.goals import Row

# Cores that others may take in the mean of a row's rounds.
BUSY = 0.1

# A reference that moves by more than this says that it was the machine that was measured.
_NOISE = 1.25

HEAD = """\
| # | figure | CPU µs each | reference, same run | CPU µs each | ratio | of CPU | goal | | commit |
|---|---|---|---|---|---|---|---|---|---|"""


def merged(rows: Sequence[Row], before: list[str], now: list[str]) -> list[str]:
    """The lines of the rows in their order, of two tables; of a row that stands in both, that of now."""
    lines = [*now, *before]
    return [line for row in rows if (line := next(filter(_is_of(row), lines), ""))]


def _is_of(row: Row) -> Callable[[str], object]:
    # Rows of one number differ in what is measured or in the reference, before the colons.
    figure, reference = re.escape(row.figure), re.escape(row.reference)
    return re.compile(rf"\| {row.number} \| {figure}(:[^|]*)? \|[^|]*\| {reference}(:[^|]*)? \|").match


@dataclass(frozen=True)
class Measured:
    """The rounds of a row, each with its reference."""

    row: Row
    figures: list[Round]
    references: list[Round]

    @property
    def ratios(self) -> list[float]:
        """Of the figures, one a round."""
        return [now.value / then.value for now, then in zip(self.figures, self.references, strict=True)]

    @property
    def cpu_ratios(self) -> list[float]:
        """Of CPU a call, the way round that the goal has."""
        pairs = list(zip(map(self._micros, self.figures), map(self._micros, self.references), strict=True))
        if any(not min(pair) for pair in pairs):
            return []
        return [then / now if self.row.goal.at_least else now / then for now, then in pairs]

    @property
    def others(self) -> float:
        """Cores that others took."""
        rounds = [*self.figures, *self.references]
        return sum(each.others * each.seconds for each in rounds) / sum(each.seconds for each in rounds)

    @property
    def calm(self) -> bool:
        """Whether the machine was ours, and did the same in each round."""
        return self.others <= BUSY and self._moved <= _NOISE

    @property
    def verdict(self) -> str:
        """Of the goal."""
        row, deciding = self.row, self._deciding
        if row.goal.bound is None:
            return ""
        if self.others > BUSY:
            return f"**not measured**: others took {self.others:.2f} cores"
        figures = [each.value for each in self.figures]
        met = row.goal.met(median(deciding), figures)
        if self._moved > _NOISE and any(row.goal.met(each, figures) != met for each in deciding):
            return f"**not measured**: the reference moved by {self._moved:.2f}, and rounds disagree"
        return "met" if met else "**missed**"

    def __str__(self) -> str:
        row, by_cpu = self.row, self.row.goal.by_cpu
        cpu = _spread(self.cpu_ratios) if self.cpu_ratios else "–"
        return " | ".join([
            f"| {row.number}", f"{row.figure}: {_values(self.figures)} {row.unit}", cpu_by_name(self.figures),
            f"{row.reference}: {_values(self.references)} {row.unit}", cpu_by_name(self.references),
            _spread(self.ratios) if by_cpu else f"**{_spread(self.ratios)}**",
            f"**{cpu}**" if by_cpu else cpu, f"{row.goal}", self.verdict,
        ])  # fmt: skip

    @property
    def load(self) -> str:
        """How much the load and its references were at work, for who doubts them."""
        return "; ".join(
            f"{name}: load {median(each.cpu[LOAD] / each.calls for each in rounds) * 1e6:,.0f} µs each, "
            f"{median(each.cpu[LOAD] / each.seconds for each in rounds):.2f} of a core, PostgreSQL "
            f"{median(each.cpu.get(POSTGRESQL, 0) / each.seconds for each in rounds):.2f}, all else "
            f"{median(each.micros(POSTGRESQL) * each.calls / each.seconds / 1e6 for each in rounds):.2f}"
            for name, rounds in (("figure", self.figures), ("reference", self.references))
        ) + f"; others {self.others:.2f} cores"  # fmt: skip

    @property
    def _deciding(self) -> list[float]:
        return self.cpu_ratios if self.row.goal.by_cpu else self.ratios

    @property
    def _moved(self) -> float:
        """How the reference moved, in what decides."""
        by_cpu = self.row.goal.by_cpu
        values = [self._micros(each) if by_cpu else each.value for each in self.references]
        return max(values) / min(values)

    def _micros(self, measured: Round) -> float:
        return measured.micros(POSTGRESQL) if self.row.cores_own else measured.micros()


def number(value: float) -> str:
    """In three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def cpu_by_name(rounds: Sequence[Round]) -> str:
    """The medians of each process that does not only wait."""
    names = dict.fromkeys(name for each in rounds for name in each.serving)
    return ", ".join(
        f"{name} {number(median(each.cpu.get(name, 0) / each.calls for each in rounds) * 1e6)}"
        for name in names
    )


def _values(rounds: list[Round]) -> str:
    return number(median(each.value for each in rounds))


def _spread(ratios: list[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
