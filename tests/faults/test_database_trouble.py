"""PostgreSQL is refused, silent, crashed or full, or its answer to a COMMIT is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from runengine.v1 import run_service_pb2 as runs
from runengine.v1.run_pb2 import Run
from runengine_server.database.database import Database
from runengine_server.database.functions import dispatch_function, tenant_function
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import RunStatus

from tests.faults.every_call import Api, Outcome, reason_of
from tests.faults.proxy import Proxy
from tests.support.gates import Gates
from tests.support.own_worker import Ran, State, chain, serving, until
from tests.support.patience import SECONDS
from tests.support.stack import Stack, own_postgres

# Less than the nine after which the server itself gives up a call: what ends by then did not wait for that.
AT_ONCE_SECONDS = 8
UNAVAILABLE, LATE = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED
COUNT_MOVES = """
CREATE TABLE campaign_moves (campaign_id uuid NOT NULL);
CREATE FUNCTION count_move() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
    $$ BEGIN INSERT INTO campaign_moves VALUES (NEW.id); RETURN NEW; END $$;
CREATE TRIGGER count_move AFTER UPDATE OF status ON campaigns FOR EACH ROW EXECUTE FUNCTION count_move()
"""
FILL_DISK = """
CREATE FUNCTION fill_disk() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER fill_disk BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION fill_disk()
"""


@pytest.fixture(scope="module")
async def database_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A PostgreSQL of this module's own, for it crashes."""
    async with own_postgres(tmp_path_factory.mktemp("postgres")) as (_, url):
        admin = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
        # When it starts again after a crash it would bring each of its files to the disk first.
        await admin.execute("ALTER SYSTEM SET fsync = off")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.execute(COUNT_MOVES)
        # A workflow that no worker takes: its runs stay queued.
        await admin.execute("INSERT INTO workflows (name) VALUES ('unserved')")
        await admin.close()
        yield url


@pytest.fixture(scope="module")
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
async def stack(proxy: Proxy, state_dir: Path) -> AsyncIterator[Stack]:
    """serve, gateway and worker, which reach PostgreSQL through the proxy."""
    stack = Stack(proxy.url, state_dir)
    await stack.start("serve", "gateway", "worker", LEASE_SECONDS="1")
    yield stack
    proxy.heal()
    await stack.stop()


@pytest.fixture
async def api(stack: Stack, token: str, proxy: Proxy) -> AsyncIterator[Api]:
    """What one tenant may call; afterwards all is well again."""
    async with grpc.aio.insecure_channel(stack.grpc_address) as channel, stack.rest(token) as rest:
        api = Api(channel, rest, token)
        yield api
        proxy.heal()
        await api.until_ready(200)


Trouble = Callable[[Proxy, asyncpg.Connection], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def refused(proxy: Proxy, database: asyncpg.Connection) -> AsyncIterator[None]:
    proxy.refuse()
    yield
    proxy.heal()


@asynccontextmanager
async def black_holed(proxy: Proxy, database: asyncpg.Connection) -> AsyncIterator[None]:
    proxy.black_hole()
    yield
    proxy.heal()


@asynccontextmanager
async def out_of_connections(proxy: Proxy, database: asyncpg.Connection) -> AsyncIterator[None]:
    """53300, too_many_connections."""
    await database.execute("ALTER ROLE runengine_app CONNECTION LIMIT 0")
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'runengine_app'"
    )
    yield
    await database.execute("ALTER ROLE runengine_app CONNECTION LIMIT -1")


TROUBLES = pytest.mark.parametrize("trouble", [refused, black_holed, out_of_connections])


@TROUBLES
async def test_every_call_ends_within_its_deadline(
    api: Api, proxy: Proxy, database: asyncpg.Connection, trouble: Trouble
) -> None:
    async with trouble(proxy, database):
        outcomes = await api.every_rpc(seconds=1 if trouble is black_holed else AT_ONCE_SECONDS)
    if trouble is black_holed:
        assert {each.code for each in outcomes} == {LATE}
    else:
        assert {(each.code, each.reason) for each in outcomes} == {(UNAVAILABLE, "UNAVAILABLE")}


async def test_every_call_without_a_deadline_ends_although_the_database_says_nothing(
    api: Api, proxy: Proxy
) -> None:
    proxy.black_hole()
    async with asyncio.timeout(SECONDS):
        rpcs, requests = await asyncio.gather(api.every_rpc(seconds=None), api.every_path())
    assert {(each.code, each.reason) for each in rpcs} == {(UNAVAILABLE, "UNAVAILABLE")}
    assert {(each.code, each.reason) for each in requests} <= {
        (503, "UNAVAILABLE"), (504, "DEADLINE_EXCEEDED")
    }  # fmt: skip


@pytest.mark.parametrize("trouble", [refused, out_of_connections])
async def test_rest_says_that_the_database_cannot_be_reached(
    api: Api, proxy: Proxy, database: asyncpg.Connection, trouble: Trouble
) -> None:
    async with trouble(proxy, database):
        outcomes = await api.every_path()
    assert {(each.code, each.reason) for each in outcomes} == {(503, "UNAVAILABLE")}


async def test_a_full_disk_is_no_fault_of_the_caller_and_passes(
    api: Api, database: asyncpg.Connection
) -> None:
    request = runs.TriggerRunRequest(workflow_name="unserved")
    await database.execute(FILL_DISK)
    try:
        outcome = await api.outcome(api.runs.TriggerRun, request)
        assert (outcome.code, outcome.reason) == (UNAVAILABLE, "UNAVAILABLE")
        outcome = await api.rest_outcome("POST", "/runs", {"workflowName": "unserved"})
        assert (outcome.code, outcome.reason) == (503, "UNAVAILABLE")
        await api.every_call_succeeds()
    finally:
        await database.execute("DROP FUNCTION fill_disk CASCADE")
    assert (await api.outcome(api.runs.TriggerRun, request)).code is grpc.StatusCode.OK


async def test_calls_find_postgresql_again_after_it_has_crashed(
    api: Api, database: asyncpg.Connection
) -> None:
    pid = await database.fetchval("SELECT pid FROM pg_stat_activity WHERE usename = 'runengine_app' LIMIT 1")
    os.kill(pid, signal.SIGKILL)
    outcomes: list[Outcome] = []
    async with asyncio.timeout(SECONDS):
        while UNAVAILABLE not in {each.code for each in outcomes}:
            outcomes += await api.every_rpc()
    assert {each.reason for each in outcomes if each.code is UNAVAILABLE} == {"UNAVAILABLE"}
    assert {each.code for each in outcomes} <= {
        grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, UNAVAILABLE
    }  # fmt: skip
    request = runs.GetRunRequest(run_id=str(uuid4()))
    async with asyncio.timeout(SECONDS):
        while (await api.outcome(api.runs.GetRun, request, 2)).code is UNAVAILABLE:
            pass
    await api.every_call_succeeds()


@TROUBLES
async def test_readiness_follows_the_database_away_and_back(
    api: Api, proxy: Proxy, database: asyncpg.Connection, trouble: Trouble
) -> None:
    await api.every_call_succeeds()  # and so all connections are open
    async with trouble(proxy, database):
        await api.until_ready(503)
        assert (await api.rest.get("/healthz")).status_code == 200
    await api.until_ready(200)
    await api.every_call_succeeds()


async def test_connections_that_died_without_a_word_are_replaced_together(api: Api, proxy: Proxy) -> None:
    await api.every_call_succeeds()  # and so all connections are open
    proxy.strand()
    await api.until_ready(503)
    await api.until_ready(200)
    await api.every_call_succeeds()


@asynccontextmanager
async def pool_through(proxy: Proxy) -> AsyncIterator[Database]:
    """A pool of one connection."""
    pool = Database(proxy.url, 1)
    await pool.open()
    yield pool
    await pool.close()


async def test_a_connection_that_postgresql_ends_while_nothing_is_asked_is_no_fault_of_ours(
    database_url: str,
) -> None:
    """asyncpg has an error of its own for it, InternalClientError."""
    heard = asyncio.Event()

    async def ask(proxy: Proxy, pool: Database) -> None:
        async with pool.dispatch().transaction() as connection:
            connection.add_log_listener(lambda *_: heard.set())
            proxy.announce_end()
            await asyncio.wait_for(heard.wait(), SECONDS)
            await connection.fetch("SELECT 1")

    async with Proxy(database_url) as proxy, pool_through(proxy) as pool:
        with pytest.raises(Unavailable):
            await ask(proxy, pool)
        assert await pool.dispatch().fetch("SELECT 1")


async def test_a_cancelled_task_stays_cancelled_although_its_connection_was_lost(database_url: str) -> None:
    begun, lost = asyncio.Event(), asyncio.Event()

    async def hold(pool: Database) -> None:
        async with pool.dispatch().transaction() as connection:
            connection.add_termination_listener(lambda _: lost.set())
            begun.set()
            await asyncio.Event().wait()

    async with Proxy(database_url) as proxy, pool_through(proxy) as pool:
        holding = asyncio.create_task(hold(pool))
        await asyncio.wait_for(begun.wait(), SECONDS)
        proxy.reset()
        await asyncio.wait_for(lost.wait(), SECONDS)
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding


APPLIED = pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])


async def answered_once(
    api: Api, proxy: Proxy, applied: bool, method: Any, request: Any, count: Callable[[], Awaitable[int]]
) -> Run:
    """The run that a call answers, sent again after the answer to its first COMMIT was lost."""
    key = uuid4().hex
    lost = proxy.lose_commit(applied, key.encode())
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await api.send(method, request, key)
    assert (refusal.value.code(), reason_of(refusal.value)) == (UNAVAILABLE, "UNAVAILABLE")
    await asyncio.wait_for(lost, SECONDS)
    assert await count() == int(applied)
    response, replayed = await api.send(method, request, key)
    assert (await count(), replayed) == (1, applied)
    return response.run  # type: ignore[no-any-return]


@APPLIED
async def test_a_trigger_whose_commit_was_lost_makes_one_run(
    api: Api, proxy: Proxy, organisation: str, database: asyncpg.Connection, applied: bool
) -> None:
    request = runs.TriggerRunRequest(workflow_name="unserved")

    async def count() -> int:
        return int(await database.fetchval("SELECT count(*) FROM runs WHERE tenant_id = $1", organisation))

    run = await answered_once(api, proxy, applied, api.runs.TriggerRun, request, count)
    assert run.id == str(await database.fetchval("SELECT id FROM runs WHERE tenant_id = $1", organisation))


@APPLIED
async def test_a_cancel_and_a_retry_whose_commits_were_lost_happen_once(
    api: Api, proxy: Proxy, organisation: str, database: asyncpg.Connection, applied: bool
) -> None:
    response, _ = await api.send(api.runs.TriggerRun, runs.TriggerRunRequest(workflow_name="unserved"))

    def count(status: str) -> Callable[[], Awaitable[int]]:
        async def ask() -> int:
            sql = """SELECT count(*) FROM run_events
                WHERE tenant_id = $1 AND to_status = $2 AND from_status IS NOT NULL"""
            return int(await database.fetchval(sql, organisation, status))

        return ask

    cancel, retry = (kind(run_id=response.run.id) for kind in (runs.CancelRunRequest, runs.RetryRunRequest))
    await answered_once(api, proxy, applied, api.runs.CancelRun, cancel, count("cancelled"))
    run = await answered_once(api, proxy, applied, api.runs.RetryRun, retry, count("queued"))
    assert run.attempt == 2


@APPLIED
async def test_a_rest_trigger_whose_commit_was_lost_makes_one_run(
    api: Api, proxy: Proxy, organisation: str, database: asyncpg.Connection, applied: bool
) -> None:
    key = uuid4().hex
    lost = proxy.lose_commit(applied, key.encode())
    for status in (503, 201):
        response = await api.rest.post(
            "/runs", json={"workflowName": "unserved"}, headers={"idempotency-key": key}
        )
        assert response.status_code == status
    await asyncio.wait_for(lost, SECONDS)
    assert ("idempotency-replayed" in response.headers) == applied
    assert await database.fetchval("SELECT count(*) FROM runs WHERE tenant_id = $1", organisation) == 1


CLAIM = dispatch_function("claim_queued").call.encode()
NEXT_STEP = tenant_function("record_next_step").call.encode()
END = tenant_function("end_run").call.encode()


@APPLIED
@pytest.mark.parametrize("statement", [CLAIM, END], ids=["claim", "end"])
async def test_a_run_whose_claim_or_end_was_lost_ends_once(
    database_url: str, database: asyncpg.Connection, applied: bool, statement: bytes
) -> None:
    ran = Ran()
    graph = chain(one=ran.node("one"), two=ran.node("two"))
    async with Proxy(database_url) as proxy, serving(proxy.url, graph) as engine:
        campaign_id = (await engine.campaigns.insert(uuid4())).id
        run_id = await engine.trigger(campaign_id=campaign_id)
        lost = proxy.lose_commit(applied, statement)
        async with engine.working():
            await asyncio.wait_for(lost, SECONDS)
            if statement is CLAIM and applied:
                await engine.lose(run_id)  # what its lease would do
            await until(lambda: engine.get(run_id), lambda run: run.status is RunStatus.COMPLETED)
    # What the last node has done was to be recorded with the end.
    assert ran.names == ["one", "two"]
    await ended_once(database, run_id, campaign_id)


@APPLIED
async def test_a_step_whose_record_was_lost_is_recorded_again_and_not_done_again(
    database_url: str, database: asyncpg.Connection, applied: bool
) -> None:
    ran = Ran()
    lost: list[asyncio.Future[None]] = []
    async with Proxy(database_url) as proxy:

        async def one(state: State) -> State:
            if not lost:
                lost.append(proxy.lose_commit(applied, NEXT_STEP))
            ran.names.append("one")
            return {"seen": ["one"]}

        async with serving(proxy.url, chain(one=one, two=ran.node("two"))) as engine:
            campaign_id = (await engine.campaigns.insert(uuid4())).id
            run_id = await engine.trigger(campaign_id=campaign_id)
            async with engine.working():
                await until(lambda: engine.get(run_id), lambda run: run.status is RunStatus.COMPLETED)
    assert lost[0].done()
    # It was lost with the begin of the next.
    assert ran.names == ["one", "two"]
    await ended_once(database, run_id, campaign_id)


async def ended_once(database: asyncpg.Connection, run_id: UUID, campaign_id: UUID) -> None:
    """One terminal event, one move of the campaign, to it, one completed execution of each step."""
    ends = "SELECT to_status FROM run_events WHERE run_id = $1 AND to_status NOT IN ('queued', 'running')"
    assert [row["to_status"] for row in await database.fetch(ends, run_id)] == ["completed"]
    moves = """SELECT status, latest_run_id FROM campaign_moves JOIN campaigns ON id = campaign_id
        WHERE campaign_id = $1"""
    assert [tuple(row) for row in await database.fetch(moves, campaign_id)] == [("live", run_id)]
    steps = "SELECT step_id FROM run_steps WHERE run_id = $1 AND status = 'completed' ORDER BY seq"
    assert [row["step_id"] for row in await database.fetch(steps, run_id)] == ["one", "two"]


async def test_without_notifications_runs_are_claimed_and_cancels_reach_them(
    api: Api, proxy: Proxy, gates: Gates
) -> None:
    proxy.mute_notifications()
    payload = Struct()
    payload.update({"gates": gates.path})
    request = runs.TriggerRunRequest(workflow_name="gated", trigger_payload=payload)
    response, _ = await api.send(api.runs.TriggerRun, request)
    gate = await gates.next()
    await api.send(api.runs.CancelRun, runs.CancelRunRequest(run_id=response.run.id))
    await asyncio.wait_for(gate.left.wait(), SECONDS)
    # The poll may be there before the notification is, which nobody hears while a listener connects again.
    await until(lambda: asyncio.sleep(0.01, proxy.dropped), bool)
