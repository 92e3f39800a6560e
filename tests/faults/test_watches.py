"""Twenty people watch a campaign of two hundred runs while servers and gateways are started again."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import orjson
from runengine.v1.run_pb2 import RunStatus, StepStatus
from runengine.v1.watch_runs_pb2 import WatchRunsResponse
from runengine_client import RunEngineClient, Unavailable
from runengine_server.auth import development

from tests.support.patience import SECONDS
from tests.support.stack import Stack

RUNS, CLIENTS, BROWSERS = 200, 10, 10
ENDED = ("completed", "failed", "cancelled")
LOGGED = """SELECT run_id, what, status FROM (
    SELECT run_id, 'run' AS what, to_status AS status, seq FROM run_events WHERE tenant_id = $1
    UNION ALL SELECT run_id, id || ' ' || attempt, status, seq FROM step_events WHERE tenant_id = $1
) AS logged ORDER BY seq"""

Seen = tuple[str, str, str]


def seen(response: WatchRunsResponse) -> Seen | None:
    """The run, what of it has changed, and to which status; None for what is no transition."""
    if response.HasField("transition"):
        status = RunStatus.Name(response.transition.event.to_status)
        return response.transition.run_id, "run", status.removeprefix("RUN_STATUS_").lower()
    if response.HasField("step_transition"):
        step = response.step_transition.step
        status = StepStatus.Name(step.status).removeprefix("STEP_STATUS_").lower()
        return response.step_transition.run_id, f"{step.id} {step.attempt}", status
    return None


def seen_over_rest(event: str, data: dict[str, Any]) -> Seen | None:
    """As seen, of a Server-Sent Event."""
    if event == "transition":
        return data["runId"], "run", data["event"]["toStatus"]
    if event == "stepTransition":
        return data["runId"], f"{data['step']['id']} {data['step']['attempt']}", data["step"]["status"]
    return None


class Watcher:
    """What one of them has seen, until all runs have ended."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()
        self.seen: list[Seen] = []
        self._ended = 0

    def note(self, transition: Seen | None) -> bool:
        """Whether it was the last one."""
        if transition is not None:
            self.seen.append(transition)
            self._ended += transition[1] == "run" and transition[2] in ENDED
        return self._ended == RUNS

    async def by_client(self, client: RunEngineClient, campaign_id: UUID) -> None:
        async for response in client.watch_campaign(campaign_id, snapshot_limit=0):
            self.has_begun.set()
            if self.note(seen(response)):
                return

    async def by_browser(self, rest: httpx.AsyncClient, campaign_id: UUID) -> None:
        """As a page does that has nothing but fetch: comes again with the last id."""
        last: dict[str, str] = {}
        while True:
            try:
                async for event in _events(rest, campaign_id, last):
                    self.has_begun.set()
                    if "id" in event:
                        last = {"last-event-id": event["id"]}
                    if self.note(seen_over_rest(event["event"], orjson.loads(event["data"]))):
                        return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.1)


async def _events(
    rest: httpx.AsyncClient, campaign_id: UUID, headers: dict[str, str]
) -> AsyncIterator[dict[str, str]]:
    path = f"/campaigns/{campaign_id}/runs/watch?snapshotLimit=0"
    async with rest.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200
        event: dict[str, str] = {}
        async for line in response.aiter_lines():
            if not line and "data" in event:
                yield event
            name, _, value = line.partition(": ")
            event = {**event, name: value} if line else {}


def by_run(transitions: Iterable[Seen]) -> dict[str, list[Seen]]:
    found = defaultdict(list)
    for each in transitions:
        found[each[0]].append(each)
    return dict(found)


async def triggered(client: RunEngineClient, campaign_id: UUID) -> None:
    """Once, however often the server is away."""
    key = str(uuid4())
    while True:
        try:
            await client.trigger_run("everything", campaign_id=campaign_id, idempotency_key=key)
        except Unavailable:
            await asyncio.sleep(0.1)
        else:
            return


async def test_watchers_see_what_the_tables_have_whatever_is_started_again(
    database_url: str, state_dir: Path, database: asyncpg.Connection
) -> None:
    stack, campaign_id, tenant_id = Stack(database_url, state_dir), uuid4(), f"org_{uuid4().hex}"
    watchers = [Watcher() for _ in range(CLIENTS + BROWSERS)]

    def token(number: int) -> str:
        return development.sign(state_dir, tenant_id, f"user_{number}", 3600)

    async with AsyncExitStack() as exits, asyncio.timeout(SECONDS * 4), asyncio.TaskGroup() as group:
        exits.push_async_callback(stack.stop)
        (serve,) = await stack.start("serve")
        (gateway,) = await stack.start("gateway")
        await stack.start("worker")
        for number, watcher in enumerate(watchers):
            if number < CLIENTS:
                client = await exits.enter_async_context(stack.client(token(number)))
                reading = watcher.by_client(client, campaign_id)
            else:
                page = await exits.enter_async_context(stack.rest(token(number)))
                reading = watcher.by_browser(page, campaign_id)
            group.create_task(reading)
        await asyncio.gather(*(each.has_begun.wait() for each in watchers))
        for started_again in ("serve", "gateway", "serve", "gateway"):
            async with stack.client(token(0)) as client:
                await asyncio.gather(*(triggered(client, campaign_id) for _ in range(RUNS // 4)))
            if started_again == "serve":
                await serve.stop()
                (serve,) = await stack.start("serve")
            else:
                await gateway.stop()
                (gateway,) = await stack.start("gateway")
    rows = await database.fetch(LOGGED, tenant_id)
    expected = [(str(run_id), what, status) for run_id, what, status in rows]
    for watcher in watchers:
        assert Counter(watcher.seen) == Counter(expected)
        assert by_run(watcher.seen) == by_run(expected)
