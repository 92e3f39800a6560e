"""What ended long ago is deleted with all that belongs to it, and what is in use stays."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy
from runengine.context import RunContext
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import RunStatus
from runengine_server.processes.operator_commands import set_retention
from runengine_server.repositories import retention
from runengine_server.repositories.artifact_store import ArtifactDirectory
from runengine_server.settings import Settings
from runengine_server.worker.chores import hourly_chores
from runengine_server.worker.retention import RetentionChore
from structlog.testing import capture_logs

from tests.support.own_worker import Engine, Graph, State, alone, serving

DAYS = 30
COUNTS = {"queued": 0, "running": 0, "completed": 0, "failed": 0, "cancelled": 0}


async def save(state: State, runtime: Runtime[RunContext]) -> Any:
    saved = await runtime.context.save_artifact("a.txt", b"bytes", "text/plain")
    if state.get("fail"):
        raise ValueError("on purpose")
    return {"bundle_artifact_id": saved}


def keep(state: State) -> Any:
    return {"seen": ["said"]}


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    async with serving(database_url, alone("save", save)) as engine:
        yield engine


async def age(engine: Engine, *run_ids: UUID, days: int = DAYS + 1) -> None:
    await engine.tenant.fetch(
        """UPDATE runs SET created_at = created_at - make_interval(days => $2),
            updated_at = updated_at - make_interval(days => $2) WHERE id = ANY($1)""",
        list(run_ids),
        days,
    )


async def purge(engine: Engine, days: int | None = DAYS) -> None:
    """As a worker does, of this tenant alone."""
    chore = RetentionChore(engine.database, ArtifactDirectory(engine.directory), None)
    await retention.set_retention(engine.tenant, engine.tenant_id, days)
    await chore.purge()
    await retention.reset_retention(engine.tenant, engine.tenant_id)


async def left(database: asyncpg.Connection, engine: Engine, run_id: UUID) -> dict[str, int]:
    """In how many rows of which tables the run is."""
    tables = await database.fetch(
        """SELECT table_name, column_name FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name <> 'readable_runs'
            AND (column_name = 'run_id' OR (table_name, column_name) = ('runs', 'id'))"""
    )
    found = {
        name: await database.fetchval(
            f"SELECT count(*) FROM {name} WHERE tenant_id = $1 AND {column} = $2", engine.tenant_id, run_id
        )
        for name, column in tables
    }
    return {name: count for name, count in found.items() if count}


async def counts(database: asyncpg.Connection, engine: Engine, campaign_id: UUID) -> dict[str, int]:
    """What is counted of the campaign's runs, which is what there is of them."""
    (row,) = await database.fetch(
        """SELECT sum(queued) AS queued, sum(running) AS running, sum(completed) AS completed,
            sum(failed) AS failed, sum(cancelled) AS cancelled
        FROM campaign_run_counts WHERE tenant_id = $1 AND campaign_id = $2""",
        engine.tenant_id,
        campaign_id,
    )
    there = await database.fetch(
        "SELECT status, count(*) FROM runs WHERE tenant_id = $1 AND campaign_id = $2 GROUP BY status",
        engine.tenant_id,
        campaign_id,
    )
    counted = {status: int(number) for status, number in row.items()}
    assert counted == COUNTS | {row["status"]: row["count"] for row in there}
    return counted


async def runs_of(engine: Engine, campaign_id: UUID, *payloads: dict[str, Any]) -> list[UUID]:
    """Executed runs of a campaign."""
    ids = []
    for payload in payloads:
        ids.append(await engine.trigger(payload, campaign_id))
        await engine.process(await engine.claim())
    return ids


def files(engine: Engine) -> set[str]:
    return {path.parent.name for path in engine.directory.rglob("*") if path.is_file()}


async def test_a_run_that_ended_long_ago_is_deleted_with_all_that_is_of_it_and_counts_stay_exact(
    engine: Engine, database: asyncpg.Connection
) -> None:
    campaign_id = (await engine.campaigns.insert(uuid4())).id
    first, failed, bundle, newest = await runs_of(engine, campaign_id, {}, {"fail": True}, {}, {"fail": True})
    (young,) = await runs_of(engine, uuid4(), {})
    cancelled, held, queued = [await engine.trigger({}, campaign_id) for _ in range(3)]
    await engine.cancel(cancelled)
    assert (await engine.claim()).id == held
    await age(engine, first, failed, bundle, newest, cancelled, queued, held)
    before = await left(database, engine, first)
    assert before.keys() >= {"runs", "run_steps", "run_events", "step_events", "artifacts"}
    assert (await left(database, engine, failed)).keys() >= {"checkpoints"}
    await purge(engine)
    for gone in (first, failed, cancelled):
        assert await left(database, engine, gone) == {}
    # The campaign's last run, and its last good bundle, which an older run has made.
    assert await left(database, engine, bundle) == before
    for stays in (newest, queued, held, young):
        assert "runs" in await left(database, engine, stays)
    assert await counts(database, engine, campaign_id) == COUNTS | {
        "queued": 1, "running": 1, "completed": 1, "failed": 1,
    }  # fmt: skip
    assert files(engine) == {str(each) for each in (bundle, newest, young)}
    assert not [path for path in engine.directory.rglob("*") if path.is_dir() and not any(path.iterdir())]


async def test_bytes_that_could_not_be_deleted_keep_no_other_tenant_from_it_and_are_deleted_later(
    engine: Engine, database: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete_all = ArtifactDirectory.delete_all

    async def die(store: ArtifactDirectory, keys: Sequence[str]) -> None:
        if keys[0].startswith(first.tenant_id):
            raise Unavailable("disk")
        await delete_all(store, keys)

    async with serving(database_url, alone("save", save)) as another:
        first, second = sorted((engine, another), key=lambda each: each.tenant_id)
        runs = {each: (await each.execute()).id for each in (first, second)}
        for each, run_id in runs.items():
            await age(each, run_id)
        await retention.set_retention(second.tenant, second.tenant_id, DAYS)
        with monkeypatch.context() as dying, capture_logs() as logged:
            dying.setattr(ArtifactDirectory, "delete_all", die)
            await purge(first)
        for each, run_id in runs.items():
            assert await left(database, each, run_id) == {}
        assert [line["tenant"] for line in logged if line["log_level"] == "warning"] == [first.tenant_id]
        assert files(first) == {str(runs[first])}
        # Whatever is set by then.
        await purge(first, None)
        assert files(first) == set()


async def test_a_tenant_keeps_its_runs_for_as_long_as_it_was_set(
    engine: Engine, database: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    run = await engine.execute()
    await age(engine, run.id)
    settings = Settings(database_url=database_url, state_dir=tmp_path)

    async def told(**arguments: Any) -> list[list[str]]:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            await set_retention(settings, **{"tenant": engine.tenant_id, "is_default": False, **arguments})
        return [line.split() for line in out.getvalue().splitlines() if engine.tenant_id in line]

    async def tenants(default: int | None) -> int | None:
        kept = await retention.retained_tenants(engine.database.dispatch(), default)
        return kept.get(engine.tenant_id)

    assert (await tenants(None), await tenants(7)) == (None, 7)
    assert await told(days=45) == [[engine.tenant_id, "45"]]
    assert (await tenants(None), await tenants(7)) == (45, 45)
    assert await told(days=None) == [[engine.tenant_id, "forever"]]
    assert (await tenants(None), await tenants(7)) == (None, None)
    assert await told(days=None, is_default=True) == []
    assert (await tenants(None), await tenants(7)) == (None, 7)
    await purge(engine, DAYS + 10)
    assert "runs" in await left(database, engine, run.id)


async def test_all_runs_of_a_thread_stay_while_it_is_in_use(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, alone("keep", keep)) as engine:
        runs = {
            thread: [(await engine.execute(threadId=thread)).id for _ in range(2)]
            for thread in ("in use", "left")
        }
        await age(engine, *runs["in use"], *runs["left"])
        await engine.tenant.fetch(
            "UPDATE threads SET used_at = used_at - interval '31 days' WHERE thread_id = 'left'"
        )
        await purge(engine)
        assert [bool(await left(database, engine, each)) for each in runs["in use"]] == [True, True]
        assert [bool(await left(database, engine, each)) for each in runs["left"]] == [False, False]
        # Who comes back to a thread that was forgotten begins anew.
        for thread, said in (("in use", 3), ("left", 1)):
            run = await engine.execute(threadId=thread)
            output = await engine.runs.get_output(run.id)
            assert output is not None
            assert output.encoded is not None
            assert output.encoded.count(b"said") == said


async def test_a_run_stays_whose_artifact_a_cached_result_names(
    database_url: str, database: asyncpg.Connection
) -> None:
    graph: Graph = alone("save", save, cache_policy=CachePolicy(key_func=lambda state: "one"))
    async with serving(database_url, graph) as engine:
        first = await engine.execute()
        await age(engine, first.id)
        await purge(engine)
        assert (await engine.execute()).status is RunStatus.COMPLETED
        await engine.tenant.fetch("DELETE FROM step_cache")
        await purge(engine)
        assert await left(database, engine, first.id) == {}


async def test_bulk_operations_are_deleted_with_what_they_say_of_their_runs(
    engine: Engine, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_ROWS", 2)
    ids = [uuid4() for _ in range(3)]
    for operation_id, days in zip(ids, (DAYS + 1, DAYS - 1, None), strict=True):
        await engine.tenant.fetch(
            """INSERT INTO bulk_operations (tenant_id, id, action, status, pace, actor, ended_at)
            VALUES ($1, $2, 'retry', $3, 1, 'user', now() - make_interval(days => $4))""",
            engine.tenant_id, operation_id, "completed" if days else "running", days,
        )  # fmt: skip
        await engine.tenant.fetch(
            """INSERT INTO bulk_operation_items (tenant_id, operation_id, place, run_id)
            SELECT $1, $2, place, gen_random_uuid() FROM generate_series(1, 5) AS place""",
            engine.tenant_id,
            operation_id,
        )
    await purge(engine)
    for table, column in (("bulk_operations", "id"), ("bulk_operation_items", "operation_id")):
        rows = await database.fetch(
            f"SELECT DISTINCT {column} FROM {table} WHERE tenant_id = $1", engine.tenant_id
        )
        assert {row[0] for row in rows} == set(ids[1:])
    # Otherwise the servers of other tests would go on with the one that is running.
    await database.execute("DELETE FROM bulk_operations WHERE tenant_id = $1", engine.tenant_id)


@pytest.mark.parametrize(("own", "default"), [(DAYS, None), (None, DAYS)])
async def test_a_worker_deletes_once_an_hour_what_a_tenant_or_all_have_kept_long_enough(
    engine: Engine, database: asyncpg.Connection, own: int | None, default: int | None
) -> None:
    async def do_chores() -> None:
        store = ArtifactDirectory(engine.directory)
        for chore in hourly_chores(engine.database, store, engine.queue, default):
            await chore()

    if own is not None:
        await retention.set_retention(engine.tenant, engine.tenant_id, own)
    first, second = await runs_of(engine, uuid4(), {}, {})
    await runs_of(engine, uuid4(), {})
    await database.execute("DELETE FROM chores")
    await age(engine, first)
    await do_chores()
    assert await left(database, engine, first) == {}
    await age(engine, second)
    await do_chores()
    assert await left(database, engine, second) != {}
    await retention.reset_retention(engine.tenant, engine.tenant_id)
