"""The checkpoint saver against LangGraph's conformance suite, against workers that lost their run, and
what is kept of a run that has ended.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint
from runengine_server.domain.errors import Fenced
from runengine_server.domain.run import ClaimedRun, Failure
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.worker.graph.checkpointer import FencedCheckpointer
from runengine_server.worker.graph.execution import ExecutionStopped

from tests.support.own_worker import Engine
from tests.support.saver import METADATA, claimed, config_of, put, rows, saver_of

Write = Callable[[FencedCheckpointer], Awaitable[Any]]


def id_of(stored: RunnableConfig) -> str:
    return str(stored["configurable"]["checkpoint_id"])


async def listed(saver: FencedCheckpointer, run: ClaimedRun) -> list[str]:
    return [id_of(each.config) async for each in saver.alist(config_of(run))]


def writes_of(run: ClaimedRun) -> dict[str, Write]:
    thread = str(run.id)
    checkpoint = empty_checkpoint()
    on: RunnableConfig = {
        "configurable": {**config_of(run)["configurable"], "checkpoint_id": checkpoint["id"]}
    }
    return {
        "aput": lambda saver: saver.aput(config_of(run), checkpoint, METADATA, {}),
        "aput_writes": lambda saver: saver.aput_writes(on, [("seen", ["late"])], str(uuid4())),
        "adelete_thread": lambda saver: saver.adelete_thread(thread),
        "aprune": lambda saver: saver.aprune([thread]),
        "aprune of everything": lambda saver: saver.aprune([thread], strategy="delete"),
    }


WRITES = ["aput", "aput_writes", "adelete_thread", "aprune", "aprune of everything"]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("ending", ["taken over", "cancelled", "ended"])
async def test_a_worker_that_lost_its_run_changes_no_checkpoint(
    engine: Engine, database: asyncpg.Connection, write: str, ending: str
) -> None:
    run = await claimed(engine)
    lost = saver_of(engine, run)
    await put(lost, run)
    await put(lost, run)
    if ending == "taken over":
        await engine.take_over(run.id)
    elif ending == "cancelled":
        await engine.cancel(run.id)
    else:
        await fail(engine, run)
    before = await rows(database, run.id)
    assert before
    with pytest.raises(ExecutionStopped) as raised:  # noqa: PT012
        await writes_of(run)[write](lost)
        await lost.flush()
    assert isinstance(raised.value.__cause__, Fenced)
    assert await rows(database, run.id) == before


@pytest.mark.parametrize("write", WRITES)
async def test_another_tenant_neither_sees_nor_changes_a_checkpoint(
    engine: Engine, database: asyncpg.Connection, write: str
) -> None:
    run = await claimed(engine)
    stored = await put(saver_of(engine, run), run)
    before = await rows(database, run.id)
    foreign = saver_of(engine, replace(run, tenant_id=f"org_{uuid4().hex}"))
    assert await foreign.aget_tuple(config_of(run)) is None
    assert await foreign.aget_tuple(stored) is None
    assert await listed(foreign, run) == []
    with pytest.raises(ExecutionStopped):  # noqa: PT012
        await writes_of(run)[write](foreign)
        await foreign.flush()
    assert await rows(database, run.id) == before


@pytest.mark.parametrize("write", WRITES)
async def test_another_thread_than_that_of_the_run_is_refused(
    engine: Engine, database: asyncpg.Connection, write: str
) -> None:
    """Even one of a run that the same worker holds."""
    run, other = await claimed(engine), await claimed(engine)
    await put(saver_of(engine, other), other)
    before = await rows(database, other.id)
    saver = saver_of(engine, run)
    with pytest.raises(ValueError, match="under its own thread"):
        await saver.aget_tuple(config_of(other))
    with pytest.raises(ValueError, match="under its own thread"):
        await listed(saver, other)
    with pytest.raises(ValueError, match="under its own thread"):
        await writes_of(other)[write](saver)
    assert await rows(database, other.id) == before
    assert await rows(database, run.id) == []


async def test_a_prune_of_no_thread_or_by_an_unknown_strategy_deletes_nothing(
    engine: Engine, database: asyncpg.Connection
) -> None:
    run = await claimed(engine)
    saver = saver_of(engine, run)
    await put(saver, run)
    await put(saver, run)
    before = await rows(database, run.id)
    await saver.aprune([])
    with pytest.raises(ValueError, match="keep_most"):
        await saver.aprune([str(run.id)], strategy="keep_most")
    assert await rows(database, run.id) == before


async def test_after_a_take_over_by_a_clock_an_hour_behind_the_one_stored_last_is_current(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await claimed(engine)
    first = await put(saver_of(engine, run), run)
    successor = await engine.take_over(run.id)
    saver = saver_of(engine, successor)
    behind = SimpleNamespace(time_ns=lambda: time.time_ns() - 3600 * 10**9)
    monkeypatch.setattr("langgraph.checkpoint.base.id.time", behind)
    monkeypatch.setattr("langgraph.checkpoint.base.id._last_v6_timestamp", None)
    second, third = await put(saver, successor), await put(saver, successor)
    assert id_of(second) < id_of(third) < id_of(first)

    async def current() -> str:
        found = await saver.aget_tuple(config_of(run))
        assert found is not None
        return id_of(found.config)

    assert await current() == id_of(third)
    assert await listed(saver, run) == [id_of(third), id_of(second), id_of(first)]
    before = [each async for each in saver.alist(config_of(run), before=second)]
    assert [id_of(each.config) for each in before] == [id_of(first)]
    assert [id_of(each.config) async for each in saver.alist(second)] == [id_of(second)]
    await saver.aprune([str(run.id)])
    assert await current() == id_of(third)
    assert await listed(saver, run) == [id_of(third)]


async def fail(engine: Engine, run: ClaimedRun) -> None:
    async with HeldRunRepository(engine.database, run, "worker:test").end() as ending:
        await ending.fail(Failure("STEP_FAILED", "x", "one", run.attempt, True))


async def test_versions_of_channels_sort_as_they_were_made_by_this_version_and_the_one_before(
    engine: Engine,
) -> None:
    saver = saver_of(engine, await claimed(engine))
    made: list[str] = []
    for _ in range(10_010):
        made.append(saver.get_next_version(made[-1] if made else None, None))
    assert made == sorted(set(made))
    handed_over = ["+0001", *(f"{number:032}" for number in (2, 3))]
    handed_back = [saver.get_next_version(max(handed_over), None)]
    handed_back.append(saver.get_next_version(max(handed_back), None))
    assert [*handed_over, *handed_back] == sorted([*handed_over, *handed_back])
    assert [int(version) for version in handed_back] == [4, 5]
