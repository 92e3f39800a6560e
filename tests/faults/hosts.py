# ruff: noqa: ASYNC110 - it waits for what other processes do to the database and the history
"""Hosts that are cut off while their processes go on: `python -m tests.faults.hosts [--seed N]`.

Two databases, two servers behind one address that names both, three workers and two gateways, each on a host
of its own. Under load each kind of host is cut off in turn and comes back, and the standby takes the place of
the primary. Then all runs have to end, and the invariants are checked on the history and the database.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from runengine_server.logs import configure_logging

from tests.faults.clients import Tenant
from tests.faults.facts import Facts
from tests.faults.history import Note
from tests.faults.invariants import violations
from tests.faults.standing import cancel
from tests.faults.standing_hosts import LEASE_SECONDS, WORKERS, Hosts, OnHost
from tests.support.network import OWN_ADDRESS, enter_own_network, missing
from tests.support.patience import SECONDS
from tests.support.temporal_server import dispatching

# A server that says nothing is left after nine, with the options of runengine_client/channel.py.
FOUND_SECONDS = 11.0
_SILENT_SECONDS = 14.0
_OF_CLIENTS = "RETRIED", "CANCELLED", "RESUMED"
# What `break_all` does, and how often.
_KINDS = {
    "a worker cut off": len(WORKERS),
    "a server cut off": 1,
    "a server frozen": 1,
    "the database cut off": 1,
    "a failover": 1,
}


class Cutting(Hosts):
    """What is done to the hosts."""

    def __init__(self, seed: int, directory: Path, history: Path, say: Callable[[str], object]) -> None:
        super().__init__(seed, directory, history, say)
        self.figures: list[str] = []
        self.wrong: list[str] = []

    async def break_all(self) -> None:
        """Each host but those of the gateways in turn."""
        for name in WORKERS:
            await self.cut_worker(self.on[name])
        await self.silence("a server cut off", *_cut(self.on["api-1"]))
        await self.silence("a server frozen", *_frozen(self.on["api-2"]))
        await self.cut_database()
        await self.fail_over()

    async def cut_worker(self, worker: OnHost) -> None:
        """Cuts it off with runs in its hands, until another is in one of them."""
        await asyncio.gather(*(self._trigger_long() for _ in range(8)))
        victim = worker.pid
        await self._until(lambda notes: len(_held(notes, victim)) >= 2)
        notes = self.history.read()
        seen, held = len(notes), _held(notes, victim)
        worker.host.cut()
        began = time.monotonic()

        def taken(notes: list[Note]) -> set[str]:
            since = itertools.islice(notes, seen, None)
            return {
                each["run"]
                for each in since
                if each["what"] == "claimed" and each["run"] in held and each["pid"] != victim
            }

        await self._until(lambda notes: bool(taken(notes)))
        after = time.monotonic() - began
        await asyncio.sleep(self.random.uniform(0.5, 1.5))
        lost, cut = len(taken(self.history.read())), time.monotonic() - began
        worker.host.heal()
        healed, seen = time.monotonic(), len(self.history.read())
        await self._until(
            lambda notes: any(
                each["what"] == "claimed" and each["pid"] == victim
                for each in itertools.islice(notes, seen, None)
            )
        )
        back = time.monotonic() - healed
        self._tell(
            "a worker cut off",
            f"{worker.host.name} for {cut:.1f} s with {len(held)} runs: {lost} taken over meanwhile, the "
            f"first after {after:.1f} s; it claims again {back:.1f} s after it is back",
        )

    async def _trigger_long(self) -> None:
        tenant = self.random.choice(self.tenants)
        payload = self.payload(second={"pause": 3 * LEASE_SECONDS})
        await tenant.trigger_until_told("storm", payload, tenant.campaigns[0], payload["key"])

    async def silence(self, kind: str, name: str, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """A server says nothing for a while; soon nobody calls it any more."""
        seen, at = len(self.history.read()), time.time()
        begin()
        try:
            await asyncio.sleep(_SILENT_SECONDS)
        finally:
            end()
        calls = {
            note["call"]: note["at"]
            for note in itertools.islice(self.history.read(), seen, None)
            if note["what"] == "call"
        }
        answers = [
            note
            for note in itertools.islice(self.history.read(), seen, None)
            if note["what"] == "answer" and note["call"] in calls
        ]
        failed = [
            calls[note["call"]] - at
            for note in answers
            if not note["ok"] and note["reason"] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        ]
        if failed:
            self._tell(
                kind,
                f"{name} for {_SILENT_SECONDS:g} s: {len(failed)} of {len(answers)} calls failed, the last "
                f"one was sent after {max(failed):.1f} s",
            )
            if max(failed) > FOUND_SECONDS:
                self.wrong.append(f"{kind}: a call failed that was sent {max(failed):.1f} s later")
        await asyncio.sleep(3)

    async def cut_database(self) -> None:
        """Cuts it off with all that is under way."""
        host = self.primary.host
        host.cut()
        began = time.monotonic()
        await self.felt("the database cut off")
        await asyncio.sleep(8)
        host.heal()
        cut, healed = time.monotonic() - began, time.monotonic()
        await self._until_served()
        back = time.monotonic() - healed
        self._figure(
            f"the database cut off: {host.name} for {cut:.1f} s; a trigger is acknowledged {back:.1f} s "
            "after it is back"
        )
        await asyncio.sleep(3)

    async def fail_over(self) -> None:
        """The primary is cut off, for good; its standby takes its place, and has another at the end."""
        await self.primary.until_caught_up()
        old, new = self.primary, self.standby
        old.host.cut()
        began = time.monotonic()
        await asyncio.sleep(2)
        await new.promote()
        self.primary, self.standby = new, old
        await self._until_served()
        served = time.monotonic() - began
        await asyncio.sleep(3)
        # Before anybody reaches it again, whoever fails over makes sure that it takes no writes.
        await asyncio.to_thread(old.stop)
        old.host.heal()
        await old.follow(new)
        self._tell(
            "a failover",
            f"{old.host.name} to {new.host.name}, promoted after 2 s: a trigger is acknowledged after "
            f"{served:.1f} s; {old.host.name} follows after {time.monotonic() - began:.1f} s",
        )
        await asyncio.sleep(3)

    def _tell(self, kind: str, figure: str) -> None:
        self.hit(kind)
        self._figure(f"{kind}: {figure}")

    def _figure(self, figure: str) -> None:
        self.figures.append(figure)
        self.say(figure)

    async def _until(self, holds: Callable[[list[Note]], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not holds(self.history.read()):
                await asyncio.sleep(0.05)

    async def _until_served(self) -> None:
        tenant: Tenant = self.random.choice(self.tenants)
        payload = self.payload()
        await tenant.trigger_until_told("storm", payload, None, payload["key"])

    # The end

    async def judge(self) -> list[str]:
        """The report, of which the last line counts the violations."""
        facts = Facts(self.history.read(), await self.read_rows())
        refused = sum(not note["ok"] for note in facts.notes("answer"))
        reasons = [event["reason"] for event in facts.rows.events]
        lost = sum(
            after["reason"] == "TAKEN_OVER" and before["reason"] != "RESUMED"
            for events in facts.events.values()
            for before, after in pairwise(events)
        )
        outcomes = [note["outcome"] for note in facts.notes("write")]
        unmet = [kind for kind, times in _KINDS.items() if self.hits[kind] < times]
        found = [*self.wrong, *(f"{kind} met nothing" for kind in unmet), *violations(facts)]
        return [
            f"{len(facts.rows.runs)} runs, {len(facts.calls)} calls ({refused} refused or failed), "
            + ", ".join(f"{reasons.count(reason)} {reason}" for reason in _OF_CLIENTS)
            + f", {lost} taken over from a lost worker",
            f"{len(outcomes)} writes of workers noted, {outcomes.count('fenced')} of them fenced off, and "
            f"{outcomes.count('unknown')} of which the worker did not learn what became",
            *self.figures,
            *(f"VIOLATION {words}" for words in found),
            f"{len(found)} violations",
        ]


def _held(notes: list[Note], pid: int) -> set[str]:
    """The runs that a worker has."""
    held: set[str] = set()
    for note in notes:
        if note["pid"] == pid and note["what"] == "claimed":
            held.add(note["run"])
        elif note["pid"] == pid and note["what"] == "left":
            held.discard(note["run"])
    return held


def _cut(kept: OnHost) -> tuple[str, Callable[[], None], Callable[[], None]]:
    return kept.host.name, kept.host.cut, kept.host.heal


def _frozen(kept: OnHost) -> tuple[str, Callable[[], None], Callable[[], None]]:
    pid = kept.pid
    return kept.host.name, lambda: os.kill(pid, signal.SIGSTOP), lambda: os.kill(pid, signal.SIGCONT)


async def trial(seed: int, by: str, keep: Path | None, say: Callable[[str], object]) -> list[str]:
    """What came of it, in lines; the history and the logs go to `keep`."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hosts-") as name:
        directory = Path(name)
        os.chmod(directory, 0o755)  # for PostgreSQL's own user
        it = Cutting(seed, directory, (keep or directory) / "history", say)
        async with dispatching(by, OWN_ADDRESS), it.standing():
            load = [asyncio.create_task(each) for each in it.load()]
            try:
                await it.break_all()
            finally:
                await cancel(load[1:])
            ended_in = await it.settle(SECONDS)
            lines = await it.judge()
            await cancel(load[:1])
        it.history.close()
    seconds = time.monotonic() - began
    return [
        f"seed {seed}: all ended {ended_in:.1f} s after the last fault; {seconds:.0f} s in all",
        *lines,
    ]


def main() -> None:
    """The command."""
    if (lacking := missing()) is not None:
        sys.stderr.write(f"make hosts {lacking}\n")
        sys.exit(2)
    enter_own_network("tests.faults.hosts")
    parser = argparse.ArgumentParser(prog="python -m tests.faults.hosts", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--dispatch", choices=("postgres", "temporal"), default="postgres")
    parser.add_argument("--keep", type=Path, help="a new directory, where the history and the logs go")
    options = parser.parse_args()
    configure_logging("error")
    if options.keep is not None:
        options.keep.mkdir()
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.1f} {line}\n")

    lines = asyncio.run(trial(options.seed, options.dispatch, options.keep, say))
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(any(line.startswith("VIOLATION") for line in lines))


if __name__ == "__main__":
    main()
