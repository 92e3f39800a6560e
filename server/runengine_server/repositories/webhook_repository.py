"""The endpoints of one tenant's webhooks, and what is sent to them; and those of all that are due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from runengine_server.database.database import Database
from runengine_server.database.functions import dispatch_function, tenant_function
from runengine_server.database.scopes import TenantScope
from runengine_server.domain.webhook import (
    MAX_ENDPOINTS,
    ClaimedDelivery,
    DeliveryStatus,
    WebhookDelivery,
    WebhookEndpoint,
)

_CREATE = tenant_function("create_webhook_endpoint")
_LIST = tenant_function("list_webhook_endpoints")
_UPDATE = tenant_function("update_webhook_endpoint")
_ROTATE = tenant_function("rotate_webhook_secret")
_DELETE = tenant_function("delete_webhook_endpoint")
_LIST_DELIVERIES = tenant_function("list_webhook_deliveries")
_RETRY = tenant_function("retry_webhook_delivery")
_READ_EVENTS = tenant_function("read_webhook_events")
_CLAIM = tenant_function("claim_webhook_deliveries")
_RECORD = tenant_function("record_webhook_attempt")
_DUE = dispatch_function("due_webhook_endpoints")


@dataclass(frozen=True, slots=True)
class DueEndpoint:
    """An endpoint, of any tenant, that has transitions to read, or deliveries that are due."""

    tenant_id: str
    id: UUID
    has_unread: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt has ended: delivered without an `error`; else it is sent again in `retry_in` seconds, or
    with None is dead. `disable` says why the endpoint gets nothing any more; None where it does.
    """

    response_status: int | None
    error: str | None = None
    retry_in: float | None = None
    disable: str | None = None


class WebhookRepository:
    """The endpoints of one tenant."""

    def __init__(self, scope: TenantScope) -> None:
        self._scope = scope

    async def create(
        self, endpoint_id: UUID, url: str, secret: bytes, events: Sequence[str], is_disabled: bool
    ) -> WebhookEndpoint | None:
        """The new endpoint; None when the tenant has as many as it may."""
        rows = await self._scope.call(
            _CREATE, endpoint_id, url, secret, list(events), is_disabled, MAX_ENDPOINTS
        )
        return _endpoint(rows[0]) if rows else None

    async def list(self) -> Sequence[WebhookEndpoint]:
        """All of the tenant, the oldest first."""
        return [_endpoint(row) for row in await self._scope.call(_LIST, None)]

    async def get(self, endpoint_id: UUID) -> WebhookEndpoint | None:
        """The endpoint; None when the tenant has none of that id."""
        rows = await self._scope.call(_LIST, endpoint_id)
        return _endpoint(rows[0]) if rows else None

    async def update(
        self, endpoint_id: UUID, url: str | None, events: Sequence[str] | None, is_disabled: bool | None
    ) -> WebhookEndpoint | None:
        """Changes what is not None. None when the tenant has none of that id."""
        given = None if events is None else list(events)
        rows = await self._scope.call(_UPDATE, endpoint_id, url, given, is_disabled)
        return _endpoint(rows[0]) if rows else None

    async def rotate_secret(
        self, endpoint_id: UUID, secret: bytes, overlap_seconds: int
    ) -> WebhookEndpoint | None:
        """Has the secret sign, and those before it for so long. None when the tenant has none of that id."""
        rows = await self._scope.call(_ROTATE, endpoint_id, secret, overlap_seconds)
        return _endpoint(rows[0]) if rows else None

    async def delete(self, endpoint_id: UUID) -> WebhookEndpoint | None:
        """The endpoint as it was; None when the tenant has none of that id."""
        rows = await self._scope.call(_DELETE, endpoint_id)
        return _endpoint(rows[0]) if rows else None

    async def list_deliveries(
        self, endpoint_id: UUID, statuses: Sequence[DeliveryStatus], before: int, limit: int
    ) -> Sequence[WebhookDelivery]:
        """Up to `limit` deliveries whose transitions come before that number, most recent first."""
        rows = await self._scope.call(_LIST_DELIVERIES, endpoint_id, list(statuses), before, limit)
        return [_delivery(row) for row in rows]

    async def retry_delivery(self, endpoint_id: UUID, delivery_id: UUID) -> WebhookDelivery | None:
        """The delivery, due at once; None when there is none."""
        rows = await self._scope.call(_RETRY, endpoint_id, delivery_id)
        return _delivery(rows[0]) if rows else None

    async def read_events(self, endpoint_id: UUID, limit: int) -> bool:
        """Makes deliveries of up to `limit` transitions that the endpoint has not read. Returns whether there
        may be more, and False while another server does it.
        """
        rows = await self._scope.call(_READ_EVENTS, endpoint_id, limit)
        return bool(rows and rows[0]["has_more"])

    async def claim(self, endpoint_id: UUID, limit: int, lease_seconds: float) -> Sequence[ClaimedDelivery]:
        """Up to `limit` deliveries that are due, which nobody else sends for `lease_seconds`."""
        rows = await self._scope.call(_CLAIM, endpoint_id, limit, lease_seconds)
        return [ClaimedDelivery(**row) for row in rows]

    async def record(self, endpoint_id: UUID, claimed: ClaimedDelivery, attempt: Attempt) -> None:
        """Stores how the attempt has ended, unless another has been begun since."""
        await self._scope.call(
            _RECORD,
            endpoint_id,
            claimed.id,
            claimed.attempts,
            attempt.response_status,
            attempt.error,
            attempt.retry_in,
            attempt.disable,
        )


async def due_endpoints(database: Database) -> Sequence[DueEndpoint]:
    """The endpoints of all tenants to which something is to be sent now."""
    return [DueEndpoint(**row) for row in await database.dispatch().call(_DUE)]


def _endpoint(row: asyncpg.Record) -> WebhookEndpoint:
    return WebhookEndpoint(
        id=row["id"],
        url=row["url"],
        events=tuple(row["events"]),
        is_disabled=row["is_disabled"],
        note=row["note"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        old_secrets_until=max(row["old_until"], default=None),
        secret=row["secret"],
    )


def _delivery(row: asyncpg.Record) -> WebhookDelivery:
    return WebhookDelivery(
        id=row["id"],
        seq=row["seq"],
        event=row["event"],
        run_id=row["run_id"],
        campaign_id=row["campaign_id"],
        status=DeliveryStatus(row["status"]),
        attempts=row["attempts"],
        attempted_at=row["attempted_at"],
        next_attempt_at=row["next_attempt_at"],
        response_status=row["response_status"],
        error=row["error"],
        created_at=row["created_at"],
    )
