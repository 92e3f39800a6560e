"""A client waits for many runs by one stream, and watches a campaign's, whatever becomes of its calls."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

from runengine.v1.run_pb2 import RunStatus
from runengine_client import RunEngineClient
from runengine_server.auth import development

from tests.support.own_worker import Engine, Held, chain, happened, serving
from tests.support.stack import Stack

MANY = 40  # more than the 16 streams that a caller may have
CANCELLED, COMPLETED = RunStatus.RUN_STATUS_CANCELLED, RunStatus.RUN_STATUS_COMPLETED


class ShortTokens:
    """Tokens that expire three seconds after they have been asked for."""

    def __init__(self, stack: Stack, organisation: str) -> None:
        self._stack, self._organisation = stack, organisation
        self._number = 0
        self.second = asyncio.Event()

    def __call__(self) -> str:
        self._number += 1
        if self._number >= 2:
            self.second.set()
        return development.sign(self._stack.state_dir, self._organisation, "user_test", 3)


async def test_more_waits_than_streams_are_granted_end_with_their_runs(
    stack: Stack, database_url: str
) -> None:
    held = Held()
    async with (
        serving(database_url, chain(held=held.node)) as engine,
        stack.client(stack.token(engine.tenant_id)) as client,
    ):
        run_ids = [await engine.trigger() for _ in range(MANY)]
        # Without a stream each would ask once a minute.
        waits = [asyncio.create_task(client.wait(run_id, poll=(60, 60))) for run_id in run_ids]
        await asyncio.gather(*(engine.cancel(run_id) for run_id in run_ids[: MANY // 2]))
        async with engine.working():
            for _ in range(MANY // 2):
                (await held.next()).go.set()
            ended = await asyncio.gather(*waits)
    assert [UUID(run.id) for run in ended] == run_ids
    assert [run.status for run in ended] == [CANCELLED] * (MANY // 2) + [COMPLETED] * (MANY // 2)


async def test_a_watch_of_a_campaign_goes_on_with_another_token(stack: Stack, engine: Engine) -> None:
    campaign_id = uuid4()
    tokens = ShortTokens(stack, engine.tenant_id)
    seen: list[str] = []

    async def watch() -> None:
        async with RunEngineClient(stack.grpc_address, tokens) as client:
            async for message in client.watch_campaign(campaign_id):
                if message.HasField("transition"):
                    seen.append(message.transition.event.reason)
                if seen[-1:] == ["COMPLETED"]:
                    return

    watching = asyncio.create_task(watch())
    await happened(tokens.second)
    await engine.cancel(await engine.trigger(campaign_id=campaign_id))
    await engine.trigger()  # of no campaign
    async with engine.working():
        await engine.trigger(campaign_id=campaign_id)
        await watching
    assert sorted(seen) == ["CANCELLED", "CLAIMED", "COMPLETED", "TRIGGERED", "TRIGGERED"]
