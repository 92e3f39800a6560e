"""How often the product asks PostgreSQL, counted at the wire."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langgraph.config import get_stream_writer
from langgraph.types import CachePolicy
from runengine_client import RunEngineClient, RunNotCompleted, RunNotWaiting, StepNotFound
from runengine_server.domain.run import RunStatus
from runengine_server.worker.graph import execution

from tests.faults.proxy import Proxy
from tests.support.agents import ScriptedModel
from tests.support.own_worker import (
    SECONDS,
    Engine,
    Graph,
    Held,
    Ran,
    State,
    alone,
    chain,
    ended,
    fork,
    serving,
)
from tests.support.stack import Stack

CALL = re.compile(r"SELECT \* FROM runengine_[0-9a-f]{12}\.(\w+)\(")

# What a process asks by itself, as often as a clock says: `serve` for its health and for the workflows that
# are served, a worker to say that it is there; what goes out beside the calls, as often as a tick comes; and
# what is asked once on each connection: whether there is a pooler, by us, and of types it meets, by asyncpg.
NOBODYS = re.compile(
    r"rolsuper|write_temporary_file|served_workflows|register_workflows|withdraw_worker"
    r"|NOTIFY|pg_notification_queue_usage|pg_backend_pid|'jit'|typeinfo"
)


@pytest.fixture(autouse=True)
def nothing_goes_out_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "FLUSH_SECONDS", 3600)


@pytest.fixture
async def counted(proxy: Proxy, state_dir: Path, token: str) -> AsyncIterator[RunEngineClient]:
    """Of a `serve` behind the proxy."""
    stack = Stack(proxy.url, state_dir)
    await stack.start("serve")
    async with stack.client(token) as client:
        yield client
    await stack.stop()


@asynccontextmanager
async def serving_at(proxy: Proxy, graph: Graph) -> AsyncIterator[Engine]:
    """An engine behind the proxy, of whose statements none is counted yet."""
    async with serving(proxy.url, graph) as engine:
        proxy.executed.clear()
        yield engine


def asked(proxy: Proxy) -> list[str]:
    """The functions that were called since the last time; other statements as they are."""
    statements = [sql for sql in proxy.executed if not NOBODYS.search(sql)]
    proxy.executed.clear()
    return [call[1] if (call := CALL.match(sql)) else sql for sql in statements]


async def test_each_call_is_one_statement(proxy: Proxy, counted: RunEngineClient) -> None:
    campaign_id, key = uuid4(), uuid4().hex

    async def statements_of(call: Awaitable[Any]) -> list[str]:
        await call
        return asked(proxy)

    run = await counted.trigger_run("unserved", campaign_id=campaign_id)
    page = await counted.list_campaign_runs(campaign_id, limit=1)
    asked(proxy)
    assert page.total == 1
    assert await statements_of(counted.list_campaign_runs(campaign_id)) == ["list_campaign_runs"]
    some = counted.list_campaign_runs(campaign_id, status=["queued", "failed"], offset=3)
    assert await statements_of(some) == ["list_campaign_runs_by_status"]
    assert await statements_of(counted.get_run(run.id)) == ["get_run"]
    assert await statements_of(counted.list_run_steps(run.id)) == ["list_run_steps"]
    assert await statements_of(counted.list_run_events(run.id)) == ["list_run_events"]
    with pytest.raises(RunNotCompleted):
        await counted.get_run_output(run.id)
    assert asked(proxy) == ["get_run_output"]
    with pytest.raises(StepNotFound):
        await counted.get_step_data(run.id, run.id)
    assert asked(proxy) == ["get_run_step_data"]
    assert await statements_of(counted.trigger_run("unserved")) == ["trigger_run"]
    for _ in range(2):
        keyed = counted.trigger_run("unserved", idempotency_key=key)
        assert await statements_of(keyed) == ["trigger_run"]
    for _ in range(2):
        assert await statements_of(counted.cancel_run(run.id)) == ["cancel_run"]
    assert await statements_of(counted.retry_run(run.id)) == ["retry_run"]
    with pytest.raises(RunNotWaiting):
        await counted.resume_run(run.id, True)
    assert asked(proxy) == ["resume_run"]
    assert await statements_of(counted.create_campaign(campaign_id)) == ["create_campaign"]
    assert await statements_of(counted.get_campaign(campaign_id)) == ["get_campaign"]


async def test_a_claim_is_one_statement_however_many_runs_it_takes(proxy: Proxy) -> None:
    async with serving_at(proxy, chain(one=Ran().node("one"))) as engine:
        run_ids = {await engine.trigger() for _ in range(10)}
        asked(proxy)
        assert {run.id for run in await engine.queue.claim_queued(10)} == run_ids
        assert asked(proxy) == ["claim_queued"]
        for run_id in run_ids:
            await engine.lose(run_id)
        asked(proxy)
        assert {run.id for run in await engine.queue.claim_expired(10)} == run_ids
        assert asked(proxy) == ["claim_expired"]


async def test_a_heartbeat_is_one_statement_for_all_that_a_worker_holds(proxy: Proxy) -> None:
    async with serving_at(proxy, chain(one=Ran().node("one"))) as engine:
        for _ in range(10):
            await engine.trigger()
        held = await engine.queue.claim_queued(10)
        async with engine.queue.lease_renewer(lambda channel, payload: None) as line:
            asked(proxy)
            kept, _ = await line.heartbeat(held, SECONDS)
            assert len(kept) == 10
            (heartbeat,) = asked(proxy)
        assert heartbeat == "heartbeat"


async def test_a_step_is_one_statement_and_so_is_the_end_of_a_run(proxy: Proxy) -> None:
    ran = Ran()
    graph = chain(**{name: ran.node(name) for name in ("one", "two", "three", "four")})
    async with serving_at(proxy, graph) as engine:
        for campaign_id in (None, (await engine.campaigns.insert(uuid4())).id):
            await engine.trigger(campaign_id=campaign_id)
            claimed = await engine.claim()
            asked(proxy)
            await engine.processor.process(claimed)
            assert asked(proxy) == ["record_next_step"] * 4 + ["end_run"]


async def test_a_run_asks_nothing_for_what_it_tells_unless_it_is_watched(proxy: Proxy) -> None:
    def talk(state: State) -> State:
        for number in range(1000):
            get_stream_writer()(number)
        ScriptedModel().invoke("hi")
        return {}

    async with serving_at(proxy, chain(talk=talk)) as engine:
        for is_watched in (False, True):
            run_id = await engine.trigger()
            claimed = await engine.claim()
            if is_watched:
                engine.processor.progress.on_watched(f"{uuid4()} {run_id}")
            proxy.executed.clear()
            await engine.processor.process(claimed)
            assert is_watched or not any("runengine_progress" in sql for sql in proxy.executed)
            told = ["send_progress"] if is_watched else []
            assert sorted({*asked(proxy)}) == ["end_run", "record_next_step", *told]


async def test_steps_side_by_side_begin_in_one_statement_and_end_in_another(proxy: Proxy) -> None:
    ran = Ran()
    graph = fork(**{name: ran.node(name) for name in ("one", "two", "three")})
    async with serving_at(proxy, graph) as engine:
        await engine.trigger()
        claimed = await engine.claim()
        asked(proxy)
        await engine.processor.process(claimed)
        # The last of them is recorded with the end.
        assert asked(proxy) == ["record_progress", "record_progress", "end_run"]


async def test_a_step_that_fails_and_one_with_a_cache_are_two_statements_besides_its_begin(
    proxy: Proxy,
) -> None:
    def fails(state: Any) -> Any:
        raise RuntimeError("Each time.")

    async with serving_at(proxy, alone("fails", fails)) as engine:
        await engine.trigger()
        claimed = await engine.claim()
        asked(proxy)
        await engine.processor.process(claimed)
        assert asked(proxy) == ["record_next_step", "fail_step", "record_progress", "end_run"]
    policy = CachePolicy(key_func=lambda state: "one")
    async with serving_at(proxy, alone("one", Ran().node("one"), cache_policy=policy)) as engine:
        for saved in (["save_cached"], []):
            await engine.trigger()
            claimed = await engine.claim()
            asked(proxy)
            await engine.processor.process(claimed)
            assert asked(proxy) == ["get_cached", "record_next_step", *saved, "end_run"]


async def test_a_worker_claims_what_is_queued_at_once(proxy: Proxy) -> None:
    held = Held()
    async with serving_at(proxy, chain(held=held.node)) as engine:
        run_ids = [await engine.trigger() for _ in range(5)]
        asked(proxy)
        async with engine.working():
            for _ in run_ids:
                (await held.next()).go.set()
            for run_id in run_ids:
                assert await ended(engine, run_id) is RunStatus.COMPLETED
        statements = asked(proxy)
    begins = [place for place, name in enumerate(statements) if name.startswith("record_")]
    assert statements[: begins[0]].count("claim_queued") == 1
    assert len(begins) <= len(run_ids)
    assert 1 <= sum(name in ("end_run", "complete_runs") for name in statements) <= len(run_ids)
