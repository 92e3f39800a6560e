"""A worker has one lease, which is that of all runs that it holds."""

from __future__ import annotations

import asyncio
from time import monotonic
from uuid import UUID, uuid4

import asyncpg
from runengine_server.database.functions import dispatch_function
from runengine_server.worker.heartbeat import Heartbeat

from tests.support.leases import LEASE_ENDS, beat, leases, other_worker
from tests.support.own_worker import Ran, chain, serving, until, without_waiting

WAITS = """SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'"""


async def set_lease(database: asyncpg.Connection, run_id: UUID, seconds: float) -> UUID:
    """Has the lease of the worker that holds the run end in so many seconds. Returns the worker's id."""
    worker_id: UUID = await database.fetchval(
        """UPDATE worker_leases SET expires_at = clock_timestamp() + make_interval(secs => $2) FROM runs
        WHERE runs.id = $1 AND worker_leases.worker_id = runs.worker_id RETURNING worker_leases.worker_id""",
        run_id,
        seconds,
    )
    return worker_id


async def end_lease(database: asyncpg.Connection, run_id: UUID) -> UUID:
    """Ends the lease of the worker that holds the run, and returns the worker's id."""
    return await set_lease(database, run_id, -1e6)


async def test_a_run_that_the_worker_does_not_name_gets_a_lease_of_its_own(
    database_url: str, database: asyncpg.Connection
) -> None:
    """As if the response to its claim had been lost."""
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        run = await engine.claim()
        other, before = other_worker(engine), await leases(engine)
        assert await beat(engine.queue, []) == set()
        # The response may be under way: the next heartbeat, which names the run, keeps it.
        assert before[run_id] < (await leases(engine))[run_id]
        assert await other.claim_expired(1) == []
        await engine.lose(run_id)
        assert await beat(engine.queue, [run]) == {run_id}
        assert await other.claim_expired(1) == []
        assert await beat(engine.queue, []) == set()
        own = "SELECT lease_expires_at < 'infinity' FROM runs WHERE id = $1"
        assert await database.fetchval(own, run_id)
        await engine.lose(run_id)
        assert [(run.id, run.losses) for run in await other.claim_expired(1)] == [(run_id, 1)]


async def test_the_runs_of_a_worker_whose_lease_has_ended_are_taken_over(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        ids = {await engine.trigger() for _ in range(3)}
        held = await engine.queue.claim_queued(3)
        worker_id, other = await end_lease(database, held[0].id), other_worker(engine)
        taken = await other.claim_expired(2)
        taken += await other.claim_expired(2)
        assert {(run.id, run.losses) for run in taken} == {(run_id, 1) for run_id in ids}
        assert await beat(engine.queue, held) == set()
        assert await beat(other, taken) == ids
        left = "SELECT count(*) FROM worker_leases WHERE worker_id = $1"
        assert await database.fetchval(left, worker_id) == 1  # of the heartbeat
        await database.execute(
            "UPDATE worker_leases SET expires_at = '2000-01-01' WHERE worker_id = $1", worker_id
        )
        assert await other.claim_expired(1) == []
        assert await database.fetchval(left, worker_id) == 0


async def test_a_heartbeat_comes_wholly_before_or_wholly_after_a_takeover(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        run = await engine.claim()
        other, worker_id = other_worker(engine), await end_lease(database, run_id)
        heartbeat = (worker_id, [run.tenant_id], [run.id], [run.epoch], engine.lease_seconds)
        async with engine.database.dispatch().transaction() as beating:
            # It has said that the run is still held, and has not committed.
            assert await beating.fetch(dispatch_function("heartbeat").call, *heartbeat)
            assert await without_waiting(database, other.claim_expired(1)) == []
        assert await other.claim_expired(1) == []
        await end_lease(database, run_id)
        claim = ([engine.workflow], 1, engine.lease_seconds, UUID(int=1), "worker:other", 5, 1, *[None] * 4)
        async with engine.database.dispatch().transaction() as taking:
            assert len(await taking.fetch(dispatch_function("claim_expired").call, *claim)) == 1
            beats = asyncio.create_task(beat(engine.queue, [run]))
            await until(lambda: database.fetchval(WAITS), bool)
        assert await beats == set()


async def test_a_claim_that_commits_late_leaves_no_run_without_an_end_of_its_lease(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        other, worker_id = other_worker(engine), uuid4()
        claim = ([engine.workflow], 1, engine.lease_seconds, worker_id, "worker:late", "", *[None] * 5)
        await engine.trigger()
        async with engine.database.dispatch().transaction() as first:
            assert len(await first.fetch(dispatch_function("claim_queued").call, *claim)) == 1
        run_id = await engine.trigger()
        async with engine.database.dispatch().transaction() as claiming:
            assert len(await claiming.fetch(dispatch_function("claim_queued").call, *claim)) == 1
            await database.execute(
                "UPDATE worker_leases SET expires_at = '2000-01-01' WHERE worker_id = $1", worker_id
            )
            await without_waiting(database, other.claim_expired(2))
        taken = await other.claim_expired(2)
        assert run_id in {run.id for run in taken}


async def test_a_claim_has_half_of_the_lease_left_at_least(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        first, second = [await engine.trigger() for _ in range(2)]
        await beat(engine.queue, [])
        await engine.claim()
        left = f"SELECT extract(epoch FROM {LEASE_ENDS} - clock_timestamp())::float FROM runs WHERE id = $1"
        for claim, run_id in ((engine.claim, first), (engine.claim_expired, second)):
            await set_lease(database, first, engine.lease_seconds * 0.4)
            await claim()
            assert await database.fetchval(left, run_id) > engine.lease_seconds / 2
            await engine.lose(second)


async def test_a_claim_says_how_long_it_holds_and_the_worker_counts_on_that(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one")), lease_seconds=30) as engine:
        for _ in range(2):
            await engine.trigger()
        first = await engine.claim()
        assert first.lease_left == 30
        await set_lease(database, first.id, 18)
        second = await engine.claim()
        assert 15 < second.lease_left <= 18
        worker = Heartbeat(
            engine.queue,
            30,
            on_lost=lambda run: None,
            on_cancelled=lambda run_id, attempt: None,
            on_runs_to_claim=lambda payload: None,
        )
        for run in (first, second):
            worker.hold(run, monotonic() - 14)
        assert worker.holds_lease(first)
        assert not worker.holds_lease(second)
