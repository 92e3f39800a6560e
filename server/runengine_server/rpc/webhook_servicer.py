"""WebhookService."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1 import webhook_service_pb2 as pb
from runengine.v1 import webhook_service_pb2_grpc

from runengine_server.commands.webhooks import check_url, create_endpoint, rotate_secret, update_endpoint
from runengine_server.database.database import Database
from runengine_server.domain import page_token
from runengine_server.domain.errors import (
    InvalidArgument,
    Violation,
    WebhookDeliveryNotFound,
    WebhookEndpointNotFound,
)
from runengine_server.domain.webhook import DeliveryStatus, UrlRules, WebhookDelivery, WebhookEndpoint
from runengine_server.repositories.webhook_repository import WebhookRepository
from runengine_server.rpc.interceptor import caller
from runengine_server.rpc.messages import timestamp
from runengine_server.rpc.pages import split_page
from runengine_server.rpc.validation import require_valid, violations_of

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_LIMIT = 20
_AFTER_ALL = 2**63 - 1

_STATUSES = {
    pb.WebhookDeliveryStatus.Value(f"WEBHOOK_DELIVERY_STATUS_{each.name}"): each for each in DeliveryStatus
}


class WebhookServicer(webhook_service_pb2_grpc.WebhookServiceServicer):
    """Each method calls one command or the repository, and makes a response of what comes back."""

    def __init__(self, database: Database, url_rules: UrlRules) -> None:
        self._database = database
        self._url_rules = url_rules

    def _webhooks(self) -> WebhookRepository:
        return WebhookRepository(self._database.tenant(caller().tenant_id))

    async def CreateWebhookEndpoint(  # noqa: N802, D102
        self, request: pb.CreateWebhookEndpointRequest, context: Context
    ) -> pb.CreateWebhookEndpointResponse:
        check_url(request.url, self._url_rules, violations_of(request))
        endpoint = await create_endpoint(self._webhooks(), request.url, request.events, request.disabled)
        return pb.CreateWebhookEndpointResponse(endpoint=_with_secret(endpoint))

    async def ListWebhookEndpoints(  # noqa: N802, D102
        self, request: pb.ListWebhookEndpointsRequest, context: Context
    ) -> pb.ListWebhookEndpointsResponse:
        endpoints = await self._webhooks().list()
        return pb.ListWebhookEndpointsResponse(endpoints=[_endpoint_message(each) for each in endpoints])

    async def GetWebhookEndpoint(  # noqa: N802, D102
        self, request: pb.GetWebhookEndpointRequest, context: Context
    ) -> pb.GetWebhookEndpointResponse:
        require_valid(request)
        endpoint = await self._webhooks().get(UUID(request.endpoint_id))
        if endpoint is None:
            raise WebhookEndpointNotFound
        return pb.GetWebhookEndpointResponse(endpoint=_endpoint_message(endpoint))

    async def UpdateWebhookEndpoint(  # noqa: N802, D102
        self, request: pb.UpdateWebhookEndpointRequest, context: Context
    ) -> pb.UpdateWebhookEndpointResponse:
        check_url(request.url, self._url_rules, violations_of(request))
        endpoint = await update_endpoint(
            self._webhooks(),
            UUID(request.endpoint_id),
            request.url if request.HasField("url") else None,
            request.events,
            request.disabled if request.HasField("disabled") else None,
        )
        return pb.UpdateWebhookEndpointResponse(endpoint=_endpoint_message(endpoint))

    async def RotateWebhookSecret(  # noqa: N802, D102
        self, request: pb.RotateWebhookSecretRequest, context: Context
    ) -> pb.RotateWebhookSecretResponse:
        require_valid(request)
        endpoint = await rotate_secret(
            self._webhooks(),
            UUID(request.endpoint_id),
            request.overlap_seconds if request.HasField("overlap_seconds") else None,
        )
        return pb.RotateWebhookSecretResponse(endpoint=_with_secret(endpoint))

    async def DeleteWebhookEndpoint(  # noqa: N802, D102
        self, request: pb.DeleteWebhookEndpointRequest, context: Context
    ) -> pb.DeleteWebhookEndpointResponse:
        require_valid(request)
        endpoint = await self._webhooks().delete(UUID(request.endpoint_id))
        if endpoint is None:
            raise WebhookEndpointNotFound
        return pb.DeleteWebhookEndpointResponse(endpoint=_endpoint_message(endpoint))

    async def ListWebhookDeliveries(  # noqa: N802, D102
        self, request: pb.ListWebhookDeliveriesRequest, context: Context
    ) -> pb.ListWebhookDeliveriesResponse:
        require_valid(request)
        tenant_id, endpoint_id = caller().tenant_id, UUID(request.endpoint_id)
        statuses = [_STATUSES[value] for value in request.status] or list(DeliveryStatus)
        before = _AFTER_ALL
        if request.page_token:
            decoded = page_token.decode_delivery(request.page_token, tenant_id, endpoint_id, statuses)
            if decoded is None:
                raise InvalidArgument(
                    [Violation("page_token", "is not a token of this endpoint and status filter")]
                )
            before = decoded
        limit = request.limit if request.HasField("limit") else _DEFAULT_LIMIT
        webhooks = self._webhooks()
        found = await webhooks.list_deliveries(endpoint_id, statuses, before, limit + 1)
        if not found and await webhooks.get(endpoint_id) is None:
            raise WebhookEndpointNotFound
        page, token = split_page(
            found, limit, lambda last: page_token.encode_delivery(last.seq, tenant_id, endpoint_id, statuses)
        )
        return pb.ListWebhookDeliveriesResponse(
            deliveries=[_delivery_message(each) for each in page], limit=limit, next_page_token=token
        )

    async def RetryWebhookDelivery(  # noqa: N802, D102
        self, request: pb.RetryWebhookDeliveryRequest, context: Context
    ) -> pb.RetryWebhookDeliveryResponse:
        require_valid(request)
        webhooks, endpoint_id = self._webhooks(), UUID(request.endpoint_id)
        delivery = await webhooks.retry_delivery(endpoint_id, UUID(request.delivery_id))
        if delivery is None:
            raise WebhookDeliveryNotFound if await webhooks.get(endpoint_id) else WebhookEndpointNotFound
        return pb.RetryWebhookDeliveryResponse(delivery=_delivery_message(delivery))


def _with_secret(endpoint: WebhookEndpoint) -> pb.WebhookEndpoint:
    message = _endpoint_message(endpoint)
    message.secret = f"whsec_{base64.b64encode(endpoint.secret).decode()}"
    return message


def _endpoint_message(endpoint: WebhookEndpoint) -> pb.WebhookEndpoint:
    return pb.WebhookEndpoint(
        id=str(endpoint.id),
        url=endpoint.url,
        events=endpoint.events,
        disabled=endpoint.is_disabled,
        note=endpoint.note,
        created_at=timestamp(endpoint.created_at),
        updated_at=timestamp(endpoint.updated_at),
        old_secrets_until=_unless_over(endpoint.old_secrets_until),
    )


def _unless_over(until: datetime | None) -> Timestamp | None:
    return None if until is None or until <= datetime.now(UTC) else timestamp(until)


def _delivery_message(delivery: WebhookDelivery) -> pb.WebhookDelivery:
    return pb.WebhookDelivery(
        id=str(delivery.id),
        event=delivery.event,
        run_id=str(delivery.run_id),
        campaign_id=None if delivery.campaign_id is None else str(delivery.campaign_id),
        status=pb.WebhookDeliveryStatus.Value(f"WEBHOOK_DELIVERY_STATUS_{delivery.status.name}"),
        attempts=delivery.attempts,
        attempted_at=timestamp(delivery.attempted_at),
        next_attempt_at=timestamp(delivery.next_attempt_at),
        response_status=delivery.response_status,
        error=delivery.error,
        created_at=timestamp(delivery.created_at),
    )
