"""Schedules: each firing triggers one run, whatever servers there are, and as the run before allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import httpx
import pytest
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.background.schedule_runner import ScheduleRunner
from runengine_server.commands.schedules import create_schedule, fire
from runengine_server.domain.errors import InvalidArgument
from runengine_server.domain.run import RunStatus
from runengine_server.domain.schedule import Overlap, Schedule, Timetable
from runengine_server.repositories.schedule_repository import ScheduleRepository
from runengine_server.rpc.call_metadata import idempotency_key

from tests.support.own_database import own_database
from tests.support.own_worker import Engine, Ran, chain, events_of, serving

EVERY_FIVE_MINUTES = Timetable("*/5 * * * *", "UTC")
DUE = "UPDATE schedules SET due_at = now() - interval '1 s', next_at = $1"
RUNS = "SELECT id FROM runs WHERE tenant_id = $1 ORDER BY created_at, id"


class Place:
    """A tenant, and servers that fire its schedules when they are told to, by a clock of the test's."""

    def __init__(self, engine: Engine, superuser: asyncpg.Connection) -> None:
        self.engine, self.superuser = engine, superuser
        self.schedules = ScheduleRepository(engine.tenant)
        self.now = datetime.now(UTC)
        self.runner = self.server()

    def server(self, queued_limit: int | None = None) -> ScheduleRunner:
        return ScheduleRunner(self.engine.database, queued_limit, lambda: (), now=lambda: self.now)

    async def create(
        self, overlap: Overlap = Overlap.SKIP, *, workflow: str | None = None, is_paused: bool = False
    ) -> Schedule:
        request = TriggerRunRequest(workflow_name=workflow or self.engine.workflow)
        return await create_schedule(self.schedules, EVERY_FIVE_MINUTES, request, overlap, is_paused)

    async def get(self, schedule: Schedule) -> Schedule:
        found = await self.schedules.get(schedule.id)
        assert found is not None
        return found

    async def make_due(self) -> datetime:
        """Lets it be the time of the next firing, and returns that."""
        firing = EVERY_FIVE_MINUTES.after(self.now)
        self.now = firing
        await self.superuser.execute(DUE, firing)
        return firing

    async def fire(self) -> datetime:
        firing = await self.make_due()
        await self.runner.fire_due()
        return firing

    async def runs(self) -> Sequence[UUID]:
        return [row["id"] for row in await self.superuser.fetch(RUNS, self.engine.tenant_id)]

    async def statuses(self) -> list[RunStatus]:
        return [(await self.engine.get(run_id)).status for run_id in await self.runs()]


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with (
        own_database() as (url, superuser),
        serving(url, chain(one=Ran().node("one"))) as engine,
    ):
        yield Place(engine, superuser)


async def test_a_firing_triggers_one_run_however_many_servers_there_are(place: Place) -> None:
    schedule = await place.create()
    firing = await place.make_due()
    await asyncio.gather(*(place.server().fire_due() for _ in range(6)))
    (run_id,) = await place.runs()
    fired = await place.get(schedule)
    assert (fired.last_at, fired.last_run_id, fired.note) == (firing, run_id, None)
    assert fired.next_at == firing + timedelta(minutes=5)
    (triggered,) = await events_of(place.engine.runs, run_id)
    assert triggered.actor == f"schedule:{schedule.id}"


async def test_a_server_that_is_lost_in_the_middle_leaves_one_run(place: Place) -> None:
    schedule = await place.create()
    await place.make_due()
    claimed = await place.schedules.claim(schedule.id, 0)
    assert claimed is not None
    before = "UPDATE schedules SET next_at = $1, last_at = NULL, last_run_id = NULL"
    await fire(place.schedules, place.engine.runs, claimed, None, (), place.now)
    await place.superuser.execute(before, claimed.next_at)
    await fire(place.schedules, place.engine.runs, claimed, None, (), place.now)
    assert await place.runs() == [(await place.get(schedule)).last_run_id]


async def test_the_key_of_a_firing_is_none_that_a_caller_can_send(place: Place) -> None:
    await place.create()
    await place.fire()
    key = await place.superuser.fetchval("SELECT key FROM idempotency_keys")
    with pytest.raises(InvalidArgument):
        idempotency_key([("idempotency-key", key)], TriggerRunRequest())


async def test_the_latest_of_missed_firings_is_made_up_for(place: Place) -> None:
    schedule = await place.create()
    missed = await place.make_due()
    place.now += timedelta(days=3, minutes=1)
    await place.runner.fire_due()
    assert len(await place.runs()) == 1
    fired = await place.get(schedule)
    assert fired.last_at == missed + timedelta(days=3)
    assert fired.next_at == missed + timedelta(days=3, minutes=5)


async def test_a_firing_is_skipped_while_the_run_before_has_not_ended(place: Place) -> None:
    schedule = await place.create(Overlap.SKIP)
    await place.fire()
    firing = await place.fire()
    (run_id,) = await place.runs()
    skipped = await place.get(schedule)
    assert skipped.last_at == firing
    assert skipped.note == f"The run {run_id} had not ended."
    await place.engine.process(await place.engine.claim())
    await place.fire()
    assert len(await place.runs()) == 2


async def test_a_firing_that_is_queued_waits_for_the_run_before(place: Place) -> None:
    schedule = await place.create(Overlap.QUEUE)
    await place.fire()
    firing = await place.fire()
    (run_id,) = await place.runs()
    waiting = await place.get(schedule)
    assert (waiting.next_at, waiting.note) == (firing, f"It waits for the run {run_id} to end.")
    await place.engine.process(await place.engine.claim())
    await place.superuser.execute("UPDATE schedules SET due_at = now() - interval '1 s'")
    await place.runner.fire_due()
    assert (await place.get(schedule)).last_at == firing
    assert await place.statuses() == [RunStatus.COMPLETED, RunStatus.QUEUED]


async def test_a_firing_may_cancel_the_run_before(place: Place) -> None:
    await place.create(Overlap.CANCEL)
    await place.fire()
    await place.fire()
    assert await place.statuses() == [RunStatus.CANCELLED, RunStatus.QUEUED]


async def test_a_firing_that_is_refused_waits_until_it_is_not(place: Place) -> None:
    schedule = await place.create(workflow="to-come")
    await place.fire()
    refused = await place.get(schedule)
    assert refused.note == "It is refused: workflow_name is not the name of a registered workflow."
    await place.superuser.execute("INSERT INTO workflows (name) VALUES ('to-come')")
    await place.fire()
    assert len(await place.runs()) == 1
    place.runner = place.server(queued_limit=1)
    await place.create(workflow="to-come")
    await place.make_due()
    await place.runner.fire_due()
    assert len(await place.runs()) == 1


async def test_a_paused_schedule_does_not_fire(place: Place) -> None:
    schedule = await place.create(is_paused=True)
    assert schedule.next_at is None
    assert await place.runner.fire_due() == 0


async def test_a_schedule_is_created_changed_and_deleted_over_rest(rest: httpx.AsyncClient) -> None:
    body = {"cron": "30 2 * * *", "timeZone": "Europe/Berlin", "workflowName": "nothing", "context": {"a": 1}}
    created = (await rest.post("/schedules", json=body)).json()
    assert created["overlap"] == "skip"
    assert len(created["nextFirings"]) == 5
    path = f"/schedules/{created['id']}"
    changed = (await rest.patch(path, json={"paused": True, "overlap": "queue", "context": {"b": 2}})).json()
    assert (changed["nextFirings"], changed["paused"], changed["overlap"]) == ([], True, "queue")
    assert (changed["context"], changed["cron"]) == ({"b": 2}, "30 2 * * *")
    assert (await rest.get("/schedules")).json()["schedules"] == [changed]
    assert (await rest.delete(path)).json() == changed
    assert (await rest.get(path)).json()["reason"] == "SCHEDULE_NOT_FOUND"
    refused = await rest.post(
        "/schedules", json={"cron": "0 25 * * *", "timeZone": "Berlin", "workflowName": "x"}
    )
    assert [each["field"] for each in refused.json()["violations"]] == ["cron", "timeZone"]
