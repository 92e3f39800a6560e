"""Two callers want different things of one run at the same time: one wins, the other is told."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from runengine.v1.campaign_pb2 import CampaignStatus
from runengine.v1.run_pb2 import Run, RunStatus
from runengine_client import RunEngineClient, RunEngineError

from tests.support.gates import Gates
from tests.support.patience import SECONDS

ROUNDS = 20


async def outcome(call: Coroutine[Any, Any, Run]) -> str:
    try:
        return RunStatus.Name((await call).status).removeprefix("RUN_STATUS_")
    except RunEngineError as error:
        return error.reason


async def cancelled_run(client: RunEngineClient) -> Run:
    run = await client.trigger_run("unserved")
    return await client.cancel_run(run.id)


async def test_of_many_retries_at_once_one_wins(client: RunEngineClient) -> None:
    for _ in range(ROUNDS):
        run = await cancelled_run(client)
        outcomes = await asyncio.gather(*(outcome(client.retry_run(run.id)) for _ in range(4)))
        assert sorted(outcomes) == ["QUEUED", "RUN_ACTIVE", "RUN_ACTIVE", "RUN_ACTIVE"]
        assert (await client.get_run(run.id)).attempt == 2


async def test_a_retry_wins_against_a_cancel_at_the_same_time(client: RunEngineClient) -> None:
    for _ in range(ROUNDS):
        run = await cancelled_run(client)
        retried, cancelled = await asyncio.gather(
            outcome(client.retry_run(run.id)), outcome(client.cancel_run(run.id))
        )
        after = await client.get_run(run.id)
        # Cancel of a cancelled run changes nothing; so retry always wins, and cancel comes before or after.
        assert (retried, cancelled) == ("QUEUED", "CANCELLED")
        assert after.attempt == 2
        reasons = [event.reason for event in await client.list_run_events(run.id)]
        assert reasons[:3] == ["TRIGGERED", "CANCELLED", "RETRIED"]
        assert (after.status == RunStatus.RUN_STATUS_CANCELLED) == (reasons[3:] == ["CANCELLED"])


async def test_a_cancel_at_the_end_of_a_run_wins_or_is_refused_and_never_half(
    client: RunEngineClient, gates: Gates
) -> None:
    for _ in range(ROUNDS):
        campaign = await client.create_campaign()
        payload = {"gates": gates.path}
        run = await client.trigger_run("last-held", trigger_payload=payload, campaign_id=campaign.id)
        (await gates.next()).open()
        cancelled = await outcome(client.cancel_run(run.id))
        after = await client.wait(run.id, timeout_seconds=SECONDS)
        status = (await client.get_campaign(campaign.id)).status
        if cancelled == "CANCELLED":
            assert after.status == RunStatus.RUN_STATUS_CANCELLED
            assert status == CampaignStatus.CAMPAIGN_STATUS_DRAFT
        else:
            assert cancelled == "RUN_TERMINAL"
            assert after.status == RunStatus.RUN_STATUS_COMPLETED
            assert status == CampaignStatus.CAMPAIGN_STATUS_LIVE
        ends = [event.reason for event in await client.list_run_events(run.id)][2:]
        assert ends == [RunStatus.Name(after.status)[11:]]
        assert await outcome(client.cancel_run(run.id)) == cancelled
