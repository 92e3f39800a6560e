"""What a row of the table has to reach."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from tests.bench.servers import Bench

Measurement = Callable[[], Awaitable[float]]
Pair = tuple[Measurement, Measurement]


@dataclass(frozen=True)
class Goal:
    """What the median ratio has to be; None: whatever it is."""

    bound: float | None
    at_least: bool = True
    most: float | None = None
    """What no figure may exceed, besides."""
    by_cpu: bool = False
    """Whether the ratio of CPU a call decides, and not that of the figures."""

    def __str__(self) -> str:
        if self.bound is None:
            return "–"
        words = f"{'≥' if self.at_least else '≤'} {self.bound:g}"
        return words if self.most is None else f"{words}, and ≤ {self.most:g} MiB"

    def met(self, ratio: float, figures: list[float]) -> bool:
        """Whether it is."""
        if self.bound is None:
            return True
        within = ratio >= self.bound if self.at_least else ratio <= self.bound
        return within and (self.most is None or max(figures) <= self.most)


@dataclass(frozen=True)
class Row:
    """One line: figure ÷ reference, measured in turn."""

    number: int
    figure: str
    reference: str
    unit: str
    goal: Goal
    pair: Callable[[Bench], AbstractAsyncContextManager[Pair]]
    rounds: int = 5
    warm: bool = True
    """Whether a round comes before, and does not count."""
    calls: tuple[int | None, int | None] = (None, None)
    """How many a round of either has, where neither its rate nor a generator of load says it."""
    h2load: bool = False
    """Whether all requests of a load are alike, so that h2load sends them."""
    cores_own: bool = False
    """Whether its CPU is that of the core that is measured: PostgreSQL, on the other, does not count."""


def ratio_at_least(bound: float, by_cpu: bool = False) -> Goal:
    return Goal(bound, at_least=True, by_cpu=by_cpu)


def ratio_at_most(bound: float) -> Goal:
    return Goal(bound, at_least=False)
