"""Progress is bounded, fenced and of one tenant, on each part of its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from runengine_server.database.channels import channel_of_watcher
from runengine_server.domain.changes import Scope
from runengine_server.domain.progress import Progress, ProgressEvent, ProgressKind, decode_payload
from runengine_server.domain.run import ClaimedRun
from runengine_server.repositories.progress_repository import Notification, ProgressRepository
from runengine_server.rpc.run_watch import MAX_WAITING, RunWatch
from runengine_server.worker import progress as of_worker
from runengine_server.worker.progress import ProgressOutbox, RunProgress

from tests.support.own_worker import Engine, until
from tests.support.patience import SECONDS

EVENT = ProgressEvent(ProgressKind.CUSTOM, data=b"1")


class Reader:
    """A process that watches, and what has come to it."""

    def __init__(self, engine: Engine) -> None:
        self.id = uuid4()
        self.channel = channel_of_watcher(self.id)
        self.payloads: asyncio.Queue[str] = asyncio.Queue()
        self._engine = engine

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Reader]:
        database = self._engine.database
        async with database.listening_connection(
            lambda _, payload: self.payloads.put_nowait(payload), self.channel
        ) as self._connection:
            yield self

    def watches(self, *run_ids: UUID) -> str:
        """What it says to workers."""
        return " ".join(map(str, (self.id, *run_ids)))

    async def come(self) -> list[str]:
        """All that was sent until now."""
        await self._connection.ensure_listening(SECONDS)
        return [self.payloads.get_nowait() for _ in range(self.payloads.qsize())]


def outbox_of(engine: Engine) -> ProgressOutbox:
    return ProgressOutbox(ProgressRepository(engine.database.dispatch()))


def numbers(payloads: list[str]) -> list[int]:
    return [number for payload in payloads for number, _ in decode_payload(payload).events]


async def claimed(engine: Engine) -> ClaimedRun:
    await engine.trigger()
    return await engine.claim()


async def test_nothing_is_sent_for_a_run_that_another_holds_or_that_has_ended(engine: Engine) -> None:
    repository = ProgressRepository(engine.database.dispatch())
    run = await claimed(engine)
    successor = await engine.take_over(run.id)
    other = await claimed(engine)
    await engine.process(other)
    others = replace(successor, tenant_id="org_other")
    async with Reader(engine).listening() as reader:
        sent = [("zombie", run), ("one", successor), ("ended", other), ("others", others), ("two", successor)]
        await repository.send([Notification(each, reader.channel, word) for word, each in sent])
        assert await reader.come() == ["one", "two"]


async def test_a_zombie_tells_nobody_what_a_reader_takes_for_the_successors(engine: Engine) -> None:
    run = await claimed(engine)
    async with Reader(engine).listening() as reader:
        zombie, outbox = outbox_of(engine), outbox_of(engine)
        told = zombie.open(run)
        zombie.on_watched(reader.watches(run.id))
        told.tell(lambda: EVENT)
        await zombie.flush(told)
        assert numbers(await reader.come()) == [1]
        successor = await engine.take_over(run.id)
        tells = outbox.open(successor)
        outbox.on_watched(reader.watches(run.id))
        tells.tell(lambda: EVENT)
        await outbox.flush(tells)
        told.tell(lambda: EVENT)
        await zombie.flush(told)
        assert [decode_payload(each).epoch for each in await reader.come()] == [successor.epoch]


RUN = uuid4()


def progress(tenant_id: str, epoch: int, *numbers: int, event: ProgressEvent = EVENT) -> Progress:
    return Progress(tenant_id, RUN, epoch, 1, [(number, event) for number in numbers])


def taken(watch: RunWatch) -> list[tuple[int, int, int]]:
    return [(each.epoch, each.number, each.dropped) for each in watch.take_progress()]


def test_a_reader_takes_nothing_of_an_older_epoch_or_of_another_tenant() -> None:
    watch = RunWatch(Scope("org_one", RUN))
    watch.add_progress(progress("org_one", 1, 1))
    watch.add_progress(progress("org_two", 2, 2))
    watch.add_progress(progress("org_one", 2, 1))
    watch.add_progress(progress("org_one", 1, 2))
    watch.know(RUN, 3)
    watch.add_progress(progress("org_one", 2, 2))
    watch.add_progress(progress("org_one", 3, 1))
    assert taken(watch) == [(1, 1, 0), (2, 1, 0), (3, 1, 0)]


def test_a_reader_that_is_slow_learns_how_much_it_does_not_get() -> None:
    watch = RunWatch(Scope("org", RUN))
    for number in range(1, 10 * MAX_WAITING + 1):
        watch.add_progress(progress("org", 1, number))
    assert taken(watch) == [
        *((1, number, 0) for number in range(1, MAX_WAITING + 1)),
        (1, 10 * MAX_WAITING, 9 * MAX_WAITING),
    ]
    watch.add_progress(progress("org", 1, 10 * MAX_WAITING + 3))
    assert taken(watch) == [(1, 10 * MAX_WAITING + 3, 2)]


def test_a_reader_that_is_slow_keeps_a_bounded_number_of_bytes() -> None:
    watch = RunWatch(Scope("org", RUN))
    large = ProgressEvent(ProgressKind.CUSTOM, data=b"1" * 4000)
    for number in range(1, 1001):
        watch.add_progress(progress("org", 1, number, event=large))
    events = list(watch.take_progress())
    assert sum(len(each.data) for each in events) < 256 * 1024 + 4000 + 4
    assert events[-1].dropped == 1000 - len(events) + 1


def tell(told: RunProgress, count: int, size: int = 1) -> None:
    for _ in range(count):
        told.tell(lambda: ProgressEvent(ProgressKind.CUSTOM, data=b"1" * size))


async def test_a_flood_waits_for_nothing_and_keeps_a_bounded_number_of_events(engine: Engine) -> None:
    run = await claimed(engine)
    async with Reader(engine).listening() as reader:
        outbox = outbox_of(engine)
        told = outbox.open(run)
        outbox.on_watched(reader.watches(run.id))
        tell(told, 100_000)
        assert len(told.waiting) == of_worker.MAX_WAITING
        await outbox.flush(told)
        assert numbers(await reader.come()) == [*range(1, of_worker.MAX_WAITING + 1), 100_000]


async def test_the_runs_of_a_worker_together_keep_a_bounded_number_of_bytes(engine: Engine) -> None:
    run = await claimed(engine)
    outbox = outbox_of(engine)
    told = [outbox.open(replace(run, id=uuid4())) for _ in range(100)]
    for each in told:
        tell(each, of_worker.MAX_WAITING, 4000)
    waiting = sum(len(encoded) for each in told for _, encoded in each.waiting)
    assert 1 << 20 <= waiting < (1 << 20) + 4096


async def test_events_are_dropped_while_the_database_does_not_respond(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_worker, "FAILED_SECONDS", 0)
    run = await claimed(engine)
    async with Reader(engine).listening() as reader:
        real = ProgressRepository.send
        failures = [OSError()] * 3

        async def fail(self: ProgressRepository, notifications: list[Notification]) -> None:
            if failures:
                raise failures.pop()
            await real(self, notifications)

        monkeypatch.setattr(ProgressRepository, "send", fail)
        outbox = outbox_of(engine)
        told = outbox.open(run)
        outbox.on_watched(reader.watches(run.id))
        tell(told, 2)
        payload = await asyncio.wait_for(reader.payloads.get(), SECONDS)
        assert [(number, event.kind) for number, event in decode_payload(payload).events] == [
            (2, ProgressKind.DROPPED)
        ]


async def test_a_run_is_watched_until_nobody_says_so_any_more(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_worker, "WATCHED_SECONDS", 0.01)
    run = await claimed(engine)
    outbox = outbox_of(engine)
    reader = Reader(engine)
    outbox.on_watched(reader.watches(run.id))
    told = outbox.open(run)
    assert told.watchers == (reader.channel,)

    async def watchers() -> tuple[str, ...]:
        await asyncio.sleep(0)
        return told.watchers

    await until(watchers, lambda found: not found)
    outbox.on_watched(reader.watches(run.id))
    assert told.watchers
    outbox.close(told)
    assert not told.watchers
