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
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from runengine_client import RunEngineClient
from runengine_server.auth import development
from runengine_server.children import Child, ChildFailed
from runengine_server.embedded_postgres import EmbeddedPostgres
from runengine_server.logs import configure_logging
from runengine_server.repositories.migrations.migrate import migrate

from tests.faults import claims, recovery
from tests.faults.arrivals import Arrivals
from tests.faults.clients import Lag, Tenant
from tests.faults.history import History
from tests.faults.invariants import Facts, read_rows, violations
from tests.faults.process import DOORS, SERVER_POINTS, WORKER_POINTS
from tests.faults.proxy import Proxy
from tests.patience import SECONDS
from tests.stack import UNDER_TEST, Stack, environment, free_address

LEASE_SECONDS = 1.0
AT_LEAST = 3
MAX_RECOVERY_LEASES = 1.7
_TENANTS, _CAMPAIGNS, _WORKERS = 3, 2, 3
_ZOMBIES_A_ROUND, _MAX_ROUNDS = 16, 8
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
POISON = "poison run"
POINTS = tuple(f"kill -9 {point}" for point in (*WORKER_POINTS, *SERVER_POINTS))

# Statements whose commit gets lost: of a trigger, of a step, of the end of a run, of a claim; or any.
_LOSABLE = (b"trigger_run", b"begin_step", b"end_completed", b"claim_queued", None)

# One row says whether the disk is full. The sequence counts what failed, for it is not rolled back.
_DISK = """
CREATE SEQUENCE disk_full_hits;
CREATE TABLE disk (is_full boolean NOT NULL);
INSERT INTO disk VALUES (false);
CREATE FUNCTION refuse_when_full() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    IF (SELECT is_full FROM disk) THEN
        PERFORM nextval('disk_full_hits');
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
    END IF;
    RETURN NULL;
END $$;
"""
_GROWING = ("run_events", "run_steps", "checkpoints", "checkpoint_writes", "artifacts")


@dataclass
class Report:
    """What a storm did, and what came of it."""

    seed: int
    hits: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    zombies: int = 0
    repeated_steps: int = 0
    lost_runs: int = 0
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
            f"{self.lost_runs} runs given up as WORKER_LOST",
            *(f"  {self.hits[kind]:4} {kind}" for kind in kinds),
            f"all ended {self.ended_in:.1f} s after the last fault; {self.seconds:.0f} s in all",
            *(f"VIOLATION {words}" for words in self.violations),
            *(f"TOO FEW {kind}: {self.hits[kind]} of {at_least}" for kind in rare),
            f"{len(self.violations)} violations",
        ]


class Kept:
    """A process that is started again whenever it has died; each time with the next fault point."""

    def __init__(self, command: str, settings: dict[str, str], points: list[str]) -> None:
        self.child: Child | None = None
        self.armed: str | None = None
        self.ready, self.ended = asyncio.Event(), asyncio.Event()
        self._command, self._settings, self._points = command, settings, points

    async def keep(self) -> None:
        """Until it is cancelled."""
        while True:
            self.armed = self._points.pop() if self._points else None
            settings = {**self._settings, **({"FAULT_POINTS": self.armed} if self.armed else {})}
            self.child = child = Child(self._command, environment(**settings), UNDER_TEST)
            with contextlib.suppress(ChildFailed):
                await child.until_ready()
                self.ready.set()
            await child.until_ended()
            self.ready.clear()
            self.ended.set()
            self.ended = asyncio.Event()
            await child.stop()
            if self.armed is not None:  # it died of something else
                self._points.insert(0, self.armed)

    @property
    def pid(self) -> int:
        """Of the process that is there now."""
        assert self.child is not None
        return self.child.pid

    async def stop(self) -> None:
        """Kills it, stopped or not."""
        if self.child is not None:
            self.child.kill()
            await self.child.stop()


class Storm:
    """One storm: its processes, its clients, and what breaks."""

    def __init__(self, seed: int, directory: Path, history: Path, say: Callable[[str], object]) -> None:
        self.random = random.Random(seed)
        self.report = Report(seed)
        self.directory = directory
        self.history = History(history)
        self._history_path = history
        self._say = say
        self.lag = Lag()
        self.tenants: list[Tenant] = []
        self.workers: list[Kept] = []
        self.servers: list[Kept] = []
        self.undertakers: list[Kept] = []  # the two that stop and take over
        self.vanished: list[asyncio.Task[Any]] = []

    # What is there

    @contextlib.asynccontextmanager
    async def standing(self, points: dict[str, int], zombies: bool) -> AsyncIterator[None]:
        """Everything is started, and stopped at the end."""
        self.postgres = EmbeddedPostgres(self.directory)
        owner_url, url = await self.postgres.start()
        await migrate(owner_url, url)
        self.superuser_url = url.replace("runengine_app@", "postgres@")
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.postgres.stop)
            await self._prepare_disk()
            self.proxy = await stack.enter_async_context(Proxy(url))
            self.arrivals = await stack.enter_async_context(Arrivals())
            await self._start_processes(stack, points, zombies)
            addresses = [server._settings["GRPC_ADDRESS"] for server in self.servers]
            for number in range(_TENANTS):
                name = f"org_{number}_{uuid.UUID(int=self.random.getrandbits(128)).hex}"
                token = development.sign(self.directory, name, "user_storm", ttl_seconds=3600)
                clients = [
                    await stack.enter_async_context(RunEngineClient(address, token, timeout_seconds=4))
                    for address in addresses
                ]
                self.tenants.append(Tenant(name, clients, self.history, self.lag))
            yield

    async def superuser(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.superuser_url, timeout=SECONDS)

    async def sql(self, statement: str, *arguments: Any) -> Any:
        """One statement past the proxy; the first column of its first row."""
        connection = await self.superuser()
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            await connection.close()

    async def _prepare_disk(self) -> None:
        connection = await self.superuser()
        await connection.execute(_DISK)
        for table in _GROWING:
            await connection.execute(
                f"CREATE TRIGGER refuse_when_full AFTER INSERT ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_when_full()"
            )
        await connection.close()

    async def _start_processes(
        self, stack: contextlib.AsyncExitStack, points: dict[str, int], zombies: bool
    ) -> None:
        common = {
            "DATABASE_URL": self.proxy.url,
            "STATE_DIR": str(self.directory),
            "CLERK_ISSUER": development.ISSUER,
            "CLERK_JWT_KEY": development.public_pem(self.directory),
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "WORKER_CONCURRENCY": "6",
            "WORKFLOWS": "tests.faults.graphs:STORM",
            "FAULT_SOCKET": self.arrivals.path,
            "HISTORY": str(self._history_path),
        }
        armed = [
            f"{point}:{self.random.randint(1, 6)}" for point, times in points.items() for _ in range(times)
        ]
        self.random.shuffle(armed)
        self.worker_points = [each for each in armed if each.partition(":")[0] in WORKER_POINTS]
        self.server_points = [each for each in armed if each.partition(":")[0] in SERVER_POINTS]
        for _ in range(2):
            settings = {**common, "GRPC_ADDRESS": free_address()}
            self.servers.append(Kept("serve", settings, self.server_points))
        self.workers += [Kept("worker", common, self.worker_points) for _ in range(_WORKERS)]
        if zombies:
            settings = {
                **common,
                "WORKFLOWS": "tests.faults.graphs:ZOMBIES",
                "WORKER_CONCURRENCY": str(_ZOMBIES_A_ROUND),
                "FAULT_POINTS": ",".join(DOORS),
            }
            self.undertakers += [Kept("worker", settings, []) for _ in range(2)]
            for kept in self.undertakers:
                kept._settings = settings
        every = [*self.servers, *self.workers, *self.undertakers]
        stack.push_async_callback(_stop_all, every)
        keeping = [asyncio.create_task(kept.keep()) for kept in every]
        stack.push_async_callback(_cancel, keeping)
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*(kept.ready.wait() for kept in every))

    def hit(self, kind: str, **details: Any) -> None:
        """A fault that has really met something."""
        self.report.hits[kind] += 1
        self.history.note("fault", kind=kind, **details)

    # What the clients do

    def payload(self, **how: Any) -> dict[str, Any]:
        """A run of the storm: its steps take up to a lease and a half."""
        pause = self.random.choice((0.0, 0.02, 0.1, 0.3, 1.4))
        payload: dict[str, Any] = {
            "key": f"key-{self.random.getrandbits(64):016x}",
            "first": {},
            "second": {"pause": pause},
            "third": {"save": True},
            **how,
        }
        if not how and self.random.random() < 0.1:
            payload["second"] = {"manner": "fail"}
        return payload

    async def trigger(self, count: int, until: asyncio.Event) -> None:
        """At least so many runs, and more for as long as there are faults to meet."""
        triggered = 0
        while triggered < count or not until.is_set():
            tenant = self.random.choice(self.tenants)
            campaign = self.random.choice([*tenant.campaigns, None])
            payload = self.payload()
            if self.random.random() < 0.7:
                await tenant.trigger_until_told("storm", payload, campaign, payload["key"])
                triggered += 1
            elif await tenant.trigger("storm", {**payload, "key": None}, campaign, None) is not None:
                triggered += 1
            if until.is_set():
                await asyncio.sleep(0.02)
            else:
                await asyncio.sleep(self.random.uniform(0.1, 0.5))

    async def look(self) -> None:
        """Polls, lists, cancels and retries one's own, and tries the same with what is another's."""
        while True:
            await asyncio.sleep(self.random.uniform(0.02, 0.12))
            tenant, other = self.random.sample(self.tenants, 2)
            foreign = self.random.random() < 0.15
            owner = other if foreign else tenant
            asked = {"foreign": True} if foreign else {}
            if not owner.runs:
                continue
            run_id = self.random.choice(owner.runs[-30:])
            campaign_id = self.random.choice(owner.campaigns)
            what = self.random.random()
            if what < 0.35:
                await tenant.get(run_id, **asked)
            elif what < 0.5:
                await tenant.events(run_id, **asked)
            elif what < 0.7:
                await tenant.get_campaign(campaign_id, **asked)
            elif what < 0.85:
                await tenant.list(campaign_id, **asked)
            elif what < 0.88:
                await tenant.cancel(run_id, **asked)
            elif what < 0.93:
                await tenant.retry(run_id, **asked)
            else:
                await tenant.get(run_id, **asked)

    # What breaks

    async def kill_at_points(self) -> None:
        """Kills each process -9 exactly at the point at which it arrives."""
        points = (*WORKER_POINTS, *SERVER_POINTS)
        while True:
            (arrival,) = await self.arrivals.until(lambda each: each.place in points, seconds=3600)
            for kept in (*self.workers, *self.servers):
                if kept.child is not None and kept.pid == arrival.pid:
                    kept.armed = None
                    kept.child.kill()
                    self.hit(f"kill -9 {arrival.place}", run=arrival.run_id, killed=arrival.pid)
            await arrival.gone()

    async def poison(self) -> None:
        """A run that kills every worker which meets it."""
        tenant = self.tenants[0]
        payload = self.payload(first={"manner": "kill"})
        run = await tenant.trigger_until_told("storm", payload, tenant.campaigns[0], payload["key"])
        tenant.runs.remove(run.id)  # nobody else cancels it

    async def zombies(self) -> None:
        """Stops a worker with its hands full, and goes on with it when its successor is mid-step."""
        for kept in self.undertakers:
            await kept.ready.wait()
        runs = []
        manners = ("gate", "deaf", "deaf")
        for number in range(_ZOMBIES_A_ROUND):
            tenant = self.random.choice(self.tenants)
            payload = self.payload(
                gates=self.arrivals.path, first={"manner": manners[number % 3]}, second={"manner": ""}
            )
            if number % 2:
                payload["stop_at"] = self.random.choice(("before_save_checkpoint:3", "before_save_artifact"))
            workflow = "zombie-on-thread" if number % 8 == 6 else "zombie"
            run = await tenant.trigger_until_told(workflow, payload, tenant.campaigns[0], payload["key"])
            tenant.runs.remove(run.id)  # nobody else retries or cancels it
            runs.append(run.id)

        held = [await self.arrivals.at("first", run_id) for run_id in runs]
        shares = Counter(each.pid for each in held)
        victim = shares.most_common(1)[0][0]
        (successor,) = (kept.pid for kept in self.undertakers if kept.pid != victim)
        mine = {each.run_id for each in held if each.pid == victim}
        os.kill(victim, signal.SIGSTOP)
        try:
            for run_id in mine:
                await self.arrivals.at("first", run_id, successor)
        finally:
            # Each finds its word when it wakes.
            for each in held:
                if each.pid == victim:
                    each.let_go(self.random.choice(("go", "go", "fail", "save")))
            os.kill(victim, signal.SIGCONT)
        await asyncio.gather(*(each.gone() for each in held if each.pid == victim))
        self.report.zombies += len(mine)
        self.hit("zombies", stopped=victim, runs=len(mine))

        async def let_go() -> None:
            while True:
                for each in await self.arrivals.until(lambda each: each.run_id in runs, seconds=3600):
                    each.let_go()
                    await each.gone()

        letting_go = asyncio.create_task(let_go())
        await self.until_ended(runs)
        await _cancel([letting_go])

    async def until_ended(self, runs: Sequence[str], seconds: float = SECONDS) -> None:
        """Returns when none of these runs is under way."""
        connection = await self.superuser()
        try:
            async with asyncio.timeout(seconds):
                while await connection.fetchval(
                    "SELECT 1 FROM runs WHERE id = ANY($1) AND status IN ('queued', 'running')", list(runs)
                ):
                    await asyncio.sleep(0.05)
        finally:
            await connection.close()

    def failures(self) -> int:
        """Calls that failed so far, and writes of which no worker knows what came of them."""
        notes = self.history.read()
        unknown = sum(note["what"] == "write" and note["outcome"] == "unknown" for note in notes)
        return int(unknown) + sum(tenant.failures for tenant in self.tenants)

    async def felt(self, kind: str, seconds: float = 30) -> None:
        """Returns when something has failed since; that it has is the evidence."""
        before, until = self.failures(), time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(0.05)
            if self.failures() > before:
                self.hit(kind)
                return

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
        how = {"manner": "block", "seconds": 1.5 * LEASE_SECONDS}
        payload = self.payload(second=how)
        run = await tenant.trigger_until_told("storm", payload, None, payload["key"])
        await self.until_ended([run.id])
        if any(note["what"] == "effect" and note["run"] == run.id for note in self.history.read()):
            self.hit("blocked event loop", run=run.id)

    async def terminate(self) -> None:
        """A deploy: a worker that is in the middle of a step is told to stop."""
        tenant = self.random.choice(self.tenants)
        payload = self.payload(second={"pause": 2.5})
        run = await tenant.trigger_until_told("storm", payload, None, payload["key"])
        async with asyncio.timeout(SECONDS):
            while not (
                entered := [
                    note["pid"]
                    for note in self.history.read()
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
        payload = self.payload()
        campaign = tenant.campaigns[0]
        call = asyncio.create_task(tenant.trigger("storm", payload, campaign, payload["key"]))
        await asyncio.sleep(self.random.uniform(0, 0.01))
        call.cancel()
        await asyncio.wait([call])
        if call.cancelled():
            self.hit("client vanished")
        await tenant.trigger_until_told("storm", payload, campaign, payload["key"])

    async def break_one(self, kind: str) -> None:
        """One fault, until it has passed."""
        faults: dict[str, Callable[[], Awaitable[None]]] = {
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
        }
        began, before = time.monotonic(), self.report.hits[kind]
        try:
            await faults[kind]()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # What it needed was not there; a fault that has hit nothing is not counted.
            self.history.note("missed", kind=kind, error=f"{type(error).__name__}: {error}")
        outcome = "hit" if self.report.hits[kind] > before else "missed"
        self._say(f"{kind}: {outcome}, {time.monotonic() - began:.1f} s")

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
                for _ in range(times - self.report.hits[kind]):
                    await self.break_one(kind)
        if "zombies" in kinds:
            rounds = 0
            while self.report.zombies < zombies and rounds < _MAX_ROUNDS:
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

    async def settle(self) -> None:
        """No more faults: all runs end, or are told as violations."""
        began = time.monotonic()
        names = [tenant.name for tenant in self.tenants]
        connection = await self.superuser()
        try:
            async with asyncio.timeout(SECONDS):
                while await connection.fetchval(
                    "SELECT 1 FROM runs WHERE tenant_id = ANY($1) AND status IN ('queued', 'running')", names
                ):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass
        finally:
            await connection.close()
        self.report.ended_in = time.monotonic() - began
        for tenant in self.tenants:
            for campaign_id in tenant.campaigns:
                await tenant.get_campaign(campaign_id)
                await tenant.list(campaign_id)
            for run_id in self.random.sample(tenant.runs, min(40, len(tenant.runs))):
                await tenant.events(run_id)

    async def judge(self) -> None:
        """Checks the invariants and fills the report."""
        connection = await self.superuser()
        try:
            rows = await read_rows(connection, [tenant.name for tenant in self.tenants])
        finally:
            await connection.close()
        facts = Facts(self.history.read(), rows)
        report = self.report
        report.runs = len(rows.runs)
        report.calls = len(facts.calls)
        report.refused_calls = sum(not note["ok"] for note in facts.notes("answer"))
        executions = Counter((note["run"], note["key"]) for note in facts.notes("entered"))
        report.repeated_steps = executions.total() - len(executions)
        report.lost_runs = sum(event["reason"] == "WORKER_LOST" for event in rows.events)
        if poisoned := sum(1 for _ in facts.notes("poison")):
            report.hits[POISON] = poisoned
        report.violations = violations(facts)


async def _stop_all(every: list[Kept]) -> None:
    await asyncio.gather(*(kept.stop() for kept in every))


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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
) -> Report:
    """A storm of at least so many runs; `keep` is where its history goes, `say` hears of each fault."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="storm-") as name:
        directory = Path(name)
        os.chmod(directory, 0o755)  # for PostgreSQL's own user
        it = Storm(seed, directory, keep or directory / "history", say)
        async with it.standing(dict.fromkeys(points, times), "zombies" in kinds):
            for tenant in it.tenants:
                for _ in range(_CAMPAIGNS):
                    campaign = uuid.UUID(int=it.random.getrandbits(128), version=4)
                    await tenant.create_campaign(str(campaign))
            over = asyncio.Event()
            always = [
                asyncio.create_task(each)
                for each in (it.lag.watch(), it.kill_at_points(), *(it.look() for _ in range(5)))
            ]
            triggering = asyncio.create_task(it.trigger(runs, over))
            try:
                await it.break_all(kinds, times, zombies, poison)
                over.set()
                await triggering
            finally:
                await _cancel([triggering, *always[1:]])
            await it.settle()
            await it.judge()
            await _cancel(always[:1])
        it.history.close()
    it.report.seconds = time.monotonic() - began
    return it.report


async def measure_claims() -> list[str]:
    """Many claimers of one run, and many workers on many runs, at full size, on a PostgreSQL of their own."""
    with tempfile.TemporaryDirectory(prefix="storm-") as name:
        os.chmod(name, 0o755)
        postgres = EmbeddedPostgres(Path(name))
        try:
            owner_url, url = await postgres.start()
            await migrate(owner_url, url)
            return await claims.measure(url, rounds=200, claimers=50, runs=10_000, workers=16)
        finally:
            postgres.stop()


async def measure_recovery(kills: int) -> list[str]:
    """How long runs wait for their next worker after a kill -9."""
    with tempfile.TemporaryDirectory(prefix="storm-") as name:
        os.chmod(name, 0o755)
        postgres = EmbeddedPostgres(Path(name))
        try:
            owner_url, url = await postgres.start()
            await migrate(owner_url, url)
            stack = Stack(url, Path(name))
            try:
                await stack.start("serve")
                token = stack.token("org_recovery")
                async with Arrivals() as arrivals, stack.client(token) as client:
                    team = await recovery.start(stack, client, arrivals)
                    median, worst = await recovery.measure(team, kills)
            finally:
                await stack.stop()
        finally:
            postgres.stop()
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
    parser.add_argument("--keep", type=Path, help="where the history goes")
    options = parser.parse_args()
    configure_logging()
    if options.keep is not None:
        options.keep.unlink(missing_ok=True)
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.1f} {line}\n")

    if options.recovery or options.claims:
        lines = asyncio.run(measure_recovery(kills=20) if options.recovery else measure_claims())
        sys.stdout.write("\n".join(lines) + "\n")
        sys.exit(any(line.startswith("VIOLATION") for line in lines))
    report = asyncio.run(storm(options.seed, options.runs, keep=options.keep, say=say))
    kinds = (*POINTS, *KINDS, POISON)
    sys.stdout.write("\n".join(report.lines(kinds, AT_LEAST)) + "\n")
    if report.violations or any(report.hits[kind] < AT_LEAST for kind in kinds):
        sys.exit(1)


if __name__ == "__main__":
    main()
