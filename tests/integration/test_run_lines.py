"""The end of each execution of a run is one line, with its tenant and how long its attempt has run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from runengine_server.domain.run import MAX_LOSSES, ClaimedRun
from structlog.testing import capture_logs

from tests.support.own_worker import Engine, Held, Ran, chain, serving

Story = Callable[[Engine, ClaimedRun, Held], Awaitable[Any]]


async def completed(engine: Engine, run: ClaimedRun, held: Held) -> None:
    executing = asyncio.create_task(engine.process(run))
    (await held.next()).go.set()
    await executing


async def drained(engine: Engine, run: ClaimedRun, held: Held) -> None:
    executing = asyncio.create_task(engine.process(run))
    execution = await held.next()
    engine.processor.drain()
    execution.go.set()
    await executing


async def fenced_off(engine: Engine, run: ClaimedRun, held: Held) -> None:
    await engine.take_over(run.id)
    await engine.process(run)


async def stopped(engine: Engine, run: ClaimedRun, held: Held) -> None:
    executing = asyncio.create_task(engine.process(run))
    await held.next()
    executing.cancel()
    with suppress(asyncio.CancelledError):
        await executing


async def lost_too_often(engine: Engine, run: ClaimedRun, held: Held) -> None:
    for _ in range(MAX_LOSSES):
        run = await engine.take_over(run.id)
    await engine.process(run)


@pytest.mark.parametrize(
    ("story", "event"),
    [
        (completed, "run completed"),
        (drained, "run drained"),
        (fenced_off, "run is no longer ours"),
        (stopped, "run stopped"),
        (lost_too_often, "run failed"),
    ],
)
async def test_the_end_of_an_execution_is_one_line_with_tenant_and_duration(
    database_url: str, story: Story, event: str
) -> None:
    held = Held()
    async with serving(database_url, chain(held=held.node, last=Ran().node("last"))) as engine:
        await engine.trigger()
        run = await engine.claim()
        with capture_logs() as logs:
            await story(engine, run, held)
    (line,) = (each for each in logs if each.get("run_id") == str(run.id))
    assert line["event"] == event
    assert (line["tenant"], line["workflow"], line["attempt"]) == (engine.tenant_id, engine.workflow, 1)
    assert line["duration_ms"] >= 0
