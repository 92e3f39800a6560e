"""A worker renews the leases of its runs, lets go of them in time when it cannot, and blocks nobody."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from runengine_server.database.database import Database
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import ClaimedRun, RunStatus
from runengine_server.repositories.queue_repository import LeaseRenewer, QueueRepository
from runengine_server.repositories.record_progress import RECORD_PROGRESS
from runengine_server.worker.heartbeat import Heartbeat

from tests.support.clock import Clock
from tests.support.leases import LEASE_ENDS, beat, leases, other_worker
from tests.support.own_worker import (
    SECONDS,
    Held,
    Ran,
    State,
    chain,
    ended,
    happened,
    locked,
    serving,
    without_waiting,
)


async def test_a_heartbeat_keeps_what_is_held_and_says_what_is_not(database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        ids = [await engine.trigger() for _ in range(3)]
        kept, lost, cancelled = [await engine.claim() for _ in ids]
        await engine.lose(lost.id)
        other = other_worker(engine)
        (successor,) = await other.claim_expired(1)
        await engine.cancel(cancelled.id)
        before = await leases(engine)
        assert await beat(engine.queue, [kept, lost, cancelled]) == {kept.id}
        after = await leases(engine)
        assert before[kept.id] < after[kept.id]
        # The lease of its successor is neither kept nor shortened by the old holder.
        assert before[lost.id] == after[lost.id]
        assert await beat(other, [successor]) == {lost.id}


async def test_a_run_that_is_locked_keeps_no_other_from_being_renewed(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        ids = [await engine.trigger() for _ in range(3)]
        held = [await engine.claim() for _ in ids]
        # It has a lease of its own, which the heartbeat has to change.
        await engine.lose(ids[0])
        before = await leases(engine)
        async with engine.queue.lease_renewer(lambda channel, payload: None) as line:
            async with locked(database_url, ids[0]), locked(database_url, ids[1]):
                renewed = await without_waiting(database, line.heartbeat(held, SECONDS))
                assert renewed == (set(ids[1:]), {ids[0]})
                after = await leases(engine)
                assert [before[each] < after[each] for each in ids] == [False, True, True]
            assert await line.heartbeat(held, SECONDS) == (set(ids), set())


async def test_a_run_that_is_locked_keeps_no_other_from_being_handed_back(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        ids = [await engine.trigger() for _ in range(2)]
        held = [await engine.claim() for _ in ids]
        async with locked(database_url, ids[0]):
            assert await without_waiting(database, engine.queue.hand_back(held)) == {ids[0]}
            assert [run.id for run in await engine.queue.claim_expired(2)] == [ids[1]]
        assert await engine.queue.hand_back(held) == set()
        assert [run.id for run in await engine.queue.claim_expired(2)] == [ids[0]]


async def test_a_run_is_renewed_while_a_large_state_of_its_own_is_stored(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        run = await engine.claim()
        before = await leases(engine)
        async with engine.tenant.transaction() as storing:
            # It has taken its lock, and has not committed.
            sql, arguments = RECORD_PROGRESS.statement([(engine.tenant_id, run_id, run.epoch, [])])
            assert await storing.fetch(sql, *arguments)
            assert await beat(engine.queue, [run]) == {run_id}
            await engine.lose(run_id)
            # However long it takes, nobody takes the run over.
            assert await engine.queue.claim_expired(1) == []
        assert (await leases(engine))[run_id] != before[run_id]
        assert len(await engine.queue.claim_expired(1)) == 1


async def test_a_worker_renews_a_run_that_was_locked_as_soon_as_it_no_longer_is(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: asyncio.Queue[tuple[set[UUID], set[UUID]]] = asyncio.Queue()
    real, loop = LeaseRenewer.heartbeat, asyncio.get_running_loop()

    async def tell(renewer: LeaseRenewer, held: Sequence[ClaimedRun], seconds: float) -> Any:
        done = await real(renewer, held, seconds)
        loop.call_soon_threadsafe(beats.put_nowait, done)
        return done

    monkeypatch.setattr(LeaseRenewer, "heartbeat", tell)
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        for _ in range(2):
            await engine.trigger()
        held = await engine.queue.claim_queued(2)
        lost: list[ClaimedRun] = []
        # An hour long, so that the next beat of all is not seen here.
        heartbeat = Heartbeat(
            engine.queue,
            3600,
            on_lost=lost.append,
            on_cancelled=lambda run_id, attempt: None,
            on_runs_to_claim=lambda word: None,
        )
        for run in held:
            heartbeat.hold(run, time.monotonic())
        first, second = (run.id for run in held)
        await engine.lose(first)
        async with asyncio.timeout(SECONDS), AsyncExitStack() as lock:
            await lock.enter_async_context(locked(database_url, first))
            async with heartbeat:
                assert await beats.get() == ({second}, {first})
                assert await beats.get() == ({second}, {first})
                await lock.aclose()
                while first not in (await beats.get())[0]:
                    pass
    assert lost == []


async def test_the_process_ends_when_its_event_loop_does_not_move_and_its_runs_are_handed_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether the database hears of it is not decided by time here.
    monkeypatch.setattr("runengine_server.worker.heartbeat.HAND_BACK_SECONDS", SECONDS)
    connected, ends, go = asyncio.Event(), threading.Event(), threading.Event()

    def end_process() -> None:
        ends.set()
        go.wait(SECONDS)

    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        await engine.trigger()
        run = await engine.claim()
        heartbeat = Heartbeat(
            engine.queue, 3600, on_lost=lambda run: None, on_cancelled=lambda run_id, attempt: None,
            on_runs_to_claim=lambda word: connected.set(), blocked_seconds=0.5, end_process=end_process,
        )  # fmt: skip
        heartbeat.hold(run, time.monotonic())
        async with heartbeat:
            await happened(connected)
            # In the thread of the event loop.
            assert ends.wait(SECONDS)
            (taken,) = await engine.queue.claim_expired(1)
            assert (taken.id, taken.losses) == (run.id, 0)
            go.set()


async def test_a_run_that_ends_while_a_heartbeat_is_under_way_is_not_lost(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[ClaimedRun] = []
    beats: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def end_meanwhile(
        renewer: LeaseRenewer, held: Sequence[ClaimedRun], seconds: float
    ) -> tuple[set[UUID], set[UUID]]:
        for run in held:
            heartbeat.release(run)
        loop.call_soon_threadsafe(beats.put_nowait, len(held))
        return set(), set()

    monkeypatch.setattr(LeaseRenewer, "heartbeat", end_meanwhile)
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        await engine.trigger()
        heartbeat = Heartbeat(
            engine.queue,
            0.3,
            on_lost=lost.append,
            on_cancelled=lambda run_id, attempt: None,
            on_runs_to_claim=lambda word: None,
        )
        heartbeat.hold(await engine.claim(), time.monotonic())
        async with heartbeat, asyncio.timeout(SECONDS):
            assert await beats.get() == 1
            assert await beats.get() == 0
    assert lost == []


async def test_a_node_that_blocks_the_event_loop_does_not_lose_its_run(database_url: str) -> None:
    stolen: list[ClaimedRun] = []
    attempts = 0

    async def steal_until_the_first_lease_is_over() -> None:
        nonlocal attempts
        database = Database(database_url, 1)
        await database.open()
        thief = QueueRepository(database, "worker:thief", [engine.workflow], engine.lease_seconds)
        tenant = database.tenant(engine.tenant_id)
        async with asyncio.timeout(SECONDS):
            first = await tenant.fetchrow(f"SELECT max({LEASE_ENDS}) AS ends FROM runs")
            over = "SELECT clock_timestamp() > $1::timestamptz + interval '0.3 s' AS is_over"
            assert first is not None
            while (row := await tenant.fetchrow(over, first["ends"])) and not row["is_over"]:
                stolen.extend(await thief.claim_expired(1))
                attempts += 1
        await database.close()

    async def blocking(state: State) -> State:
        thread = threading.Thread(target=lambda: asyncio.run(steal_until_the_first_lease_is_over()))
        thread.start()
        thread.join(SECONDS)
        return {"seen": ["blocking"]}

    async with serving(database_url, chain(blocking=blocking), lease_seconds=0.9) as engine:
        run_id = await engine.trigger()
        async with engine.working():
            assert await ended(engine, run_id) is RunStatus.COMPLETED
        assert attempts > 0
        assert stolen == []
        assert await engine.executions(run_id) == ["blocking 1 completed"]


async def test_a_worker_that_cannot_renew_stops_its_graph_before_the_lease_ends_and_counts_no_loss(
    database_url: str, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, looked = threading.Event(), asyncio.Event()
    real, hand_back = LeaseRenewer.heartbeat, QueueRepository.hand_back
    clock = Clock()

    async def heartbeat(renewer: LeaseRenewer, held: Sequence[ClaimedRun], seconds: float) -> Any:
        if away.is_set():
            raise Unavailable
        return await real(renewer, held, seconds)

    async def hand_back_after_the_look(queue: QueueRepository, held: Sequence[ClaimedRun]) -> set[UUID]:
        await looked.wait()
        return await hand_back(queue, held)

    monkeypatch.setattr(LeaseRenewer, "heartbeat", heartbeat)
    monkeypatch.setattr(QueueRepository, "hand_back", hand_back_after_the_look)
    monkeypatch.setattr("runengine_server.worker.heartbeat.time", clock)
    held = Held()
    async with serving(database_url, chain(held=held.node)) as engine:
        run_id = await engine.trigger()
        async with engine.working():
            execution = await held.next()
            away.set()
            clock.ahead = engine.lease_seconds * 5 / 6
            await happened(execution.ended)
            lease_left = await database.fetchval(
                f"SELECT {LEASE_ENDS} - $2 * interval '1 s' > clock_timestamp() FROM runs WHERE id = $1",
                run_id,
                clock.ahead,
            )
            assert lease_left
            clock.ahead = 0
            away.clear()
            looked.set()
            (await held.next()).go.set()
            assert await ended(engine, run_id) is RunStatus.COMPLETED
        assert await engine.losses(run_id) == 0


async def test_a_heartbeat_that_comes_after_the_hand_back_keeps_the_run_from_nobody(
    database_url: str,
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        await engine.trigger()
        run = await engine.claim()
        assert await engine.queue.hand_back([run]) == set()
        assert await beat(engine.queue, [run]) == set()
        # Nor does it count twice, where the answer to the first was lost.
        assert await engine.queue.hand_back([run]) == set()
        (successor,) = await engine.queue.claim_expired(1)
        assert (successor.hand_backs, successor.losses) == (1, 0)
        assert await beat(engine.queue, [successor]) == {run.id}
