# ruff: noqa: ASYNC110 - it waits for what other processes do to the database and the history
"""What breaks, one method a kind of fault; each counts only once it has met something."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import asyncpg

from tests.faults.arrivals import Arrival
from tests.faults.process import SERVER_POINTS, WORKER_POINTS
from tests.faults.standing import AWAY, Standing, cancel
from tests.support.patience import SECONDS
from tests.support.temporal_server import TemporalServer

LEASE_SECONDS = 1.0
ZOMBIES_A_ROUND = 16
_OVERLOAD = 4 * 256

KINDS = (
    "zombies",
    "postgres crash",
    "refused",
    "black hole",
    "commit lost, applied",
    "commit lost, not applied",
    "lost notify",
    "connections reset",
    "blocked event loop",
    "SIGTERM mid-step",
    "disk full",
    "overload",
    "client vanished",
)
TEMPORAL_AWAY = "temporal away"
POISON = "poison run"
POINTS = tuple(f"kill -9 {point}" for point in (*WORKER_POINTS, *SERVER_POINTS))

# Statements whose commit gets lost: of a trigger, of steps, of the end of a run, of a claim, of a run that
# waits and of its resume; or any.
_LOSABLE = (b"trigger_run", b"record_progress", b"record_next_step", b"end_run", b"complete_runs",
    b"claim_queued", b"wait_run", b"resume_run", None)  # fmt: skip


class Breaking(Standing):
    """Its processes, its clients, and what breaks."""

    # The workflow of runs that do harm to their worker, and the lease of the workers.
    deadly = "storm"
    lease_seconds = LEASE_SECONDS
    zombies_made = 0
    temporal: TemporalServer | None = None  # where it dispatches

    async def kill_at_points(self) -> None:
        """Kills each process -9 exactly at the point at which it arrives."""
        points = (*WORKER_POINTS, *SERVER_POINTS)
        mortal = (*self.workers, *self.servers)

        def is_due(each: Arrival) -> bool:
            return each.place in points and any(kept.child and kept.pid == each.pid for kept in mortal)

        while True:
            (arrival,) = await self.arrivals.until(is_due, seconds=3600)
            for kept in mortal:
                if kept.child is not None and kept.pid == arrival.pid:
                    kept.armed = None
                    kept.child.kill()
                    self.hit(f"kill -9 {arrival.place}", run=arrival.run_id, killed=arrival.pid)
            await arrival.gone()

    async def poison(self) -> None:
        """A run that kills every worker which meets it."""
        tenant = self.tenants[0]
        payload = self.payload(first={"manner": "kill"})
        run = await tenant.trigger_until_told(self.deadly, payload, tenant.campaigns[0], payload["key"])
        tenant.runs.remove(run.id)  # nobody else cancels it

    async def zombies(self) -> None:
        """Stops a worker with its hands full, and goes on with it when its successor is mid-step."""
        for kept in self.undertakers:
            await kept.ready.wait()
        runs: dict[str, str] = {}
        try:
            await self._stop_one_with_its_hands_full(runs)
        finally:
            # Also when nobody has arrived: a node that waits here, and hears of no cancel, keeps its place.
            letting_go = asyncio.create_task(self._let_go_until_ended(runs))
            self.letting_go.add(letting_go)
            letting_go.add_done_callback(self.letting_go.discard)
        await asyncio.wait_for(asyncio.shield(letting_go), SECONDS)

    async def _stop_one_with_its_hands_full(self, runs: dict[str, str]) -> None:
        """Adds each run, and the place at which it is stopped and taken over."""
        manners = ("gate", "deaf", "deaf")
        for number in range(ZOMBIES_A_ROUND):
            tenant = self.random.choice(self.tenants)
            payload = self.payload(
                gates=self.arrivals.path, first={"manner": manners[number % 3]}, second={"manner": ""}
            )
            place = "first"
            if number % 4 == 0:
                place = payload["stop_at"] = "before_wait"
                payload["first"] = {"asks": 1}
            elif number % 2:
                payload["stop_at"] = self.random.choice(("before_save_checkpoint:3", "before_save_artifact"))
            workflow = "zombie-on-thread" if number % 8 == 6 else "zombie"
            run = await tenant.trigger_until_told(workflow, payload, tenant.campaigns[0], payload["key"])
            tenant.runs.remove(run.id)  # nobody else retries or cancels it
            runs[run.id] = place

        held = [await self.arrivals.at(place, run_id) for run_id, place in runs.items()]
        shares = Counter(each.pid for each in held)
        victim = shares.most_common(1)[0][0]
        (successor,) = (kept.pid for kept in self.undertakers if kept.pid != victim)
        mine = {each.run_id for each in held if each.pid == victim}
        os.kill(victim, signal.SIGSTOP)
        try:
            for run_id in mine:
                await self.arrivals.at(runs[run_id], run_id, successor)
        finally:
            # Each finds its word when it wakes.
            for each in held:
                if each.pid == victim:
                    each.let_go(self.random.choice(("go", "go", "fail", "save")))
            os.kill(victim, signal.SIGCONT)
        await asyncio.gather(*(each.gone() for each in held if each.pid == victim))
        self.zombies_made += len(mine)
        self.hit("zombies", stopped=victim, runs=len(mine))

    async def _let_go_until_ended(self, runs: Mapping[str, str]) -> None:
        async def let_go() -> None:
            while True:
                for each in await self.arrivals.until(lambda each: each.run_id in runs, seconds=3600):
                    each.let_go()
                    await each.gone()

        letting_go = asyncio.create_task(let_go())
        try:
            await self.until_ended(list(runs), seconds=3600)
        finally:
            await cancel([letting_go])

    async def crash_postgres(self) -> None:
        """A session is killed -9; PostgreSQL ends all others, recovers from its log, and starts again."""
        connection = await self.superuser()
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        sessions = "SELECT pid FROM pg_stat_activity WHERE usename = 'runengine_app' ORDER BY pid LIMIT 1"
        async with asyncio.timeout(SECONDS):
            while (session := await connection.fetchval(sessions)) is None:
                await asyncio.sleep(0.02)
        os.kill(session, signal.SIGKILL)
        async with asyncio.timeout(SECONDS):
            await lost.wait()
        self.hit("postgres crash")
        async with asyncio.timeout(SECONDS):
            while True:
                with contextlib.suppress(OSError, asyncpg.PostgresError):
                    await self.sql("SELECT 1")
                    return
                await asyncio.sleep(0.05)

    async def cut_off(self, kind: str, cut: Callable[[], None], longest: float) -> None:
        """Both may last longer than the lease, so that workers are cut off with runs in their hands."""
        cut()
        try:
            await self.felt(kind)
            await asyncio.sleep(self.random.uniform(0.2, longest))
        finally:
            self.proxy.heal()

    async def lose_commit(self, applied: bool) -> None:
        async with asyncio.timeout(30):
            await self.proxy.lose_commit(applied, self.random.choice(_LOSABLE))
        self.hit("commit lost, applied" if applied else "commit lost, not applied")

    async def mute(self) -> None:
        """Runs that were triggered unheard are found by the poll."""
        self.proxy.mute_notifications()
        try:
            tenant = self.random.choice(self.tenants)
            payload = self.payload(second={})
            run = await tenant.trigger_until_told("storm", payload, None, payload["key"])
            await self.until_ended([run.id])
            self.hit("lost notify", run=run.id)
        finally:
            self.proxy.heal()

    async def reset(self) -> None:
        open_before = self.proxy.connections
        self.proxy.reset()
        if open_before:
            self.hit("connections reset", connections=open_before)
        await asyncio.sleep(self.random.uniform(0.1, 0.5))

    async def block(self) -> None:
        """A node that holds the event loop of its worker for longer than the lease."""
        tenant = self.random.choice(self.tenants)
        how = {"manner": "block", "seconds": 1.5 * self.lease_seconds}
        payload = self.payload(second=how)
        run = await tenant.trigger_until_told(self.deadly, payload, None, payload["key"])
        await self.until_ended([run.id])
        if any(note["what"] == "effect" and note["run"] == run.id for note in self.history.read()):
            self.hit("blocked event loop", run=run.id)

    async def terminate(self) -> None:
        """A deploy: a worker that is in the middle of a step is told to stop."""
        tenant = self.random.choice(self.tenants)
        payload = self.payload(second={"pause": 2.5})
        begun = len(self.history.read())
        run = await tenant.trigger_until_told(self.deadly, payload, None, payload["key"])
        async with asyncio.timeout(SECONDS):
            while not (
                entered := [
                    note["pid"]
                    for note in itertools.islice(self.history.read(), begun, None)
                    if note["what"] == "entered" and (note["run"], note["node"]) == (run.id, "second")
                ]
            ):
                await asyncio.sleep(0.02)
        for kept in self.workers:
            if kept.child is not None and kept.pid == entered[-1]:
                ended = kept.ended
                os.kill(kept.pid, signal.SIGTERM)
                await ended.wait()
                self.hit("SIGTERM mid-step", run=run.id)
        await self.until_ended([run.id])

    async def lose_temporal(self) -> None:
        """Temporal is killed, and has forgotten all that it was given when it is back. What it meets is a run
        that is triggered meanwhile.
        """
        assert self.temporal is not None
        self.temporal.kill()
        tenant = self.random.choice(self.tenants)
        payload = self.payload(second={})
        run = await tenant.trigger_until_told("storm", payload, None, payload["key"])
        await asyncio.sleep(self.random.uniform(0.2, 2.0))
        await self.temporal.start()
        await self.until_ended([run.id])
        self.hit(TEMPORAL_AWAY, run=run.id)

    async def fill_disk(self) -> None:
        before = await self.sql("SELECT last_value FROM disk_full_hits")
        await self.sql("UPDATE disk SET is_full = true")
        try:
            async with asyncio.timeout(SECONDS):
                while await self.sql("SELECT last_value FROM disk_full_hits") == before:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(self.random.uniform(0.2, 0.8))
        finally:
            await self.sql("UPDATE disk SET is_full = false")
        self.hit("disk full")

    async def overload(self) -> None:
        """Four times as many calls at once as one server takes. They wait for a lock, so that none makes
        room for another before the surplus has come.
        """
        tenant = self.random.choice(self.tenants)
        server = self.random.randrange(2)
        payload = self.payload()
        run = await tenant.trigger_until_told("storm", payload, tenant.campaigns[0], payload["key"])
        await self.servers[server].ready.wait()
        before = len(self.history.read())
        connection = await self.superuser()
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
                calls = [asyncio.create_task(tenant.get(run.id, server)) for _ in range(_OVERLOAD)]
                # The first to end are those that did not wait.
                await asyncio.wait(calls, timeout=3, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await connection.close()
        await asyncio.gather(*calls)
        reasons = [note.get("reason") for note in self.history.read()[before:] if note["what"] == "answer"]
        if "OVERLOADED" in reasons:
            self.hit("overload", refused=reasons.count("OVERLOADED"))

    async def vanish(self) -> None:
        """A client that goes away in the middle of its call, and one that asks the same again."""
        tenant = self.random.choice(self.tenants)
        campaign = tenant.campaigns[0]
        # Sooner each time, until the call is still under way.
        for tries in range(1, 11):
            payload = self.payload()
            call = asyncio.create_task(tenant.trigger("storm", payload, campaign, payload["key"]))
            await asyncio.sleep(self.random.uniform(0, 0.01 / tries))
            call.cancel()
            await asyncio.wait([call])
            await tenant.trigger_until_told("storm", payload, campaign, payload["key"])
            if call.cancelled():
                self.hit("client vanished")
                return

    async def break_one(self, kind: str) -> None:
        """One fault, until it has passed."""
        began, before = time.monotonic(), self.hits[kind]
        try:
            await self.faults()[kind]()
        except (TimeoutError, *AWAY) as error:
            # What it needed was not there; a fault that has hit nothing is not counted.
            self.history.note("missed", kind=kind, error=f"{type(error).__name__}: {error}")
        outcome = "hit" if self.hits[kind] > before else "missed"
        self.say(f"{kind}: {outcome}, {time.monotonic() - began:.1f} s")

    def faults(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """How each kind is done."""
        return {
            "zombies": self.zombies,
            "postgres crash": self.crash_postgres,
            "refused": lambda: self.cut_off("refused", self.proxy.refuse, 1.2),
            "black hole": lambda: self.cut_off("black hole", self.proxy.black_hole, 0.8),
            "commit lost, applied": lambda: self.lose_commit(True),
            "commit lost, not applied": lambda: self.lose_commit(False),
            "lost notify": self.mute,
            "connections reset": self.reset,
            "blocked event loop": self.block,
            "SIGTERM mid-step": self.terminate,
            "disk full": self.fill_disk,
            "overload": self.overload,
            "client vanished": self.vanish,
            TEMPORAL_AWAY: self.lose_temporal,
        }
