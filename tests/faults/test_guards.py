"""What a worker still tries to write for a run that it has lost changes nothing, in any table."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import runengine_server.database.connecting
from google.protobuf.struct_pb2 import Struct
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.database.functions import tenant_function
from runengine_server.domain.encoded_run import encode_input
from runengine_server.domain.errors import Fenced, Unavailable
from runengine_server.domain.run import (
    Artifact,
    CampaignStatus,
    ClaimedRun,
    Failure,
    NewRun,
    RunStatus,
    WaitingFor,
)
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.queue_repository import LeaseRenewer, QueueRepository
from runengine_server.repositories.write_behind import StoredCheckpoint
from runengine_server.worker.campaign_service import CampaignService

from tests.support.leases import LEASE_ENDS
from tests.support.own_worker import (
    LEASE_SECONDS,
    SECONDS,
    Engine,
    Execution,
    Held,
    Ran,
    chain,
    ended,
    locked,
    serving,
    until,
    without_waiting,
)

TABLES = (
    "runs",
    "run_steps",
    "run_events",
    "checkpoints",
    "checkpoint_writes",
    "run_values",
    "artifacts",
    "step_cache",
    "store_items",
    "threads",
    "campaigns",
    "campaign_run_counts",
)
TASK, FAILURE = uuid4(), Failure("STEP_FAILED", "RuntimeError: late", "held", 1, True)
CHECKPOINT = StoredCheckpoint("", "f" * 36, None, "msgpack", b"late", b"late", kept_values=b"")

Write = Callable[[HeldRunRepository], Awaitable[object]]


async def complete(held: HeldRunRepository) -> None:
    async with held.end() as ending:
        await ending.complete()
        assert held.run.campaign_id is not None
        await CampaignService(ending).update_status_from_run(
            held.run.campaign_id, status=CampaignStatus.LIVE, bundle_url="late", latest_run_id=held.run.id
        )


async def fail(held: HeldRunRepository) -> None:
    async with held.end() as ending:
        await ending.fail(FAILURE)


WRITES: dict[str, Write] = {
    "begins a step": lambda held: held.begin_step(TASK, "late", "late", False),
    "fails a step": lambda held: held.fail_step(TASK, 1, "STEP_FAILED", "late", True, again=True),
    "interrupts the step of its successor": lambda held: held.interrupt_steps([TASK]),
    "fails the step of its successor": lambda held: held.fail_step(
        TASK, 2, "STEP_FAILED", "late", True, again=False
    ),
    "stores what a node wrote": lambda held: held.save_writes(
        "", "f" * 36, str(TASK), "", [(0, "seen", "msgpack", b"late")], TASK
    ),
    "stores a checkpoint": lambda held: held.save_checkpoint(CHECKPOINT, {b"late": b"late"}),
    "saves an artifact": lambda held: held.save_artifact(
        Artifact(uuid4(), "late.txt", "text/plain", 4, "late"), TASK, 2
    ),
    "fills the cache": lambda held: held.save_cached("late", b"late", "msgpack", b"late", None),
    "begins in a thread": lambda held: held.begin_in_thread(),
    "puts an item into the store": lambda held: held.write_items({(".late.", "late"): "{}"}),
    "waits for somebody": lambda held: held.wait([WaitingFor("late", "late")], None, Struct()),
    "completes the run": complete,
    "fails the run": fail,
}


async def takes_over(engine: Engine, run_id: UUID) -> ClaimedRun | None:
    return await engine.take_over(run_id)


async def is_cancelled(engine: Engine, run_id: UUID) -> None:
    await engine.cancel(run_id)


async def is_retried(engine: Engine, run_id: UUID) -> ClaimedRun | None:
    await engine.cancel(run_id)
    await engine.retry(run_id)
    return await engine.claim()


async def rows(database: asyncpg.Connection, tenant: str) -> dict[str, list[Any]]:
    """All that the tenant has."""
    return {
        table: await database.fetch(
            f"SELECT * FROM {table} AS t WHERE tenant_id = $1 ORDER BY t::text", tenant
        )
        for table in TABLES
    }


async def waits(engine: Engine, run_id: UUID) -> None:
    """By the hand of the one that comes back later."""
    row = await engine.tenant.fetchrow("SELECT epoch FROM runs WHERE id = $1", run_id)
    assert row is not None
    await engine.tenant.call(
        tenant_function("wait_run"), run_id, row["epoch"], "worker:zombie", ["gate"], ["held"], ["null"],
        [None], None, None,
    )  # fmt: skip


async def waits_and_is_resumed(engine: Engine, run_id: UUID) -> ClaimedRun | None:
    await waits(engine, run_id)
    await engine.resume(run_id, {"gate": True})
    return await engine.claim_expired()


@pytest.mark.parametrize("happens", [takes_over, is_cancelled, is_retried, waits, waits_and_is_resumed])
async def test_a_worker_that_has_lost_its_run_changes_nothing(
    database_url: str,
    database: asyncpg.Connection,
    happens: Callable[[Engine, UUID], Awaitable[ClaimedRun | None]],
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        campaign_id = (await engine.campaigns.insert(uuid4())).id
        run_id = await engine.trigger(campaign_id=campaign_id)
        claimed = await engine.claim()
        zombie = HeldRunRepository(engine.database, claimed, "worker:zombie")
        await zombie.begin_step(TASK, "held", "held", False)
        await zombie.save_checkpoint(CHECKPOINT)
        successor = await happens(engine, run_id)
        if successor is not None:
            await HeldRunRepository(engine.database, successor, "worker:next").begin_step(
                TASK, "held", "held", False
            )
        before = await rows(database, engine.tenant_id)
        for write in WRITES.values():
            # With nothing deferred from the write before, which would be fenced off first.
            with pytest.raises(Fenced):
                await write(HeldRunRepository(engine.database, claimed, "worker:zombie"))
            assert await rows(database, engine.tenant_id) == before
        async with engine.queue.lease_renewer(lambda channel, payload: None) as line:
            assert await line.heartbeat([claimed], SECONDS) == (set(), set())
        await engine.queue.hand_back([claimed])
        assert await rows(database, engine.tenant_id) == before


async def test_the_run_its_campaign_and_its_counts_move_together_or_not_at_all(
    database_url: str, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CampaignService.update_status_from_run

    async def update_then_lose_the_database(service: CampaignService, *arguments: Any, **named: Any) -> None:
        await real(service, *arguments, **named)
        raise Unavailable

    monkeypatch.setattr(CampaignService, "update_status_from_run", update_then_lose_the_database)
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        campaign_id = (await engine.campaigns.insert(uuid4())).id
        run_id = await engine.trigger(campaign_id=campaign_id)
        claimed = await engine.claim()
        with pytest.raises(Unavailable):
            await engine.processor.process(claimed)
        assert (await engine.get(run_id)).status is RunStatus.RUNNING
        assert (await engine.campaign(campaign_id)).status is CampaignStatus.DRAFT
        assert await database.fetchval(
            "SELECT sum(running) FROM campaign_run_counts WHERE campaign_id = $1", campaign_id
        ) == 1  # fmt: skip
        monkeypatch.undo()
        assert (await engine.process(claimed)).status is RunStatus.COMPLETED
        assert (await engine.campaign(campaign_id)).status is CampaignStatus.LIVE


async def test_a_claimer_does_not_wait_for_a_run_that_another_has_locked(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        first, second = await engine.trigger(), await engine.trigger()
        async with locked(database_url, first):
            claimed = await without_waiting(database, engine.queue.claim_queued(2))
            assert [run.id for run in claimed] == [second]
        assert [run.id for run in await engine.queue.claim_queued(2)] == [first]
        await engine.lose(first)
        await engine.lose(second)
        async with locked(database_url, first):
            claimed = await without_waiting(database, engine.queue.claim_expired(2))
            assert [run.id for run in claimed] == [second]


async def test_a_process_that_stops_while_it_holds_the_lock_of_a_run_does_not_hold_it_for_ever(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        runengine_server.database.connecting.CALL_SETTINGS, "idle_in_transaction_session_timeout", "0.2s"
    )
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        await engine.claim()
        with pytest.raises(Unavailable):  # noqa: PT012
            async with engine.tenant.transaction() as transaction:
                await transaction.fetch("SELECT 1 FROM runs WHERE id = $1 FOR UPDATE", run_id)
                # Whoever only looks passes it over; the lock is gone once PostgreSQL has ended the session.
                await until(lambda: lost(engine, run_id), bool)
                taken = await until(lambda: engine.queue.claim_expired(1), bool)
        assert [run.id for run in taken] == [run_id]


async def test_every_session_has_that_limit(database_url: str) -> None:
    graph = chain(one=Ran().node("one"))
    async with serving(database_url, graph) as engine, engine.database.connection() as connection:
        assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "5s"


async def lost(engine: Engine, run_id: UUID) -> bool:
    """Ends the lease, once the row can be had."""
    row = await engine.tenant.fetchrow(
        """UPDATE runs SET lease_expires_at = '2000-01-01' FROM (
            SELECT id FROM runs WHERE id = $1 FOR UPDATE SKIP LOCKED) AS free
        WHERE runs.id = free.id RETURNING 1""",
        run_id,
    )
    return row is not None


@pytest.mark.parametrize("ahead", [-86_400, 86_400])
async def test_leases_follow_the_clock_of_the_database_alone(
    database_url: str, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    real = time.time
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        await engine.trigger()
        monkeypatch.setattr(time, "time", lambda: real() + ahead)
        claimed = await engine.claim()
        other = QueueRepository(engine.database, "worker:other", [engine.workflow], LEASE_SECONDS)
        assert await other.claim_expired(1) == []
        async with engine.queue.lease_renewer(lambda channel, payload: None) as line:
            await line.heartbeat([claimed], SECONDS)
        assert await other.claim_expired(1) == []
        row = await engine.tenant.fetchrow(
            f"SELECT {LEASE_ENDS} < clock_timestamp() + interval '1 hour' AS soon FROM runs"
        )
        assert row is not None
        assert row["soon"]


async def test_a_change_that_is_not_notified_is_found_all_the_same(
    database_url: str, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, heartbeat = QueueRepository.claim_queued, LeaseRenewer.heartbeat
    listens, waits = threading.Event(), asyncio.Event()

    async def noted_claim(queue: QueueRepository, limit: int) -> list[ClaimedRun]:
        idle = listens.is_set() and not any(
            task.get_name().startswith("run ") for task in asyncio.all_tasks()
        )
        found = await claim(queue, limit)
        if idle and not found:
            waits.set()
        return found

    async def noted_heartbeat(line: LeaseRenewer, held: Sequence[ClaimedRun], seconds: float) -> Any:
        listens.set()
        return await heartbeat(line, held, seconds)

    monkeypatch.setattr(QueueRepository, "claim_queued", noted_claim)
    monkeypatch.setattr(LeaseRenewer, "heartbeat", noted_heartbeat)

    async with serving(database_url, chain(one=Ran().node("one"))) as engine:

        async def insert() -> UUID:
            """The same row as a trigger makes, and no notification."""
            run_id = uuid4()
            await database.execute(
                "INSERT INTO runs (tenant_id, id, workflow_name, encoded_input) VALUES ($1, $2, $3, $4)",
                engine.tenant_id,
                run_id,
                engine.workflow,
                encode_input(NewRun(run_id, TriggerRunRequest(workflow_name=engine.workflow))),
            )
            return run_id

        first = await insert()
        async with engine.working():
            # What wakes the worker, that it listens and that a run has ended, is over before the next one.
            await asyncio.to_thread(listens.wait, SECONDS)
            assert await ended(engine, first) is RunStatus.COMPLETED
            await asyncio.wait_for(waits.wait(), SECONDS)
            second = await insert()
            with contextlib.suppress(TimeoutError):
                await ended(engine, second)
            assert (await engine.get(second)).status is RunStatus.COMPLETED


async def test_a_cancel_that_is_not_notified_reaches_the_graph_with_the_heartbeat(database_url: str) -> None:
    held = Held()
    async with serving(database_url, chain(held=held.node), lease_seconds=1.5) as engine:
        run_id = await engine.trigger()
        async with engine.working():
            execution: Execution = await held.next()
            await engine.tenant.fetch(
                "UPDATE runs SET status = 'cancelled', lease_expires_at = NULL WHERE id = $1", run_id
            )
            await asyncio.wait_for(execution.ended.wait(), SECONDS)
        await until(engine.abandoned_graphs, lambda left: left == 0)
