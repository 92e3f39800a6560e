"""Bytes that no row tells of are deleted, once it is certain that none will."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.commands.trigger_run import check_trigger, trigger_run
from runengine_server.repositories import artifact_store
from runengine_server.repositories.artifact_store import ArtifactDirectory, ArtifactStore
from runengine_server.repositories.run_repository import RunRepository
from runengine_server.worker.artifact_sweep import ArtifactSweep

from tests.support.own_worker import ACTOR, SECONDS, Engine, chain, serving

TWO_DAYS = 2 * 24 * 3600


async def save(state: Any, runtime: Runtime[RunContext]) -> dict[str, Any]:
    await runtime.context.save_artifact("one.txt", b"one", "text/plain")
    return {}


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    async with serving(database_url, chain(save=save)) as engine:
        yield engine


def sweep_of(engine: Engine) -> ArtifactSweep:
    return ArtifactSweep(engine.database, ArtifactDirectory(engine.directory))


def age(path: Path, seconds: float = TWO_DAYS) -> Path:
    os.utime(path, (time.time() - seconds,) * 2)
    return path


async def put(engine: Engine, tenant_id: str, run_id: UUID) -> Path:
    """Bytes that no row tells of."""
    key = ArtifactStore.key(tenant_id, run_id, uuid4())
    await ArtifactDirectory(engine.directory).put(key, b"left", "left.txt", "text/plain")
    return engine.directory / key


def files(engine: Engine) -> set[Path]:
    return {path for path in engine.directory.rglob("*") if path.is_file()}


async def test_an_artifact_without_a_row_is_deleted_once_it_is_a_day_old_and_nothing_else(
    engine: Engine,
) -> None:
    run_id = (await engine.execute()).id
    (saved,) = files(engine)
    kept = {
        "with a row": age(saved),
        "young": age(await put(engine, engine.tenant_id, run_id), TWO_DAYS / 3),
        "of a run that is not here": age(await put(engine, engine.tenant_id, uuid4())),
        "of another tenant": age(await put(engine, "org_other", run_id)),
        "of no key of ours": age(await put(engine, engine.tenant_id, run_id)).rename(
            engine.directory / engine.tenant_id / str(run_id) / "notes.txt"
        ),
    }
    left = age(await put(engine, engine.tenant_id, run_id))
    unfinished = left.with_name(f"{uuid4()}#1")
    unfinished.write_bytes(b"le")
    being_written = left.with_name(f"{uuid4()}#1")
    being_written.write_bytes(b"le")
    age(unfinished)
    await sweep_of(engine).sweep()
    assert files(engine) == {*kept.values(), being_written}


async def test_a_tenant_of_any_spelling_is_swept(engine: Engine) -> None:
    tenant_id = "org/../ä%2E.#1"
    new = check_trigger(TriggerRunRequest(workflow_name=engine.workflow))
    await trigger_run(RunRepository(engine.database.tenant(tenant_id)), new, ACTOR, None, None)
    age(await put(engine, tenant_id, new.id))
    await sweep_of(engine).sweep()
    assert files(engine) == set()


async def test_pages_and_two_workers_at_once_do_no_harm(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_store, "PAGE", 3)
    run_id = (await engine.execute()).id
    kept = files(engine)
    for _ in range(20):
        age(await put(engine, engine.tenant_id, run_id))
    sweeps = [sweep_of(engine) for _ in range(2)]
    await asyncio.gather(*(each.sweep() for each in sweeps))
    assert files(engine) == kept


async def test_one_worker_of_all_sweeps_within_the_hour(engine: Engine) -> None:
    begun = await asyncio.gather(*(engine.queue.begin_chore(engine.workflow, 3600) for _ in range(5)))
    assert sorted(begun) == [False] * 4 + [True]
    # An hour later, by the database's clock.
    await engine.database.dispatch().fetch(
        "UPDATE chores SET begun_at = begun_at - interval '1 hour' WHERE name = $1 RETURNING 1",
        engine.workflow,
    )
    assert await engine.queue.begin_chore(engine.workflow, 3600)


async def test_a_worker_sweeps_when_it_starts_and_goes_on_when_that_fails(engine: Engine) -> None:
    swept = asyncio.Event()

    async def sweep() -> None:
        swept.set()
        raise OSError("The disk is gone.")

    async with engine.working(hourly=[sweep]), asyncio.timeout(SECONDS):
        await swept.wait()
        await engine.trigger()
