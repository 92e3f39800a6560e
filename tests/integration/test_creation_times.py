"""A row has one time when it was created, in all its columns."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.commands.schedules import create_schedule
from runengine_server.commands.webhooks import create_endpoint
from runengine_server.domain.schedule import Overlap, Timetable
from runengine_server.repositories.campaign_repository import CampaignRepository
from runengine_server.repositories.schedule_repository import ScheduleRepository
from runengine_server.repositories.webhook_repository import WebhookRepository

from tests.support.own_database import own_database
from tests.support.own_worker import Ran, chain, serving

# Each call is a millisecond later than the one before.
CLOCK = """
CREATE SEQUENCE public.milliseconds;
GRANT USAGE ON public.milliseconds TO runengine_app;
CREATE OR REPLACE FUNCTION public.now_ms() RETURNS timestamptz LANGUAGE sql VOLATILE
    RETURN '2026-01-01T00:00Z'::timestamptz + nextval('public.milliseconds') * interval '1 millisecond';
"""


async def test_a_new_row_was_changed_last_when_it_was_created() -> None:
    async with own_database() as (url, superuser):
        await superuser.execute(CLOCK)
        async with serving(url, chain(one=Ran().node("one"))) as engine:
            run = await engine.get(await engine.trigger())
            campaign = await CampaignRepository(engine.tenant).insert(uuid4())
            endpoint = await create_endpoint(
                WebhookRepository(engine.tenant), "https://example.com", (), False
            )
            schedule = await create_schedule(
                ScheduleRepository(engine.tenant), Timetable("0 9 * * *", "UTC"),
                TriggerRunRequest(workflow_name=engine.workflow), Overlap.SKIP, False,
            )  # fmt: skip
            queued_at: datetime = await superuser.fetchval("SELECT queued_at FROM runs")
    assert run.created_at == run.updated_at == queued_at
    for row in (campaign, endpoint, schedule):
        assert row.created_at == row.updated_at
