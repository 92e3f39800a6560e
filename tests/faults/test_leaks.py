"""After a load of all that clients and workflows do, nothing is left of it in any process."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine_server.domain.errors import Fenced
from runengine_server.repositories.held_run_repository import HeldRunRepository

from tests.faults import leaks, reporting
from tests.faults.graphs import deaf
from tests.faults.resources import differences
from tests.support.own_worker import Held, State, alone, happened, serving
from tests.support.stack import free_address


async def test_of_a_mixed_load_nothing_is_left(database_url: str, state_dir: Path) -> None:
    measured = await leaks.measure(
        database_url, state_dir, warm_up=3, seconds=6, idle_seconds=leaks.IDLE_SECONDS
    )
    assert differences(measured.baseline, measured.end) == []
    assert measured.complaints == []
    assert leaks.missing(measured.hits) == []
    # It was there to be left: every process had more to do than nothing.
    for process, figure in (
        ("serve", "asyncio tasks"),
        ("gateway", "descriptors"),
        ("worker", "asyncio tasks"),
    ):
        assert measured.peak[process][figure] > measured.baseline[process][figure].total()


async def test_channels_and_calls_of_grpc_are_counted() -> None:
    gc.collect()
    before = Counter(reporting.own()["gRPC"])
    channel = grpc.aio.insecure_channel(free_address())
    method: Any = channel.unary_unary("/no.Such/Method")
    call = method(b"", wait_for_ready=True)
    await asyncio.sleep(0)  # it begins
    assert Counter(reporting.own()["gRPC"]) - before == {"AioChannel": 1, "_AioCall": 1}
    call.cancel()
    await channel.close()


def test_a_leak_is_reported_by_its_kind() -> None:
    before = {"serve": {"descriptors": Counter({"pipe": 2, "unix socket": 3})}}
    after = {"serve": {"descriptors": Counter({"pipe": 3, "unix socket": 2})}}
    assert differences(before, before) == []
    assert differences(before, after) == [
        "serve, descriptors: pipe 2 → 3",
        "serve, descriptors: unix socket 3 → 2",
    ]


@pytest.fixture
def complaints() -> Iterator[list[dict[str, Any]]]:
    """What asyncio has to say of tasks that nobody holds or waits for, once they are collected."""
    told: list[dict[str, Any]] = []
    loop = asyncio.get_event_loop_policy().get_event_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: told.append(context))
    yield told
    loop.set_exception_handler(before)


async def test_a_deaf_graph_is_kept_until_it_ends_even_if_its_run_is_stopped_twice(
    database_url: str, complaints: list[dict[str, Any]]
) -> None:
    held = Held()

    async def node(state: State, runtime: Runtime[RunContext]) -> State:
        execution = held.arrive(runtime)
        await deaf(_until(execution.go))
        execution.ended.set()
        return {}

    async with serving(database_url, alone("deaf", node)) as engine:
        await engine.trigger()
        process = asyncio.create_task(engine.processor.process(await engine.claim()))
        execution = await held.next()
        process.cancel()
        # The word of the cancel has come, and now a heartbeat finds that the run is no longer ours.
        await asyncio.sleep(0)
        process.cancel()
        await asyncio.wait({process})
        gc.collect()
        assert await engine.abandoned_graphs() == 1
        execution.go.set()
        await happened(execution.ended)
        graphs = engine.processor.abandoned
        await asyncio.wait(set(graphs))
        assert await engine.abandoned_graphs() == 0
    assert complaints == []


async def test_an_error_of_a_graph_that_has_lost_its_run_is_retrieved_and_not_logged(
    database_url: str, complaints: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fenced(held: HeldRunRepository, *step: Any) -> int:
        raise Fenced

    monkeypatch.setattr(HeldRunRepository, "begin_step", fenced)
    async with serving(database_url, alone("held", Held().node)) as engine:
        await engine.trigger()
        await engine.processor.process(await engine.claim())
    gc.collect()
    assert complaints == []


async def _until(event: asyncio.Event) -> str:
    await event.wait()
    return ""
