"""Workers are notified of what was committed, beside the calls, which neither wait nor fail for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from runengine_server.database.channels import CANCELLED, HANDED_BACK, QUEUED
from runengine_server.database.database import Database
from runengine_server.database.notifier import Notifier
from runengine_server.domain.run import RunStatus

from tests.faults.arrivals import Arrivals
from tests.faults.proxy import Proxy
from tests.support.gates import Gates
from tests.support.own_worker import SECONDS, Held, Ran, chain, ended, serving, until
from tests.support.stack import UNDER_TEST, Stack, logging_to, own_postgres

# What a test notifies of its own, when all before has been heard.
LAST = "last"


class Heard:
    """What was notified since it listens, in order."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    @classmethod
    @asynccontextmanager
    async def at(cls, database_url: str) -> AsyncIterator[Heard]:
        heard = cls()
        connection = await asyncpg.connect(database_url)
        for channel in (QUEUED, CANCELLED):
            await connection.add_listener(
                channel, lambda _connection, _pid, to, payload: heard._arrived.put_nowait((to, str(payload)))
            )
        try:
            yield heard
        finally:
            await connection.close()

    async def next(self) -> tuple[str, str]:
        async with asyncio.timeout(SECONDS):
            return await self._arrived.get()

    async def until(self, last: str) -> list[str]:
        """The payloads up to that one."""
        payloads: list[str] = []
        while not payloads or payloads[-1] != last:
            payloads.append((await self.next())[1])
        return payloads


@pytest.fixture
async def behind(proxy: Proxy) -> AsyncIterator[Database]:
    """A pool behind the proxy, of which only the notifier is used."""
    database = Database(proxy.url, 1)
    yield database
    proxy.heal()
    await database.close()


def notifications(proxy: Proxy) -> list[str]:
    """The statements that notify, so far."""
    return [sql for sql in proxy.executed if sql.startswith("NOTIFY")]


async def notifying_backends(database: asyncpg.Connection) -> list[int]:
    rows = await database.fetch(
        """SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'NOTIFY%' AND pid <> pg_backend_pid()"""
    )
    return [row["pid"] for row in rows]


async def test_each_transition_that_a_worker_waits_for_is_notified(database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine, Heard.at(database_url) as heard:
        run_id = await engine.trigger()
        assert await heard.next() == (QUEUED, "")
        claimed = await engine.claim()
        await engine.queue.hand_back([claimed])
        assert await heard.next() == (QUEUED, HANDED_BACK)
        await engine.cancel(run_id)
        assert await heard.next() == (CANCELLED, f"{run_id} 1")
        await engine.retry(run_id)
        assert await heard.next() == (QUEUED, "")


async def test_a_call_that_changes_nothing_is_not_notified(database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine, Heard.at(database_url) as heard:
        run_id = await engine.trigger()
        # Nobody holds a run that is queued, or one that is cancelled already.
        await engine.cancel(run_id)
        await engine.cancel(run_id)
        await engine.queue.hand_back([])
        engine.database.notifier.notify(QUEUED, LAST)
        assert await heard.until(LAST) == ["", LAST]


async def test_notifications_that_come_while_one_is_under_way_go_out_in_one_statement(
    proxy: Proxy, behind: Database, database_url: str
) -> None:
    async with Heard.at(database_url) as heard:
        behind.notifier.notify(QUEUED)
        await heard.next()
        proxy.black_hole()
        cancelled = [f"{uuid4()} 1" for _ in range(100)]
        for payload in cancelled:
            behind.notifier.notify(QUEUED)
            behind.notifier.notify(CANCELLED, payload)
            await asyncio.sleep(0)
        behind.notifier.notify(QUEUED, LAST)
        proxy.heal()
        payloads = await heard.until(LAST)
    assert [payload for payload in payloads if payload not in ("", LAST)] == cancelled
    # The first of all, the one under way, and the one after it.
    assert len(notifications(proxy)) <= 3
    assert 1 <= payloads.count("") <= 2


async def test_a_trigger_does_not_wait_for_a_notification_that_is_stuck(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine, Heard.at(database_url) as heard:
        others = await notifying_backends(database)
        await engine.trigger()
        await heard.next()
        (pid,) = set(await notifying_backends(database)) - set(others)
        os.kill(pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(SECONDS):
                run_ids = [await engine.trigger() for _ in range(20)]
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await heard.next() == (QUEUED, "")
        for run_id in run_ids:
            assert (await engine.get(run_id)).status is RunStatus.QUEUED


async def test_a_notifier_that_has_lost_its_connection_opens_another(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine, Heard.at(database_url) as heard:
        others = await notifying_backends(database)
        for _ in range(3):
            await engine.trigger()
            assert await heard.next() == (QUEUED, "")
            (pid,) = set(await notifying_backends(database)) - set(others)
            await database.execute("SELECT pg_terminate_backend($1, 5000)", pid)


async def test_a_notification_that_cannot_be_sent_waits_in_bounds_and_is_sent_later(
    proxy: Proxy, behind: Database, database_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with Heard.at(database_url) as heard:
        proxy.refuse()
        behind.notifier.notify(QUEUED)
        for number in range(10_000):
            behind.notifier.notify(CANCELLED, f"{number} 1")
        logged = ""

        async def complained() -> str:
            nonlocal logged
            await asyncio.sleep(0)
            logged += capfd.readouterr().err
            return logged

        await until(complained, lambda words: "notifications cannot be sent" in words)
        proxy.heal()
        await until(complained, lambda words: "notifications are sent again" in words)
        behind.notifier.notify(QUEUED, LAST)
        payloads = await heard.until(LAST)
    assert payloads == ["", *(f"{number} 1" for number in range(999)), LAST]
    assert logged.count("notifications cannot be sent") == 1


async def test_a_notification_is_sent_before_its_process_ends(database_url: str) -> None:
    async with Heard.at(database_url) as heard:
        database = Database(database_url, 1)
        database.notifier.notify(QUEUED, HANDED_BACK)
        await database.close()
        database.notifier.notify(QUEUED, LAST)
        assert await heard.next() == (QUEUED, HANDED_BACK)


async def test_a_server_that_says_nothing_does_not_keep_a_process_from_ending(proxy: Proxy) -> None:
    database = Database(proxy.url, 1)
    proxy.black_hole()
    database.notifier.notify(QUEUED)
    async with asyncio.timeout(SECONDS):
        await database.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "notifier"]
    proxy.heal()


async def test_a_run_whose_server_is_killed_before_its_notification_is_found_by_the_poll(
    database_url: str, state_dir: Path, database: asyncpg.Connection
) -> None:
    async with Arrivals() as arrivals, serving(database_url, chain(one=Ran().node("one"))) as engine:
        stack = Stack(database_url, state_dir)
        (serve,) = await stack.start(
            "serve",
            module=UNDER_TEST,
            FAULT_POINTS="server_before_notification:1",
            FAULT_SOCKET=arrivals.path,
        )
        try:
            async with engine.working(), Heard.at(database_url) as heard:
                warm = await engine.trigger()
                assert await ended(engine, warm) is RunStatus.COMPLETED
                async with stack.client(stack.token(engine.tenant_id)) as client:
                    run = await client.trigger_run(engine.workflow)
                await arrivals.until(lambda each: each.place == "server_before_notification")
                serve.kill()
                await serve.until_ended()
                assert await ended(engine, UUID(run.id)) is RunStatus.COMPLETED
                engine.database.notifier.notify(QUEUED, LAST)
                assert await heard.until(LAST) == ["", LAST]
        finally:
            await stack.stop()


# A queue of 64 pages, the least that PostgreSQL has, and a session that reads nothing of it.


@pytest.fixture(scope="module")
async def small_queue_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A PostgreSQL of this module's own, whose queue of notifications is full after half a megabyte."""
    async with own_postgres(tmp_path_factory.mktemp("postgres")) as (postgres, url):
        admin = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
        await admin.execute("ALTER SYSTEM SET fsync = off")
        await admin.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")
        await admin.execute("INSERT INTO workflows (name) VALUES ('unserved')")
        await admin.close()
        postgres.stop()
        await postgres.start()
        yield url


@asynccontextmanager
async def full_queue(database_url: str) -> AsyncIterator[None]:
    """While the block runs nobody can notify; afterwards nobody keeps them from it."""
    reader, writer = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    try:
        await reader.execute("LISTEN other")
        await reader.execute("BEGIN; SELECT 1")
        with contextlib.suppress(asyncpg.ProgramLimitExceededError):
            while True:
                await writer.execute("SELECT pg_notify('other', repeat('x', 7900))")
        yield
    finally:
        await writer.close()
        await reader.close()


async def test_a_full_queue_of_notifications_fails_nothing_and_heals(
    small_queue_url: str, state_dir: Path, organisation: str, tmp_path: Path, gates: Gates
) -> None:
    stack, log = Stack(small_queue_url, state_dir), tmp_path / "log"
    async with AsyncExitStack() as exits:
        exits.push_async_callback(stack.stop)
        async with full_queue(small_queue_url):
            with logging_to(log):
                await stack.start("serve", "worker", LEASE_SECONDS="1")
            client = await exits.enter_async_context(stack.client(stack.token(organisation)))
            run = await client.trigger_run("gated", trigger_payload={"gates": gates.path})
            gate = await gates.next()
            await client.cancel_run(run.id)
            async with asyncio.timeout(SECONDS):
                await gate.left.wait()
            await client.retry_run(run.id)
            (await gates.next()).open()
            assert (await client.wait(run.id, timeout_seconds=SECONDS)).attempt == 2
        heard = await exits.enter_async_context(Heard.at(small_queue_url))
        await client.trigger_run("unserved")
        await heard.until("")
    words = log.read_text()
    assert words.count("notifications cannot be sent") == 1
    assert words.count("notifications are sent again") == 1
    assert '"level":"error"' not in words


async def test_a_queue_that_was_full_takes_the_first_notification_after(
    small_queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, sent = Notifier.send, asyncio.Queue[str]()

    async def noted(notifier: Notifier, batch: dict[tuple[str, str], None]) -> None:
        try:
            await send(notifier, batch)
        except Exception as error:
            sent.put_nowait(type(error).__name__)
            raise
        sent.put_nowait("sent")

    monkeypatch.setattr(Notifier, "send", noted)
    async with full_queue(small_queue_url):
        pass
    database = Database(small_queue_url, 1)
    database.notifier.notify(QUEUED)
    async with asyncio.timeout(SECONDS):
        assert await sent.get() == "sent"
    await database.close()


async def test_runs_are_handed_back_while_the_queue_of_notifications_is_full(small_queue_url: str) -> None:
    held = Held()
    async with serving(small_queue_url, chain(held=held.node)) as engine, full_queue(small_queue_url):
        run_id = await engine.trigger()
        async with engine.working():
            await held.next()
        (taken,) = await engine.queue.claim_expired(1)
        assert (taken.id, taken.losses) == (run_id, 0)
