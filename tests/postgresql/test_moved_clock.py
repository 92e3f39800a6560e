"""A database whose clock is set back, or forward, while runs are running."""

from __future__ import annotations

import asyncio
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from runengine_server.domain.run import RunStatus, whole_milliseconds
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.queue_repository import QueueRepository

from tests.support.leases import LEASE_ENDS
from tests.support.own_worker import (
    SECONDS,
    Engine,
    Held,
    Ran,
    State,
    chain,
    ended,
    events_of,
    happened,
    serving,
)
from tests.support.postgresql_servers import Server, postgresql
from tests.support.stack import open_directory

HOUR, LEASE_SECONDS = 3600, 30.0


class Clock:
    """That of the server: how many seconds it is ahead."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_bytes(bytes(8))
        file.chmod(0o644)

    def set(self, ahead: int) -> None:
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", ahead))


@pytest.fixture(scope="module")
async def moved(version: int) -> AsyncIterator[tuple[Server, Clock]]:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("needs cc")
    with open_directory() as directory, pytest.MonkeyPatch.context() as environment:
        library, clock = directory / "moved_clock.so", Clock(directory / "ahead")
        source = Path(__file__).with_name("moved_clock.c")
        subprocess.run(  # noqa: ASYNC221 - nothing else goes on
            [compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True
        )
        environment.setenv("LD_PRELOAD", str(library))
        environment.setenv("MOVED_CLOCK", str(directory / "ahead"))
        async with postgresql(version) as server:
            environment.undo()
            yield server, clock


@pytest.fixture
def server(moved: tuple[Server, Clock]) -> Server:
    return moved[0]


@pytest.fixture
def clock(moved: tuple[Server, Clock]) -> Clock:
    clock = moved[1]
    clock.set(0)
    return clock


async def lease_left(engine: Engine, run_id: UUID) -> float:
    row = await engine.tenant.fetchrow(
        f"SELECT extract(epoch FROM {LEASE_ENDS} - clock_timestamp())::float AS left FROM runs WHERE id = $1",
        run_id,
    )
    assert row is not None
    return float(row["left"])


async def test_nothing_takes_less_than_no_time_when_the_clock_goes_back(server: Server, clock: Clock) -> None:
    hours = iter(range(-1, -100, -1))

    async def goes_back(state: State) -> State:
        clock.set(next(hours) * HOUR)
        if state.get("fail"):
            raise ValueError("It is earlier now.")
        return {"seen": ["goes back"]}

    async with serving(server.url("app"), chain(one=goes_back, two=goes_back)) as engine:
        completed, failed = await engine.execute(), await engine.execute({"fail": True})
        cancelled = await engine.trigger()
        held = HeldRunRepository(engine.database, await engine.claim(), "worker:test")
        await held.begin_step(UUID(int=1), "one", "one", False)
        clock.set(next(hours) * HOUR)
        await engine.cancel(cancelled)
        for run_id in (completed.id, failed.id, cancelled):
            run = await engine.get(run_id)
            duration = whole_milliseconds(run.started_at, run.completed_at)
            assert duration is not None
            assert duration >= 0
            assert run.updated_at >= run.created_at
            steps = await engine.runs.list_steps(run_id, None)
            assert steps is not None
            assert all(
                step.started_at <= step.completed_at
                for step in steps
                if step.started_at and step.completed_at
            )
        events = await events_of(engine.runs, completed.id)
        assert [event.to_status for event in events] == ["queued", "running", "completed"]
        assert [event.at for event in events] == sorted(event.at for event in events)


async def test_a_run_whose_worker_is_lost_goes_on_a_lease_after_the_clock_went_back(
    server: Server, clock: Clock
) -> None:
    async with serving(server.url("app"), chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        await engine.claim()
        clock.set(-HOUR)
        assert await lease_left(engine, run_id) > HOUR
        # Who looks first gives it anew: its worker may live, and renew it.
        assert await engine.queue.claim_expired(1) == []
        assert LEASE_SECONDS - SECONDS < await lease_left(engine, run_id) <= LEASE_SECONDS
        clock.set(-HOUR + int(LEASE_SECONDS) + 1)
        (successor,) = await engine.queue.claim_expired(1)
        assert (successor.id, successor.losses) == (run_id, 1)
        assert (await engine.process(successor)).status is RunStatus.COMPLETED


async def test_workers_find_by_themselves_what_was_lost_before_the_clock_went_back(
    server: Server, clock: Clock
) -> None:
    async with serving(server.url("app"), chain(one=Ran().node("one")), lease_seconds=1) as engine:
        run_id = await engine.trigger()
        await engine.claim()
        clock.set(-HOUR)
        async with engine.working():
            # Within less than an hour.
            assert await ended(engine, run_id) is RunStatus.COMPLETED


async def test_a_pause_after_a_hand_back_is_not_longer_because_the_clock_went_back(
    server: Server, clock: Clock
) -> None:
    async with serving(server.url("app"), chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        await engine.queue.hand_back([await engine.claim()])
        await engine.queue.hand_back(await engine.queue.claim_expired(1))
        clock.set(-HOUR)
        assert await engine.queue.claim_expired(1) == []
        assert await lease_left(engine, run_id) <= 1


async def test_a_longer_lease_is_no_sign_of_a_clock_that_went_back(server: Server, clock: Clock) -> None:
    async with serving(server.url("app"), chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        await engine.claim()
        hasty = QueueRepository(engine.database, "worker:hasty", [engine.workflow], 1)
        for ahead in (0, -HOUR):
            clock.set(ahead)
            assert await hasty.claim_expired(1) == []
            assert await lease_left(engine, run_id) > 2


async def test_a_worker_that_lives_keeps_its_run_when_the_clock_goes_back(
    server: Server, clock: Clock
) -> None:
    held = Held()
    async with serving(server.url("app"), chain(held=held.node), lease_seconds=3) as engine:
        run_id = await engine.trigger()
        async with engine.working():
            execution = await held.next()
            clock.set(-HOUR)
            async with asyncio.timeout(SECONDS):
                while await lease_left(engine, run_id) > 3:  # noqa: ASYNC110 - until it was renewed
                    await asyncio.sleep(0.01)
            execution.go.set()
            assert await ended(engine, run_id) is RunStatus.COMPLETED
        assert await engine.executions(run_id) == ["held 1 completed"]


async def test_a_clock_that_goes_forward_costs_a_run_one_worker_at_most(server: Server, clock: Clock) -> None:
    held = Held()
    async with serving(server.url("app"), chain(held=held.node), lease_seconds=LEASE_SECONDS) as engine:
        run_id = await engine.trigger()
        async with engine.working():
            before = await held.next()
            clock.set(HOUR)
            async with serving(server.url("app"), chain(held=held.node)) as other:
                other.workflow, other.tenant_id = engine.workflow, engine.tenant_id
                queue = QueueRepository(other.database, "worker:other", [engine.workflow], LEASE_SECONDS)
                taken: list[Any] = []
                async with asyncio.timeout(SECONDS):
                    while not taken and await lease_left(engine, run_id) < 0:
                        taken = await queue.claim_expired(1)
                if taken:
                    again = asyncio.create_task(engine.process(taken[0]))
                    (await held.next()).go.set()
                    assert (await again).status is RunStatus.COMPLETED
                    await happened(before.ended)
                before.go.set()
                assert await ended(engine, run_id) is RunStatus.COMPLETED
        assert await engine.losses(run_id) <= 1
