# ruff: noqa: ASYNC110 - it waits for what other processes do to the database and the history
"""Everything breaks while clients work: `python -m tests.faults.storm [--seed N] [--runs N]`.

With `--recovery` or `--claims` it measures one thing at full size instead.

Real processes on a PostgreSQL of their own, behind a proxy; every choice comes from the seed. When the
faults stop, every run has to end, and then all invariants are checked on the history and the database.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from runengine_server.logs import configure_logging

from tests.faults import claims, recovery
from tests.faults.arrivals import Arrivals
from tests.faults.breaking import (
    KINDS,
    LEASE_SECONDS,
    POINTS,
    POISON,
    TEMPORAL_AWAY,
    ZOMBIES_A_ROUND,
    Breaking,
)
from tests.faults.facts import Facts
from tests.faults.invariants import violations
from tests.faults.process import DOORS, SERVER_POINTS, WORKER_POINTS
from tests.faults.resuming import RESUMES
from tests.faults.standing import Kept, cancel
from tests.support.patience import SECONDS
from tests.support.stack import Stack, free_address, open_directory, own_postgres
from tests.support.temporal_server import TemporalServer, dispatching

Outcome = TypeVar("Outcome")

AT_LEAST = 3
MAX_RECOVERY_LEASES = 1.7
_WORKERS = 3
_MAX_ROUNDS = 8
_RARE = ("before_wait", "inside_wait", "after_wait", "after_resume")


@dataclass
class Report:
    """What a storm did, and what came of it."""

    seed: int
    hits: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    zombies: int = 0
    repeated_steps: int = 0
    lost_runs: int = 0
    waits: int = 0
    resumes: int = 0
    calls: int = 0
    refused_calls: int = 0
    seconds: float = 0
    ended_in: float = 0
    violations: list[str] = field(default_factory=list)

    def lines(self, kinds: Sequence[str], at_least: int) -> list[str]:
        """The report for a person."""
        rare = [kind for kind in kinds if self.hits[kind] < at_least]
        return [
            f"seed {self.seed}: {self.runs} runs, {self.calls} calls ({self.refused_calls} refused), "
            f"{self.hits.total()} faults, {self.zombies} zombies, {self.repeated_steps} repeated steps, "
            f"{self.lost_runs} runs given up as WORKER_LOST, {self.waits} waits, {self.resumes} resumes",
            *(f"  {self.hits[kind]:4} {kind}" for kind in kinds),
            f"all ended {self.ended_in:.1f} s after the last fault; {self.seconds:.0f} s in all",
            *(f"VIOLATION {words}" for words in self.violations),
            *(f"TOO FEW {kind}: {self.hits[kind]} of {at_least}" for kind in rare),
            f"{len(self.violations)} violations",
        ]


class Storm(Breaking):
    """One storm. `points` says how often each place is to be one at which a process is killed."""

    def __init__(
        self,
        seed: int,
        directory: Path,
        history: Path,
        say: Callable[[str], object],
        points: dict[str, int],
        zombies: bool,
        temporal: TemporalServer | None = None,
    ) -> None:
        super().__init__(seed, directory, history, say)
        self.temporal = temporal
        self.report = Report(seed, self.hits)
        self._points, self._zombies = points, zombies

    def processes(self) -> list[Kept]:
        """Two servers, workers with points at which they die, and two workers that become zombies."""
        common = self.settings(
            LEASE_SECONDS=str(LEASE_SECONDS), WORKER_CONCURRENCY="6", WORKFLOWS="tests.faults.graphs:STORM"
        )
        armed = [
            f"{point}:{self.random.randint(1, 2 if point in _RARE else 6)}"
            for point, times in self._points.items()
            for _ in range(times)
        ]
        self.random.shuffle(armed)
        self.worker_points = [each for each in armed if each.partition(":")[0] in WORKER_POINTS]
        self.server_points = [each for each in armed if each.partition(":")[0] in SERVER_POINTS]
        for _ in range(2):
            self.servers.append(Kept("serve", {**common, "GRPC_ADDRESS": free_address()}, self.server_points))
        self.workers += [Kept("worker", common, self.worker_points) for _ in range(_WORKERS)]
        if self._zombies:
            settings = {
                **common,
                "WORKFLOWS": "tests.faults.graphs:ZOMBIES",
                "WORKER_CONCURRENCY": str(ZOMBIES_A_ROUND),
                "FAULT_POINTS": ",".join(DOORS),
            }
            self.undertakers += [Kept("worker", settings, []) for _ in range(2)]
        return [*self.servers, *self.workers, *self.undertakers]

    async def trigger(self, count: int, until: asyncio.Event) -> None:
        """At least so many runs, and more for as long as there are faults to meet."""
        triggered = 0
        while triggered < count or not until.is_set():
            tenant = self.random.choice(self.tenants)
            campaign = self.random.choice([*tenant.campaigns, None])
            payload = self.payload()
            if self.random.random() < 0.7:
                await tenant.trigger_until_told(self.workflow(), payload, campaign, payload["key"])
                triggered += 1
            elif await tenant.trigger(self.workflow(), {**payload, "key": None}, campaign, None) is not None:
                triggered += 1
            if until.is_set():
                await asyncio.sleep(0.02)
            else:
                await asyncio.sleep(self.random.uniform(0.1, 0.5))

    async def break_all(self, kinds: Sequence[str], times: int, zombies: int, poison: bool) -> None:
        """Each kind so often, in the seed's order; those that hit nothing are tried again, twice."""
        plan = [kind for kind in kinds for _ in range(times)]
        self.random.shuffle(plan)
        if poison:
            await self.poison()
        for kind in plan:
            await self.break_one(kind)
        for _ in range(2):
            for kind in kinds:
                for _ in range(times - self.hits[kind]):
                    await self.break_one(kind)
        if "zombies" in kinds:
            rounds = 0
            while self.zombies_made < zombies and rounds < _MAX_ROUNDS:
                rounds += 1
                await self.break_one("zombies")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                # The processes die at their points as load reaches them.
                while self.worker_points or self.server_points or self._armed():
                    await asyncio.sleep(0.1)

    def _armed(self) -> bool:
        return any(kept.armed is not None for kept in (*self.workers, *self.servers))

    # The end

    async def judge(self) -> None:
        """Checks the invariants and fills the report."""
        rows = await self.read_rows()
        facts = Facts(self.history.read(), rows)
        report = self.report
        report.runs = len(rows.runs)
        report.calls = len(facts.calls)
        report.refused_calls = sum(not note["ok"] for note in facts.notes("answer"))
        report.repeated_steps = _repeated(facts)
        report.zombies = self.zombies_made
        report.waits = sum(event["reason"] == "WAITING" for event in rows.events)
        report.resumes = sum(event["reason"] == "RESUMED" for event in rows.events)
        report.lost_runs = sum(event["reason"] == "WORKER_LOST" for event in rows.events)
        if poisoned := sum(1 for _ in facts.notes("poison")):
            self.hits[POISON] = poisoned
        report.violations = violations(facts)


def _repeated(facts: Facts) -> int:
    """Executions of steps that had been executed before, other than those that a resume was for."""
    seen: set[tuple[str, str]] = set()
    count = 0
    for note in facts.notes("entered"):
        before = [each for each in facts.events.get(note["run"], []) if each["at"] <= note["at"]]
        resumed = [each["reason"] for each in before[-2:]] == ["RESUMED", "TAKEN_OVER"]
        count += (note["run"], note["key"]) in seen and not resumed
        seen.add((note["run"], note["key"]))
    return count


async def storm(
    seed: int,
    runs: int,
    *,
    kinds: Sequence[str] = KINDS,
    times: int = AT_LEAST,
    zombies: int = 30,
    points: Sequence[str] = (*WORKER_POINTS, *SERVER_POINTS),
    poison: bool = True,
    keep: Path | None = None,
    say: Callable[[str], object] = lambda line: None,
    temporal: TemporalServer | None = None,
) -> Report:
    """A storm of at least so many runs; `keep` is where its history goes, `say` hears of each fault. With a
    server it is Temporal that dispatches, and forgets everything.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="storm-") as name:
        directory = Path(name)
        os.chmod(directory, 0o755)  # for PostgreSQL's own user
        history = keep or directory / "history"
        it = Storm(seed, directory, history, say, dict.fromkeys(points, times), "zombies" in kinds, temporal)
        async with it.standing():
            over = asyncio.Event()
            always = [
                asyncio.create_task(each)
                for each in (
                    it.lag.watch(),
                    it.kill_at_points(),
                    it.resume_all(),
                    *(it.look() for _ in range(5)),
                )
            ]
            triggering = asyncio.create_task(it.trigger(runs, over))
            try:
                await it.break_all(kinds, times, zombies, poison)
                over.set()
                await triggering
            finally:
                await cancel([triggering, *always[1:]])
            it.report.ended_in = await it.settle(SECONDS)
            await it.judge()
            await cancel(always[:1])
        it.history.close()
    it.report.seconds = time.monotonic() - began
    return it.report


async def measure_claims() -> list[str]:
    """Many claimers of one run, and many workers on many runs, at full size, on a PostgreSQL of their own."""
    with open_directory() as directory:
        async with own_postgres(directory) as (_, url):
            return await claims.measure(url, rounds=200, claimers=50, runs=10_000, workers=16)


async def measure_recovery(kills: int) -> list[str]:
    """How long runs wait for their next worker after a kill -9."""
    with open_directory() as directory:
        async with own_postgres(directory) as (_, url):
            stack = Stack(url, directory)
            try:
                await stack.start("serve")
                token = stack.token("org_recovery")
                async with Arrivals() as arrivals, stack.client(token) as client:
                    team = await recovery.start(stack, client, arrivals)
                    median, worst = await recovery.measure(team, kills)
            finally:
                await stack.stop()
    lines = [
        f"{kills} kills -9 of a worker with a lease of {recovery.LEASE_SECONDS:g} s: taken over after "
        f"{median:.2f} leases (median), {worst:.2f} leases (worst)"
    ]
    if worst > MAX_RECOVERY_LEASES:
        lines.append(f"VIOLATION I3: {worst:.2f} leases are more than {MAX_RECOVERY_LEASES}")
    return lines


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm", description=__doc__)
    parser.add_argument("--recovery", action="store_true", help="measure 20 take-overs instead")
    parser.add_argument("--claims", action="store_true", help="let many claim at once instead")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--dispatch", choices=("postgres", "temporal"), default="postgres")
    parser.add_argument("--keep", type=Path, help="where the history goes")
    options = parser.parse_args()
    configure_logging()
    if options.keep is not None:
        options.keep.unlink(missing_ok=True)
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.1f} {line}\n")

    async def dispatched(measure: Callable[[TemporalServer | None], Awaitable[Outcome]]) -> Outcome:
        async with dispatching(options.dispatch) as temporal:
            return await measure(temporal)

    if options.recovery or options.claims:
        lines = asyncio.run(
            dispatched(lambda _: measure_recovery(kills=20) if options.recovery else measure_claims())
        )
        sys.stdout.write("\n".join(lines) + "\n")
        sys.exit(any(line.startswith("VIOLATION") for line in lines))
    broken = (*KINDS, *([TEMPORAL_AWAY] if options.dispatch == "temporal" else []))
    report = asyncio.run(
        dispatched(
            lambda temporal: storm(
                options.seed, options.runs, kinds=broken, keep=options.keep, say=say, temporal=temporal
            )
        )
    )
    kinds = (*POINTS, *broken, *RESUMES, POISON)
    sys.stdout.write("\n".join(report.lines(kinds, AT_LEAST)) + "\n")
    if report.violations or any(report.hits[kind] < AT_LEAST for kind in kinds):
        sys.exit(1)


if __name__ == "__main__":
    main()
