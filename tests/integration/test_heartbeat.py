"""A worker keeps its runs while it can, lets go of them in time when it cannot, and drains when told to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine_server.database.database import Database
from runengine_server.database.functions import tenant_function
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import MAX_LOSSES, ClaimedRun, RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository, _done_columns
from runengine_server.repositories.queue_repository import Line, QueueRepository
from runengine_server.worker.heartbeat import Heartbeat
from runengine_server.worker.node_threads import NodeThreads

from tests.support.own_worker import (
    LEASE_SECONDS,
    SECONDS,
    Engine,
    Held,
    Ran,
    State,
    chain,
    ended,
    happened,
    locked,
    serving,
    until,
    without_waiting,
)


async def beat(engine: Engine, held: Sequence[ClaimedRun]) -> set[UUID]:
    async with engine.queue.line(lambda channel, payload: None) as line:
        kept, locked = await line.heartbeat(held, SECONDS)
        assert not locked
        return kept


async def leases(engine: Engine) -> dict[UUID, datetime]:
    rows = await engine.tenant.fetch("SELECT id, lease_expires_at FROM runs WHERE status = 'running'")
    return {row["id"]: row["lease_expires_at"] for row in rows}


async def test_a_heartbeat_keeps_what_is_held_and_says_what_is_not(database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        ids = [await engine.trigger() for _ in range(3)]
        kept, lost, cancelled = [await engine.claim() for _ in ids]
        successor = await engine.take_over(lost.id)
        await engine.cancel(cancelled.id)
        before = await leases(engine)
        assert await beat(engine, [kept, lost, cancelled]) == {kept.id}
        after = await leases(engine)
        assert before[kept.id] < after[kept.id]
        # The lease of its successor is neither kept nor shortened by the old holder.
        assert before[lost.id] == after[lost.id]
        assert await beat(engine, [successor]) == {lost.id}


async def test_a_run_that_is_locked_keeps_no_other_from_being_renewed(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        ids = [await engine.trigger() for _ in range(3)]
        held = [await engine.claim() for _ in ids]
        before = await leases(engine)
        async with engine.queue.line(lambda channel, payload: None) as line:
            async with locked(database_url, ids[0]):
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
            held = (run_id, run.epoch, *_done_columns([]))
            assert await storing.fetch(tenant_function("record_progress").call, engine.tenant_id, *held)
            assert await beat(engine, [run]) == {run_id}
            await engine.lose(run_id)
            # However long it takes, nobody takes the run over.
            assert await engine.queue.claim_expired(1) == []
        assert (await leases(engine))[run_id] != before[run_id]
        assert len(await engine.queue.claim_expired(1)) == 1


async def test_a_worker_renews_a_run_that_was_locked_as_soon_as_it_no_longer_is(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: asyncio.Queue[tuple[set[UUID], set[UUID]]] = asyncio.Queue()
    real, loop = Line.heartbeat, asyncio.get_running_loop()

    async def tell(line: Line, held: Sequence[ClaimedRun], seconds: float) -> Any:
        done = await real(line, held, seconds)
        loop.call_soon_threadsafe(beats.put_nowait, done)
        return done

    monkeypatch.setattr(Line, "heartbeat", tell)
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        for _ in range(2):
            await engine.trigger()
        held = await engine.queue.claim_queued(2)
        lost: list[ClaimedRun] = []
        # An hour long, so that the next beat of all is not seen here.
        heartbeat = Heartbeat(
            engine.queue, 3600, lose=lost.append, cancel=lambda run_id, attempt: None, wake=lambda word: None
        )
        for run in held:
            heartbeat.hold(run, time.monotonic())
        first, second = (run.id for run in held)
        async with asyncio.timeout(SECONDS), AsyncExitStack() as lock:
            await lock.enter_async_context(locked(database_url, first))
            async with heartbeat:
                assert await beats.get() == ({second}, {first})
                assert await beats.get() == (set(), {first})
                await lock.aclose()
                while first not in (await beats.get())[0]:
                    pass
    assert lost == []


async def test_the_process_ends_when_its_event_loop_does_not_move_and_its_runs_are_handed_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether the database hears of it is not decided by time here.
    monkeypatch.setattr("runengine_server.worker.heartbeat._LEAVE_SECONDS", SECONDS)
    connected, ends, go = asyncio.Event(), threading.Event(), threading.Event()

    def end_process() -> None:
        ends.set()
        go.wait(SECONDS)

    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        await engine.trigger()
        run = await engine.claim()
        heartbeat = Heartbeat(
            engine.queue, 3600, lose=lambda run: None, cancel=lambda run_id, attempt: None,
            wake=lambda word: connected.set(), blocked_seconds=0.5, end_process=end_process,
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
        line: Line, held: Sequence[ClaimedRun], seconds: float
    ) -> tuple[set[UUID], set[UUID]]:
        for run in held:
            heartbeat.release(run)
        loop.call_soon_threadsafe(beats.put_nowait, len(held))
        return set(), set()

    monkeypatch.setattr(Line, "heartbeat", end_meanwhile)
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        await engine.trigger()
        heartbeat = Heartbeat(
            engine.queue, 0.3, lose=lost.append, cancel=lambda run_id, attempt: None, wake=lambda word: None
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
            first = await tenant.fetchrow("SELECT max(lease_expires_at) AS ends FROM runs")
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


class Clock:
    """Stands for the module `time`."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


async def test_a_worker_that_cannot_renew_stops_its_graph_before_the_lease_ends_and_counts_no_loss(
    database_url: str, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, looked = threading.Event(), asyncio.Event()
    real, hand_back = Line.heartbeat, QueueRepository.hand_back
    clock = Clock()

    async def heartbeat(line: Line, held: Sequence[ClaimedRun], seconds: float) -> Any:
        if away.is_set():
            raise Unavailable
        return await real(line, held, seconds)

    async def hand_back_after_the_look(queue: QueueRepository, held: Sequence[ClaimedRun]) -> set[UUID]:
        await looked.wait()
        return await hand_back(queue, held)

    monkeypatch.setattr(Line, "heartbeat", heartbeat)
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
                "SELECT lease_expires_at - make_interval(secs => $2) > clock_timestamp() FROM runs "
                "WHERE id = $1",
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


async def test_a_worker_that_is_told_to_stop_ends_its_nodes_and_hands_the_rest_over(
    database_url: str,
) -> None:
    held, ran = Held(), Ran()
    async with serving(database_url, chain(held=held.node, last=ran.node("last"))) as engine:
        run_id = await engine.trigger()
        async with engine.working(drain_seconds=SECONDS) as worker:
            execution = await held.next()
            worker.stop()
            execution.go.set()
        # The node it was in has ended, and the next one has not begun.
        assert await engine.executions(run_id) == ["held 1 completed"]
        assert ran.names == []
        (successor,) = await engine.queue.claim_expired(1)
        assert (successor.losses, successor.attempt) == (0, 1)
        assert (await engine.process(successor)).status is RunStatus.COMPLETED
        assert await engine.executions(run_id) == ["held 1 completed", "last 1 completed"]


async def test_a_drained_run_goes_on_at_once_with_a_worker_that_waits(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not because the other one looks again: that it does an hour later.
    monkeypatch.setattr("runengine_server.worker.worker._POLL_SECONDS", 3600.0)
    held = Held()
    async with (
        serving(database_url, chain(one=held.node, two=held.node), lease_seconds=4 * 3600) as engine,
        engine.working(drain_seconds=SECONDS) as leaving,
    ):
        run_id = await engine.trigger()
        execution = await held.next()
        async with engine.working():
            leaving.stop()
            execution.go.set()
            (await held.next()).go.set()
            assert await ended(engine, run_id) is RunStatus.COMPLETED


async def test_a_node_that_does_not_end_while_its_worker_drains_is_stopped_and_executed_elsewhere(
    database_url: str,
) -> None:
    held = Held()
    async with serving(database_url, chain(held=held.node)) as engine:
        run_id = await engine.trigger()
        async with engine.working(drain_seconds=0.05):
            await held.next()
        (successor,) = await engine.queue.claim_expired(1)
        assert successor.losses == 0
        again = asyncio.create_task(engine.process(successor))
        (await held.next()).go.set()
        assert (await again).status is RunStatus.COMPLETED
        assert await engine.executions(run_id) == ["held 1 failed WORKER_LOST", "held 2 completed"]


@pytest.fixture
async def suspects(database_url: str) -> AsyncIterator[tuple[Engine, Held, list[UUID]]]:
    """Three runs that two workers and more were lost with, those lost most often first."""
    held = Held()
    async with serving(database_url, chain(held=held.node)) as engine:
        ids = [await engine.trigger() for _ in range(3)]
        await engine.queue.claim_queued(3)
        for losses, run_id in zip((3, 2, 1), ids, strict=True):
            await engine.tenant.fetch("UPDATE runs SET losses = $2 WHERE id = $1", run_id, losses)
            await engine.lose(run_id)
        yield engine, held, ids


async def test_a_run_that_may_kill_its_worker_is_taken_alone_and_the_most_suspect_last(
    suspects: tuple[Engine, Held, list[UUID]],
) -> None:
    engine, _, ids = suspects
    assert await engine.queue.claim_expired(3, suspects=0) == []
    taken = [await engine.queue.claim_expired(3) for _ in ids]
    assert [[run.id for run in runs] for runs in taken] == [[ids[2]], [ids[1]], [ids[0]]]


async def test_a_worker_executes_one_suspect_at_a_time_beside_others(
    suspects: tuple[Engine, Held, list[UUID]],
) -> None:
    engine, held, ids = suspects
    fresh = await engine.trigger()
    async with engine.working():
        first, second = await held.next(), await held.next()
        assert {first.run_id, second.run_id} == {ids[2], fresh}
        one_more = await engine.trigger()
        third = await held.next()
        assert third.run_id == one_more
        assert held.waiting() == 0
        for execution in (first, second, third):
            execution.go.set()
        for expected in (ids[1], ids[0]):
            execution = await held.next()
            assert execution.run_id == expected
            execution.go.set()
        for run_id in ids:
            assert await ended(engine, run_id) is RunStatus.COMPLETED


async def test_a_run_that_loses_its_worker_too_often_fails_and_a_retry_starts_its_losses_anew(
    database_url: str,
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        await engine.claim()
        for _ in range(MAX_LOSSES):
            claimed = await engine.take_over(run_id)
        run = await engine.process(claimed)
        assert run.error is not None
        assert (run.status, run.error.code) == ("failed", "WORKER_LOST")
        await engine.retry(run_id)
        assert (await engine.process(await engine.claim())).status is RunStatus.COMPLETED


async def test_many_claimers_of_one_run_find_one_winner(database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        for _ in range(10):
            await engine.trigger()
            claims = await asyncio.gather(*(engine.queue.claim_queued(1) for _ in range(10)))
            assert sum(map(len, claims)) == 1


async def test_all_that_is_queued_is_claimed_although_claimers_pass_one_another_over(
    database_url: str,
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        ids = {await engine.trigger() for _ in range(40)}
        claimed: list[UUID] = []

        async def claimer() -> int:
            runs = await engine.queue.claim_queued(3)
            claimed.extend(run.id for run in runs)
            return len(runs)

        async def all_claimers() -> int:
            return sum(await asyncio.gather(*(claimer() for _ in range(8))))

        await until(all_claimers, lambda count: count == 0)
        assert len(claimed) == len(ids)
        assert set(claimed) == ids


async def test_a_node_is_not_entered_once_the_lease_has_ended_while_its_begin_was_under_way(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the process had been stopped for so long after it had asked."""
    clock, begun, entered = Clock(), list[int](), list[int]()
    begin = HeldRunRepository.begin_step

    async def begin_late(held: HeldRunRepository, *arguments: Any) -> int:
        attempt = await begin(held, *arguments)
        begun.append(held.run.epoch)
        clock.ahead = LEASE_SECONDS if len(begun) == 1 else 0
        return attempt

    async def node(state: State, runtime: Runtime[RunContext]) -> State:
        entered.append(begun[-1])
        return {}

    monkeypatch.setattr(HeldRunRepository, "begin_step", begin_late)
    monkeypatch.setattr("runengine_server.worker.heartbeat.time", clock)
    async with serving(database_url, chain(node=node)) as engine:
        run_id = await engine.trigger()
        async with engine.working():
            assert await ended(engine, run_id) is RunStatus.COMPLETED
        assert (begun, entered) == ([1, 2], [2])
        # It was handed back, for it was not lost.
        assert await engine.losses(run_id) == 0


async def test_a_sync_node_that_waited_for_its_thread_until_the_lease_had_ended_is_not_entered(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, begun, entered, loop = Clock(), list[int](), list[int](), asyncio.get_running_loop()
    there, go, asked = threading.Event(), threading.Event(), threading.Event()
    holds = Heartbeat.holds

    def ask(heartbeat: Heartbeat, run: ClaimedRun) -> bool:
        answer = holds(heartbeat, run)
        if threading.current_thread().name == "node":
            asked.set()
        return answer

    async def never(heartbeat: Heartbeat) -> None:
        await asyncio.Event().wait()

    def occupy() -> None:
        there.set()
        go.wait(SECONDS)

    def node(state: State) -> State:
        entered.append(begun[-1])
        return {}

    begin = HeldRunRepository.begin_step

    async def begin_and_tell(held: HeldRunRepository, *arguments: Any) -> int:
        attempt = await begin(held, *arguments)
        begun.append(held.run.epoch)
        return attempt

    monkeypatch.setattr(HeldRunRepository, "begin_step", begin_and_tell)
    monkeypatch.setattr(Heartbeat, "holds", ask)
    # It would see it too, sooner or later.
    monkeypatch.setattr(Heartbeat, "_watch_the_clock", never)
    monkeypatch.setattr("runengine_server.worker.heartbeat.time", clock)
    before = loop._default_executor  # type: ignore[attr-defined]
    threads = NodeThreads(1, lambda: None)
    loop.set_default_executor(threads)
    try:
        async with serving(database_url, chain(node=node)) as engine:
            occupying = asyncio.ensure_future(asyncio.to_thread(occupy))
            await until(lambda: asyncio.sleep(0, there.is_set()), bool)
            run_id = await engine.trigger()
            async with engine.working():
                await until(lambda: asyncio.sleep(0, len(threads._calls)), lambda waiting: waiting == 1)
                clock.ahead = LEASE_SECONDS
                go.set()
                await until(lambda: asyncio.sleep(0, asked.is_set()), bool)
                clock.ahead = 0
                assert await ended(engine, run_id) is RunStatus.COMPLETED
            # It was handed back, and entered by who claimed it then.
            assert len(entered) == 1
            assert entered[0] > begun[0] == 1
            await occupying
    finally:
        go.set()
        loop._default_executor = before  # type: ignore[attr-defined]


async def test_a_heartbeat_that_comes_after_the_hand_back_keeps_the_run_from_nobody(
    database_url: str,
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        await engine.trigger()
        run = await engine.claim()
        assert await engine.queue.hand_back([run]) == set()
        assert await beat(engine, [run]) == set()
        # Nor does it count twice, where the answer to the first was lost.
        assert await engine.queue.hand_back([run]) == set()
        (successor,) = await engine.queue.claim_expired(1)
        assert (successor.hand_backs, successor.losses) == (1, 0)
        assert await beat(engine, [successor]) == {run.id}
