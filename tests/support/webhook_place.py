"""A database for which no server sends webhooks but those of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from uuid import uuid4

import asyncpg
from runengine_server.background.webhook_sender import WebhookSender
from runengine_server.commands.webhooks import create_endpoint
from runengine_server.domain.webhook import DeliveryStatus, UrlRules, WebhookDelivery, WebhookEndpoint
from runengine_server.repositories.webhook_repository import WebhookRepository

from tests.support.background import in_background
from tests.support.own_worker import Engine, until

ANY_URL = UrlRules(allows_http=True, allows_private=True)
AT_ONCE: Callable[[int], float | None] = lambda attempts: 0.0  # noqa: E731
ONCE: Callable[[int], float | None] = lambda attempts: None  # noqa: E731


class Place:
    """A database for which no server sends but those of the test."""

    def __init__(self, url: str, superuser: asyncpg.Connection, engine: Engine) -> None:
        self.url, self.superuser, self.engine = url, superuser, engine
        self.webhooks = WebhookRepository(engine.tenant)

    async def endpoint(self, url: str, *events: str) -> WebhookEndpoint:
        return await create_endpoint(self.webhooks, url, events, False)

    async def deliveries(self, endpoint: WebhookEndpoint) -> Sequence[WebhookDelivery]:
        """The most recent transition first."""
        return await self.webhooks.list_deliveries(endpoint.id, list(DeliveryStatus), 2**63 - 1, 1000)

    async def until_ended(self, endpoint: WebhookEndpoint, number: int) -> Sequence[WebhookDelivery]:
        return await until(
            partial(self.deliveries, endpoint),
            lambda found: len(found) == number and all(each.next_attempt_at is None for each in found),
        )

    def sender(self, rules: UrlRules = ANY_URL, timeout: float = 30, **settings: object) -> WebhookSender:
        options: dict[str, object] = {"retry_seconds": AT_ONCE, "poll_seconds": 0.02, **settings}
        return WebhookSender(self.engine.database, rules, timeout, **options)  # type: ignore[arg-type]

    @asynccontextmanager
    async def sending(self, *senders: WebhookSender) -> AsyncIterator[None]:
        async with in_background(*(each.run() for each in senders or [self.sender()])):
            yield

    async def other(self) -> Place:
        """The same for another tenant, whose runs nobody executes."""
        engine = object.__new__(Engine)
        engine.__dict__.update(self.engine.__dict__)
        engine.tenant_id = f"org_{uuid4().hex}"
        engine.tenant = self.engine.database.tenant(engine.tenant_id)
        engine.runs = type(self.engine.runs)(engine.tenant)
        engine.campaigns = type(self.engine.campaigns)(engine.tenant)
        return Place(self.url, self.superuser, engine)
