# ruff: noqa: ASYNC110 - it waits for what other processes do to the database and the history
"""Real processes on a PostgreSQL of their own, behind a proxy, and clients whose every call is noted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import asyncpg
from runengine_client import RunEngineClient
from runengine_server.auth import development
from runengine_server.database.migrations.migrate import migrate
from runengine_server.processes.children import Child, ChildFailed
from runengine_server.processes.embedded_postgres import EmbeddedPostgres

from tests.faults.arrivals import Arrivals
from tests.faults.clients import Lag, Tenant
from tests.faults.facts import Rows, read_rows
from tests.faults.graphs import brief_of
from tests.faults.history import History
from tests.faults.proxy import Proxy
from tests.faults.resuming import AWAY as AWAY
from tests.faults.resuming import Approver
from tests.support.patience import SECONDS
from tests.support.stack import UNDER_TEST, environment, logging_to

_TENANTS, _CAMPAIGNS = 3, 2

# The share of runs that ask somebody.
_ASKING = 0.3

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
_GROWING = ("run_events", "run_steps", "checkpoints", "checkpoint_writes", "run_values", "artifacts")


class Kept:
    """A process that is started again whenever it has died; each time with the next fault point.

    `settings` are those of its next start; `log` is where it logs, else where this process does. Nobody
    reads what the next start logs once `unread` is set.
    """

    def __init__(
        self, command: str, settings: dict[str, str], points: list[str], log: Path | None = None
    ) -> None:
        self.child: Child | None = None
        self.armed: str | None = None
        self.ready, self.ended = asyncio.Event(), asyncio.Event()
        self.command, self.settings = command, settings
        self.unread = self.is_unread = False
        self._points, self._log = points, log

    async def keep(self) -> None:
        """Until it is cancelled."""
        while True:
            self.armed = self._points.pop() if self._points else None
            settings = {**self.settings, **({"FAULT_POINTS": self.armed} if self.armed else {})}
            with self.starting():
                self.child = child = Child(self.command, environment(**settings), UNDER_TEST)
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

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Where the process is started, which has its standard error from here."""
        self.is_unread, self.unread = self.unread, False
        if self.is_unread:
            reader, writer = os.pipe()
            os.close(reader)
            with logging_to(Path(f"/proc/self/fd/{writer}")):
                os.close(writer)
                yield
        elif self._log is not None:
            with logging_to(self._log):
                yield
        else:
            yield

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


_dice: ContextVar[random.Random | None] = ContextVar("dice", default=None)


class Standing:
    """What faults are done to: PostgreSQL behind a proxy, kept processes, and the clients of some tenants."""

    def __init__(self, seed: int, directory: Path, history: Path, say: Callable[[str], object]) -> None:
        self.directory = directory
        self.history_path = history
        self.history = History(history)
        self.hits: Counter[str] = Counter()
        self.say = say
        self.lag = Lag()
        self.tenants: list[Tenant] = []
        self.workers: list[Kept] = []
        self.servers: list[Kept] = []
        self.undertakers: list[Kept] = []  # the two that stop and take over
        self.letting_go: set[asyncio.Task[None]] = set()  # of runs whose nodes wait for a word
        self._random = random.Random(seed)
        self._counted = self._unknown = 0

    @property
    def random(self) -> random.Random:
        """Of the task that asks, if it has dice of its own."""
        return _dice.get() or self._random

    @staticmethod
    def use_dice(seed: str) -> None:
        """Gives this task, and what it starts, dice of its own, which nobody else throws."""
        _dice.set(random.Random(seed))

    @contextlib.asynccontextmanager
    async def standing(self) -> AsyncIterator[None]:
        """Everything is started, and stopped at the end."""
        async with contextlib.AsyncExitStack() as stack:
            await self.start_database(stack)
            self.arrivals = await stack.enter_async_context(Arrivals())
            every = self.processes()
            stack.push_async_callback(stop_all, every)
            keeping = [asyncio.create_task(kept.keep()) for kept in every]
            stack.push_async_callback(cancel, keeping)
            async with asyncio.timeout(SECONDS):
                await asyncio.gather(*(kept.ready.wait() for kept in every))
            for number in range(_TENANTS):
                name = f"org_{number}_{uuid.UUID(int=self.random.getrandbits(128)).hex}"
                clients = [
                    await stack.enter_async_context(
                        RunEngineClient(address, self.token(name), timeout_seconds=4)
                    )
                    for address in self.addresses()
                ]
                self.tenants.append(Tenant(name, clients, self.history, self.lag))
            for tenant in self.tenants:
                for _ in range(_CAMPAIGNS):
                    campaign = uuid.UUID(int=self.random.getrandbits(128), version=4)
                    await tenant.create_campaign(str(campaign))
            yield

    async def start_database(self, stack: contextlib.AsyncExitStack) -> None:
        """Starts what `database_url` and `superuser_url` lead to, until the stack is left."""
        self.postgres = EmbeddedPostgres(self.directory)
        owner_url, url = await self.postgres.start()
        stack.callback(lambda: self.postgres.stop())
        await migrate(owner_url, url)
        self.superuser_url = url.replace("runengine_app@", "postgres@")
        await self.prepare_database()
        self.proxy = await stack.enter_async_context(Proxy(url))
        self.database_url = self.proxy.url

    def addresses(self) -> list[str]:
        """Where clients call; each tenant has a client for each."""
        return [server.settings["GRPC_ADDRESS"] for server in self.servers]

    def processes(self) -> list[Kept]:
        """All that are to stand, in `servers`, `workers` and the like; not started yet."""
        raise NotImplementedError

    def settings(self, **more: str) -> dict[str, str]:
        """Of every process."""
        return {
            "DATABASE_URL": self.database_url,
            "STATE_DIR": str(self.directory),
            "CLERK_ISSUER": development.ISSUER,
            "CLERK_JWT_KEY": development.public_pem(self.directory),
            "FAULT_SOCKET": self.arrivals.path,
            "HISTORY": str(self.history_path),
            **more,
        }

    def token(self, organisation: str) -> str:
        """A token of that tenant's."""
        return development.sign(self.directory, organisation, "user_storm", ttl_seconds=24 * 3600)

    async def superuser(self) -> asyncpg.Connection:
        """A connection past the proxy, to be closed."""
        return await asyncpg.connect(self.superuser_url, timeout=SECONDS)

    async def sql(self, statement: str, *arguments: Any) -> Any:
        """One statement past the proxy; the first column of its first row."""
        connection = await self.superuser()
        try:
            found = await connection.fetchval(statement, *arguments)
        except BaseException:
            connection.terminate()  # one that was cut off in a statement cannot say good-bye
            raise
        await connection.close()
        return found

    async def prepare_database(self) -> None:
        """So that its disk can be full."""
        connection = await self.superuser()
        await connection.execute(_DISK)
        for table in _GROWING:
            await connection.execute(
                f"CREATE TRIGGER refuse_when_full AFTER INSERT ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_when_full()"
            )
        await connection.close()

    def hit(self, kind: str, **details: Any) -> None:
        """A fault that has really met something."""
        self.hits[kind] += 1
        self.history.note("fault", kind=kind, **details)

    # What clients do

    def payload(self, **how: Any) -> dict[str, Any]:
        """A run of the storm: its steps take up to a lease and a half."""
        pause = self.random.choice((0.0, 0.02, 0.1, 0.3, 1.4))
        payload: dict[str, Any] = {
            "key": f"key-{self.random.getrandbits(64):016x}",
            "brief": brief_of(f"word-{self.random.getrandbits(60):015x}"),
            "first": {},
            "second": {"pause": pause},
            "third": {"save": True},
            **how,
        }
        if not how and self.random.random() < 0.1:
            payload["second"] = {"manner": "fail"}
        if not how and self.random.random() < _ASKING:
            asking = self.random.choice((("second",), ("second",), ("first", "second")))
            for node in asking:
                payload[node] = {**payload[node], "asks": self.random.choice((1, 1, 2))}
        return payload

    def workflow(self) -> str:
        """That of a run of the storm."""
        return self.random.choices(("storm", "storm-nested", "storm-gated"), (8, 1, 1))[0]

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
            elif foreign:
                await tenant.resume_unknown(run_id, **asked)
            else:
                await tenant.get(run_id)

    async def resume_all(self) -> None:
        """Resumes what waits, until it is cancelled."""
        await Approver(self.tenants, self.superuser, self.hit, self.random).resume_all()

    # What came of it

    async def settle(self, seconds: float) -> float:
        """No more faults: waits until all runs have ended, for so long at most, and looks at them once more.
        How long that took.
        """
        began = time.monotonic()
        names = [tenant.name for tenant in self.tenants]
        resuming = asyncio.create_task(self.resume_all())
        connection = await self.superuser()
        try:
            async with asyncio.timeout(seconds):
                while await connection.fetchval(
                    "SELECT 1 FROM runs WHERE tenant_id = ANY($1) AND status IN ('queued', 'running')", names
                ):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass
        finally:
            await cancel([resuming])
            await connection.close()
        ended_in = time.monotonic() - began
        for tenant in self.tenants:
            for campaign_id in tenant.campaigns:
                await tenant.get_campaign(campaign_id)
                await tenant.list(campaign_id)
            for run_id in self.random.sample(tenant.runs, min(40, len(tenant.runs))):
                await tenant.events(run_id)
        return ended_in

    async def read_rows(self) -> Rows:
        """What the database has of the tenants."""
        connection = await self.superuser()
        try:
            return await read_rows(connection, [tenant.name for tenant in self.tenants])
        finally:
            await connection.close()

    async def until_ended(self, runs: Sequence[str], seconds: float = SECONDS) -> None:
        """Returns when none of these runs is under way, whatever becomes of PostgreSQL meanwhile."""
        under_way = "SELECT 1 FROM runs WHERE id = ANY($1) AND status IN ('queued', 'running')"
        async with asyncio.timeout(seconds):
            while True:
                with contextlib.suppress(*AWAY):
                    if not await self.sql(under_way, list(runs)):
                        return
                await asyncio.sleep(0.05)

    def failures(self) -> int:
        """Calls that failed so far, and writes of which no worker knows what came of them."""
        notes = self.history.read()
        for note in itertools.islice(notes, self._counted, None):
            self._unknown += note["what"] == "write" and note["outcome"] == "unknown"
        self._counted = len(notes)
        return self._unknown + sum(tenant.failures for tenant in self.tenants)

    async def felt(self, kind: str, seconds: float = 30) -> None:
        """Returns when something has failed since; that it has is the evidence."""
        before, until = self.failures(), time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(0.05)
            if self.failures() > before:
                self.hit(kind)
                return


async def stop_all(every: list[Kept]) -> None:
    """Kills them."""
    await asyncio.gather(*(kept.stop() for kept in every))


async def cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancels them and waits until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
