"""What breaks in a soak, and when: all of it from the seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.faults.breaking import POISON

STOPPING = "node that stops its worker"

# What breaks side by side; within a lane it is one after the other, for what ends one of them ends all.
LANES: dict[str, tuple[str, ...]] = {
    "network": (
        "refused",
        "black hole",
        "stranded",
        "slowed",
        "commit lost, applied",
        "commit lost, not applied",
        "lost notify",
        "connections reset",
        "postgres crash",
        "postgres restart",
        "disk full",
    ),
    "processes": (
        "kill -9 worker",
        "kill -9 serve",
        "kill -9 gateway",
        "SIGTERM worker",
        "SIGTERM serve",
        "SIGTERM gateway",
        "stopped beyond the lease",
        "unread log",
        "zombies",
    ),
    "runs": (
        "deploy",
        "blocked event loop",
        "blocked beyond the bound",
        "thread left",
        "SIGTERM mid-step",
        "overload",
        "client vanished",
        "messages without a token",
        "slow readers",
    ),
}

# Once each, early: they take several workers, and as many pauses in between.
ONCE = (POISON, STOPPING)

# Between two faults of a lane, in seconds.
_PAUSE = {"network": (0.5, 5.0), "processes": (0.5, 4.0), "runs": (0.5, 5.0)}


@dataclass(frozen=True)
class Planned:
    """A fault: when it is due, in seconds from the start, and the seed of all that it decides."""

    at: float
    kind: str
    seed: str


def schedule(
    seed: int, seconds: float, lanes: Mapping[str, tuple[str, ...]] = LANES, once: Sequence[str] = ONCE
) -> dict[str, list[Planned]]:
    """The faults of each lane, in order. Every kind of a lane comes before any comes again."""
    planned: dict[str, list[Planned]] = {}
    for lane, kinds in lanes.items():
        dice = random.Random(f"{seed} {lane}")
        faults: list[Planned] = []
        at, bag = dice.uniform(0.1, 2.0), list(once) if lane == "runs" else []
        while at < seconds:
            if not bag:
                bag = dice.sample(kinds, len(kinds))
            faults.append(Planned(round(at, 2), bag.pop(0), f"{seed} {lane} {len(faults)}"))
            at += dice.uniform(*_PAUSE[lane])
        planned[lane] = faults
    return planned


def kinds_of(lanes: Mapping[str, tuple[str, ...]] = LANES, once: Sequence[str] = ONCE) -> list[str]:
    """All of them."""
    return [*once, *(kind for kinds in lanes.values() for kind in kinds)]
