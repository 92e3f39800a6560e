"""Batches of operations on many runs: each run is decided once, whatever happens to the servers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import pytest
from runengine.v1 import bulk_operation_service_pb2 as pb
from runengine.v1.run_pb2 import RunError
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.background.bulk_runner import BulkRunner
from runengine_server.commands.bulk_operations import create_bulk_operation, new_operation
from runengine_server.database.channels import CANCELLED, QUEUED
from runengine_server.database.database import Database
from runengine_server.domain.bulk_operation import (
    BulkAction,
    BulkOperation,
    BulkOperationStatus,
    BulkOutcome,
)
from runengine_server.domain.encoded_run import encode_input
from runengine_server.domain.run import NewRun
from runengine_server.repositories.bulk_operation_repository import (
    BulkOperationRepository,
    running_operations,
)
from runengine_server.repositories.queue_repository import QueueRepository
from structlog.testing import capture_logs

from tests.support.background import in_background
from tests.support.own_worker import ACTOR, locked, until
from tests.support.patience import SECONDS
from tests.support.stack import Stack

TENANT, WORKFLOW = "org_bulk", "workflow"
CAMPAIGNS = [UUID(int=1), UUID(int=2)]

INPUT = encode_input(NewRun(UUID(int=0), TriggerRunRequest(workflow_name=WORKFLOW)))
ERROR = RunError(code="STEP_FAILED").SerializeToString()

STORE = f"""
WITH stored AS (
    INSERT INTO runs (tenant_id, id, workflow_name, encoded_input, status, campaign_id, completed_at,
        error, lease_expires_at, started_at, queued_at, thread_id, thread_place)
    SELECT $1, gen_random_uuid(), '{WORKFLOW}', '\\x{INPUT.hex()}', $2, ($4::uuid[])[1 + n % 2],
        CASE WHEN $2 NOT IN ('queued', 'running') THEN now() END,
        CASE WHEN $2 = 'failed' THEN '\\x{ERROR.hex()}'::bytea END,
        CASE WHEN $2 = 'running' THEN now() + interval '1 day' END, now(), now(), $5, n
    FROM generate_series(1, $3) AS n RETURNING *
), counted AS (
    INSERT INTO campaign_run_counts AS counts
        (tenant_id, campaign_id, slot, queued, running, failed, cancelled)
    SELECT tenant_id, campaign_id, get_byte(uuid_send(id), 15) % 16 AS slot,
        count(*) FILTER (WHERE status = 'queued'), count(*) FILTER (WHERE status = 'running'),
        count(*) FILTER (WHERE status = 'failed'), count(*) FILTER (WHERE status = 'cancelled')
    FROM stored GROUP BY tenant_id, campaign_id, slot
    ON CONFLICT (tenant_id, campaign_id, slot) DO UPDATE SET queued = counts.queued + excluded.queued,
        running = counts.running + excluded.running, failed = counts.failed + excluded.failed,
        cancelled = counts.cancelled + excluded.cancelled
) SELECT id FROM stored"""

WRONG_COUNTS = """
SELECT * FROM (
    SELECT campaign_id, status, count(*) FROM runs GROUP BY campaign_id, status
) AS found FULL JOIN (
    SELECT campaign_id, status, sum(number) AS count FROM campaign_run_counts CROSS JOIN LATERAL (VALUES
        ('queued', queued), ('running', running), ('completed', completed), ('failed', failed),
        ('cancelled', cancelled)) AS each(status, number)
    GROUP BY campaign_id, status HAVING sum(number) <> 0
) AS told USING (campaign_id, status, count) WHERE found IS NULL OR told IS NULL"""

EVENTS = "SELECT run_id FROM run_events WHERE operation_id = $1"


class Place:
    """A database that no server has: what happens in it is what the test does."""

    def __init__(self, url: str, database: Database, superuser: asyncpg.Connection) -> None:
        self.url, self.database, self.superuser = url, database, superuser

    async def store(
        self, number: int, status: str = "queued", tenant: str = TENANT, thread: str | None = None
    ) -> list[UUID]:
        rows = await self.superuser.fetch(STORE, tenant, status, number, CAMPAIGNS, thread)
        return [row["id"] for row in rows]

    def operations(self, tenant: str = TENANT) -> BulkOperationRepository:
        return BulkOperationRepository(self.database.tenant(tenant), tenant)

    async def create(
        self, action: BulkAction, runs: Sequence[UUID], tenant: str = TENANT, pace: int = 1000
    ) -> UUID:
        operations = self.operations(tenant)
        new = new_operation(action, None, None, pace)
        await create_bulk_operation(operations, new, operations.items_of(new.id, runs), ACTOR, None)
        return new.id

    async def get(self, operation_id: UUID, tenant: str = TENANT) -> BulkOperation:
        operation = await self.operations(tenant).get(operation_id)
        assert operation is not None
        return operation

    async def until_ended(self, *operations: UUID) -> None:
        for operation_id in operations:
            await until(partial(self.get, operation_id), lambda operation: operation.ended_at is not None)

    async def end(self, *operations: UUID, queued_limit: int | None = None) -> None:
        """Has one server go on with them until they have ended."""
        async with self.serving(BulkRunner(self.database, queued_limit)):
            await self.until_ended(*operations)

    @asynccontextmanager
    async def serving(self, *runners: BulkRunner) -> AsyncIterator[None]:
        async with in_background(*(runner.run() for runner in runners)):
            yield

    async def moved(self, operation: UUID) -> list[UUID]:
        """The runs of which the operation has made a transition, as often as it has."""
        return [row["run_id"] for row in await self.superuser.fetch(EVENTS, operation)]

    async def statuses(self) -> Counter[str]:
        return Counter(row["status"] for row in await self.superuser.fetch("SELECT status FROM runs"))


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    host = os.environ["RUNENGINE_TEST_POSTGRES"]
    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(f"postgresql://postgres@/postgres?host={host}")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE runengine")
    superuser = await asyncpg.connect(f"postgresql://postgres@/{name}?host={host}")
    await superuser.execute(f"INSERT INTO workflows (name) VALUES ('{WORKFLOW}')")
    url = f"postgresql://runengine_app@/{name}?host={quote(host, safe='%')}"
    database = Database(url, 10)
    await database.open()
    yield Place(url, database, superuser)
    await database.close()
    await superuser.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def test_servers_beside_claims_and_each_other_decide_each_run_once(place: Place) -> None:
    failed, queued = await place.store(300, "failed"), await place.store(300)
    retrying = await place.create(BulkAction.RETRY, failed)
    cancelling = await place.create(BulkAction.CANCEL, queued)
    queue = QueueRepository(place.database, "worker:test", [WORKFLOW], 30.0)

    async def claim() -> None:
        while True:
            await queue.claim_queued(20)

    claims = [asyncio.create_task(claim()) for _ in range(2)]
    async with place.serving(*(BulkRunner(place.database, None) for _ in range(3))):
        await place.until_ended(retrying, cancelling)
    for task in claims:
        task.cancel()
    for ended in await asyncio.gather(*claims, return_exceptions=True):
        assert isinstance(ended, asyncio.CancelledError)
    for operation, runs in ((retrying, failed), (cancelling, queued)):
        assert (await place.get(operation)).done == 300
        assert sorted(await place.moved(operation)) == sorted(runs)
    assert await place.superuser.fetch(WRONG_COUNTS) == []
    assert (await place.statuses())["cancelled"] == 300


async def test_a_server_that_stops_between_batches_leaves_the_rest_to_the_next(place: Place) -> None:
    runs = await place.store(120)
    operation = await place.create(BulkAction.CANCEL, runs)
    await BulkRunner(place.database, None).run_due()
    half = await place.get(operation)
    assert (half.done, half.status) == (100, BulkOperationStatus.RUNNING)
    assert len(await place.moved(operation)) == 100
    await place.end(operation)
    assert (await place.get(operation)).done == 120
    assert sorted(await place.moved(operation)) == sorted(runs)
    assert await place.superuser.fetch(WRONG_COUNTS) == []


async def test_a_server_that_stops_within_a_batch_has_decided_all_of_it_or_nothing(place: Place) -> None:
    runs = await place.store(50)
    operation = await place.create(BulkAction.CANCEL, runs)
    async with locked(place.url, runs[7]):
        server = asyncio.create_task(BulkRunner(place.database, None).run_due())
        waits = """SELECT count(*) > 0 FROM pg_stat_activity
            WHERE wait_event_type = 'Lock' AND datname = current_database()"""
        await until(partial(place.superuser.fetchval, waits), bool)
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
        assert (await place.get(operation)).done == 0
    await place.end(operation)
    assert (await place.get(operation)).done == 50
    assert sorted(await place.moved(operation)) == sorted(runs)
    assert await place.superuser.fetch(WRONG_COUNTS) == []


async def test_a_run_that_is_locked_holds_up_no_other_operation(place: Place) -> None:
    runs, others = await place.store(5), await place.store(5, tenant="org_other")
    held_up = await place.create(BulkAction.CANCEL, runs)
    other = await place.create(BulkAction.CANCEL, others, "org_other")
    async with locked(place.url, runs[0]):
        await BulkRunner(place.database, None).run_due()
        assert (await place.get(held_up)).done == 0
        assert (await place.get(other, "org_other")).status is BulkOperationStatus.COMPLETED
    await place.end(held_up)
    assert sorted(await place.moved(held_up)) == sorted(runs)


@pytest.mark.parametrize("action", BulkAction)
async def test_a_run_that_cannot_be_moved_is_left_out_and_holds_up_no_other(
    place: Place, action: BulkAction
) -> None:
    runs = await place.store(5, "failed" if action is BulkAction.RETRY else "queued")
    await place.superuser.execute(f"ALTER TABLE run_events ADD CHECK (run_id <> '{runs[2]}')")
    operation = await place.create(action, runs)
    with capture_logs() as logs:
        await place.end(operation)
    ended = await place.get(operation)
    assert (ended.done, ended.refused) == (4, {"INTERNAL": 1})
    (item,) = await place.operations().list_items(operation, [BulkOutcome.REFUSED], 0, 9)
    assert (item.place, item.run_id, item.reason) == (3, runs[2], "INTERNAL")
    assert sorted(await place.moved(operation)) == sorted({*runs} - {runs[2]})
    assert await place.superuser.fetch(WRONG_COUNTS) == []
    (left_out,) = (log for log in logs if "run_id" in log)
    assert (left_out["run_id"], left_out["sqlstate"]) == (str(runs[2]), "23514")


async def test_a_retry_of_many_waits_for_the_quota(place: Place) -> None:
    runs = await place.store(7, "failed")
    operation = await place.create(BulkAction.RETRY, runs)
    runner = BulkRunner(place.database, 3)
    await runner.run_due()
    waiting = await place.get(operation)
    assert (waiting.done, waiting.is_over_quota, waiting.refused) == (3, True, {})
    assert 0 < (await running_operations(place.database))[0].due_in <= 1
    await runner.run_due()
    assert await place.statuses() == {"queued": 3, "failed": 4}
    await place.superuser.execute("UPDATE runs SET status = 'completed' WHERE status = 'queued'")
    await place.superuser.execute("UPDATE bulk_operations SET next_batch_at = now()")
    await runner.run_due()
    assert (await place.get(operation)).done == 6
    await place.superuser.execute("UPDATE runs SET status = 'completed' WHERE status = 'queued'")
    await place.superuser.execute("UPDATE bulk_operations SET next_batch_at = now()")
    await runner.run_due()
    ended = await place.get(operation)
    assert (ended.done, ended.status, ended.is_over_quota) == (7, BulkOperationStatus.COMPLETED, False)
    assert sorted(await place.moved(operation)) == sorted(runs)


async def test_a_cancellation_needs_no_quota(place: Place) -> None:
    runs = await place.store(5)
    operation = await place.create(BulkAction.CANCEL, runs)
    await BulkRunner(place.database, 1).run_due()
    assert (await place.get(operation)).done == 5


async def test_batches_keep_to_the_pace_whichever_server_runs_them(place: Place) -> None:
    operation = await place.create(BulkAction.CANCEL, await place.store(100), pace=20)
    servers = [BulkRunner(place.database, None) for _ in range(2)]
    pauses = [await server.run_due() for server in servers]
    assert (await place.get(operation)).done == 10
    assert 0 < pauses[1] <= 0.5


async def test_an_operation_goes_on_when_the_clock_goes_back(place: Place) -> None:
    operation = await place.create(BulkAction.CANCEL, await place.store(1))
    await place.superuser.execute("UPDATE bulk_operations SET next_batch_at = now() + interval '1 hour'")
    await BulkRunner(place.database, None).run_due()
    assert (await place.get(operation)).status is BulkOperationStatus.COMPLETED


async def test_an_operation_that_is_woken_goes_on_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runengine_server.background.bulk_runner.POLL_SECONDS", 1e6)
    runner = BulkRunner(place.database, None)
    async with place.serving(runner):
        first = await place.create(BulkAction.CANCEL, await place.store(1))
        runner.wake()
        await place.until_ended(first)
        second = await place.create(BulkAction.CANCEL, await place.store(1))
        runner.wake()
        await place.until_ended(second)


async def test_workers_hear_of_what_was_cancelled_and_queued(place: Place) -> None:
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    for channel in (CANCELLED, QUEUED):
        await place.superuser.add_listener(
            channel, lambda _, __, channel, payload: heard.put_nowait((channel, payload))
        )
    (running,), (failed,) = await place.store(1, "running"), await place.store(1, "failed")
    await place.store(1)
    cancelling = await place.create(BulkAction.CANCEL, [running])
    retrying = await place.create(BulkAction.RETRY, [failed])
    # The server tells of a batch when it has committed, and must not be stopped in between.
    async with place.serving(BulkRunner(place.database, None)), asyncio.timeout(SECONDS):
        assert {await heard.get(), await heard.get()} == {(CANCELLED, f"{running} 1"), (QUEUED, "")}
        await place.until_ended(cancelling, retrying)


async def test_runs_of_a_thread_are_queued_again_in_their_order(place: Place) -> None:
    runs = await place.store(6, "failed", thread="thread")
    await place.end(await place.create(BulkAction.RETRY, [*reversed(runs)]))
    due = "SELECT array_agg(id) FROM runs WHERE queued_at < 'infinity' AND status = 'queued'"
    assert await place.superuser.fetchval(due) == [runs[0]]
    await place.end(await place.create(BulkAction.CANCEL, runs[:3]))
    assert await place.superuser.fetchval(due) == [runs[3]]


async def test_an_operation_survives_a_server_that_is_killed(place: Place, tmp_path: Path) -> None:
    runs = await place.store(60)
    stack = Stack(place.url, tmp_path)
    (first,) = await stack.start("serve")
    async with stack.client(stack.token(TENANT)) as client:
        operation = await client.create_bulk_operation("cancel", ids=runs, pace=40)
        async for seen in client.follow_bulk_operation(operation.id, poll=(0.01, 0.01)):
            if seen.done:
                os.kill(first.pid, signal.SIGKILL)
                break
        half = await place.get(UUID(operation.id))
        assert half.status is BulkOperationStatus.RUNNING
        await stack.start("serve")
        ended = await client.wait_for_bulk_operation(operation.id, timeout_seconds=SECONDS)
    await stack.stop()
    assert (ended.status, ended.done) == (pb.BULK_OPERATION_STATUS_COMPLETED, 60)
    assert sorted(await place.moved(UUID(operation.id))) == sorted(runs)
    assert await place.superuser.fetch(WRONG_COUNTS) == []
