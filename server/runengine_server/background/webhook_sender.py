"""Sends the webhooks of all tenants, while the process serves."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from uuid import UUID

import structlog

from runengine_server.background.name_lookup import NameLookup
from runengine_server.background.webhook_post import Response, WebhookClient
from runengine_server.database.database import Database
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.webhook import ClaimedDelivery, UrlRules, retry_seconds
from runengine_server.repositories.webhook_repository import (
    Attempt,
    DueEndpoint,
    WebhookRepository,
    due_endpoints,
)

# How often a server looks for what is due, and the pause when it cannot.
POLL_SECONDS = 1.0
_ERROR_SECONDS = 5.0

# How many transitions become deliveries in one transaction.
_MOST_READ = 500
# How many deliveries to one endpoint are under way at a time; of one in the slow lane one is.
_BATCH = 8
# How long an endpoint keeps its place among those that are sent to, while it has more.
_TURN_SECONDS = 2.0
# How many endpoints of a lane are sent to at a time; and when one is in the slow lane.
_LANE = 32
_SLOW_SECONDS = 1.0
# Beyond so many, most of them deleted ones, all count as fast again.
_MOST_SLOW = 10_000
# Of the process's 16 connections, callers have the others.
_CONNECTIONS = 4
# A delivery belongs to the process that sends it for so much longer than an attempt may take.
_SPARE_SECONDS = 20.0

_GONE = "The endpoint has responded with 410 Gone, by which it wants no more."

_log = structlog.get_logger()


class _Lane:
    """Room for endpoints of one kind, and for lookups of their names: who is slow waits for its like."""

    def __init__(self, name: str, batch: int) -> None:
        self.batch = batch
        self.places = asyncio.Semaphore(_LANE)
        self.names = NameLookup(f"webhooks-{name}", _LANE)


class WebhookSender:
    """Sends to each endpoint what it has not got. Any number of servers may do so: reading the log locks the
    endpoint, and a delivery belongs to whoever has claimed it until its claim ends, so that another one sends
    it when the process does not come to an end with it.

    An endpoint whose last attempt has failed, or took more than a second, is in the slow lane, so that the
    others never wait for it.
    """

    def __init__(
        self,
        database: Database,
        rules: UrlRules,
        timeout_seconds: float,
        *,
        retry_seconds: Callable[[int], float | None] = retry_seconds,
        spare_seconds: float = _SPARE_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """`timeout_seconds` is how long an attempt may take, `retry_seconds` the pause after so many."""
        self._database = database
        self._rules, self._timeout_seconds = rules, timeout_seconds
        self._lease_seconds = timeout_seconds + spare_seconds
        self._retry_seconds, self._poll_seconds = retry_seconds, poll_seconds
        self._fast, self._slow = _Lane("fast", _BATCH), _Lane("slow", 1)
        self._is_slow: set[UUID] = set()
        self._connections = asyncio.Semaphore(_CONNECTIONS)
        self._sending: dict[UUID, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Goes on until it is stopped or cancelled."""
        async with WebhookClient(self._rules, self._timeout_seconds) as client:
            try:
                while not self._stopping.is_set():
                    await self._pause(await self._start_due(client))
                # What is under way may end: otherwise it comes again when its claim ends.
                await asyncio.gather(*self._sending.values())
            finally:
                for task in self._sending.values():
                    task.cancel()
                await asyncio.gather(*self._sending.values(), return_exceptions=True)

    def stop(self) -> None:
        """Begins nothing more: run() returns once what is under way has ended."""
        self._stopping.set()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _start_due(self, client: WebhookClient) -> float:
        """Returns for how long to wait, in seconds."""
        try:
            async with self._connections:
                due = await due_endpoints(self._database)
        except Unavailable:
            return _ERROR_SECONDS  # what watches the database logs it
        except Exception as error:
            _log.error("cannot see which webhooks are due", exc_info=error)
            return _ERROR_SECONDS
        for endpoint in due:
            if endpoint.id not in self._sending:
                task = asyncio.create_task(self._serve(client, endpoint), name="webhooks of an endpoint")
                self._sending[endpoint.id] = task
                task.add_done_callback(partial(self._forget, endpoint.id))
        return self._poll_seconds

    def _forget(self, endpoint_id: UUID, _: asyncio.Task[None]) -> None:
        del self._sending[endpoint_id]

    async def _serve(self, client: WebhookClient, endpoint: DueEndpoint) -> None:
        webhooks = WebhookRepository(self._database.tenant(endpoint.tenant_id))
        try:
            has_more = endpoint.has_unread
            while has_more and not self._stopping.is_set():
                async with self._connections:
                    has_more = await webhooks.read_events(endpoint.id, _MOST_READ)
            lane = self._slow if endpoint.id in self._is_slow else self._fast
            async with lane.places:
                await self._send_due(client, endpoint.id, webhooks, lane)
        except Unavailable:
            pass  # what watches the database logs it; a claim ends by itself
        except Exception as error:
            _log.error("webhooks do not go on", endpoint=str(endpoint.id), exc_info=error)
            await self._pause(_ERROR_SECONDS)

    async def _send_due(
        self, client: WebhookClient, endpoint_id: UUID, webhooks: WebhookRepository, lane: _Lane
    ) -> None:
        until = time.monotonic() + _TURN_SECONDS
        while time.monotonic() < until and not self._stopping.is_set():
            async with self._connections:
                claimed = await webhooks.claim(endpoint_id, lane.batch, self._lease_seconds)
            if not claimed:
                return
            begun = time.monotonic()
            responses = await asyncio.gather(*(client.post(each, lane.names) for each in claimed))
            seconds = time.monotonic() - begun
            for delivery, response in zip(claimed, responses, strict=True):
                async with self._connections:
                    await webhooks.record(endpoint_id, delivery, self._judged(delivery, response))
            if seconds > _SLOW_SECONDS or any(response.error for response in responses):
                if len(self._is_slow) >= _MOST_SLOW:
                    self._is_slow.clear()
                self._is_slow.add(endpoint_id)
                if lane is self._fast:
                    return
            else:
                self._is_slow.discard(endpoint_id)

    def _judged(self, delivery: ClaimedDelivery, response: Response) -> Attempt:
        if response.error is None:
            return Attempt(response.status)
        if response.status == 410:
            return Attempt(response.status, response.error, None, _GONE)
        pause = self._retry_seconds(delivery.attempts)
        if pause is not None:
            # With jitter, or all that has failed together would come again together.
            pause = max(pause * random.uniform(0.8, 1.2), response.retry_after or 0)
        return Attempt(response.status, response.error, pause)
