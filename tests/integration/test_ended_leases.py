"""No node is entered once the lease of its run has ended."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine_server.domain.run import ClaimedRun, RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.worker.heartbeat import Heartbeat
from runengine_server.worker.node_threads import NodeThreads

from tests.support.clock import Clock
from tests.support.own_worker import LEASE_SECONDS, SECONDS, State, chain, ended, serving, until


async def test_a_node_is_not_entered_once_the_lease_has_ended_while_its_begin_was_under_way(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the process had been stopped for so long after it had asked."""
    clock, begun, entered = Clock(), list[int](), list[int]()
    begin = HeldRunRepository.begin_step

    async def begin_late(held: HeldRunRepository, *arguments: Any) -> int:
        attempt = await begin(held, *arguments)
        begun.append(held.run.epoch)
        clock.ahead = LEASE_SECONDS if len(begun) == 1 else 0
        return attempt

    async def node(state: State, runtime: Runtime[RunContext]) -> State:
        entered.append(begun[-1])
        return {}

    monkeypatch.setattr(HeldRunRepository, "begin_step", begin_late)
    monkeypatch.setattr("runengine_server.worker.heartbeat.time", clock)
    async with serving(database_url, chain(node=node)) as engine:
        run_id = await engine.trigger()
        async with engine.working():
            assert await ended(engine, run_id) is RunStatus.COMPLETED
        assert (begun, entered) == ([1, 2], [2])
        # It was handed back, for it was not lost.
        assert await engine.losses(run_id) == 0


async def test_a_sync_node_that_waited_for_its_thread_until_the_lease_had_ended_is_not_entered(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, begun, entered, loop = Clock(), list[int](), list[int](), asyncio.get_running_loop()
    there, go, asked = threading.Event(), threading.Event(), threading.Event()
    holds = Heartbeat.holds_lease

    def ask(heartbeat: Heartbeat, run: ClaimedRun) -> bool:
        answer = holds(heartbeat, run)
        if threading.current_thread().name == "node":
            asked.set()
        return answer

    async def never(heartbeat: Heartbeat) -> None:
        await asyncio.Event().wait()

    def occupy() -> None:
        there.set()
        go.wait(SECONDS)

    def node(state: State) -> State:
        entered.append(begun[-1])
        return {}

    begin = HeldRunRepository.begin_step

    async def begin_and_tell(held: HeldRunRepository, *arguments: Any) -> int:
        attempt = await begin(held, *arguments)
        begun.append(held.run.epoch)
        return attempt

    monkeypatch.setattr(HeldRunRepository, "begin_step", begin_and_tell)
    monkeypatch.setattr(Heartbeat, "holds_lease", ask)
    # It would see it too, sooner or later.
    monkeypatch.setattr(Heartbeat, "watch_leases", never)
    monkeypatch.setattr("runengine_server.worker.heartbeat.time", clock)
    before = loop._default_executor  # type: ignore[attr-defined]
    threads = NodeThreads(1, lambda: None)
    loop.set_default_executor(threads)
    try:
        async with serving(database_url, chain(node=node)) as engine:
            occupying = asyncio.ensure_future(asyncio.to_thread(occupy))
            await until(lambda: asyncio.sleep(0, there.is_set()), bool)
            run_id = await engine.trigger()
            async with engine.working():
                await until(lambda: asyncio.sleep(0, threads.waiting), lambda waiting: waiting == 1)
                clock.ahead = LEASE_SECONDS
                go.set()
                await until(lambda: asyncio.sleep(0, asked.is_set()), bool)
                clock.ahead = 0
                assert await ended(engine, run_id) is RunStatus.COMPLETED
            # It was handed back, and entered by who claimed it then.
            assert len(entered) == 1
            assert entered[0] > begun[0] == 1
            await occupying
    finally:
        go.set()
        loop._default_executor = before  # type: ignore[attr-defined]
