"""Endpoints of webhooks, and what is sent to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from runengine.rest_json import words_of
from runengine.v1.webhook_service_pb2 import (
    CreateWebhookEndpointRequest,
    DeleteWebhookEndpointRequest,
    GetWebhookEndpointRequest,
    ListWebhookDeliveriesRequest,
    ListWebhookDeliveriesResponse,
    ListWebhookEndpointsRequest,
    RetryWebhookDeliveryRequest,
    RotateWebhookSecretRequest,
    UpdateWebhookEndpointRequest,
    WebhookDelivery,
    WebhookDeliveryStatus,
    WebhookEndpoint,
)

from runengine_client.arguments import Id
from runengine_client.connection import Connection

_STATUSES = {
    word: WebhookDeliveryStatus.ValueType(number)
    for number, word in words_of(WebhookDeliveryStatus.DESCRIPTOR).items()
    if number
}


class Webhooks(Connection):
    """The part of RunEngineClient that has transitions sent to URLs."""

    async def create_webhook_endpoint(
        self, url: str, *, events: Iterable[str] = (), disabled: bool = False
    ) -> WebhookEndpoint:
        """Creates an endpoint, which gets the transitions that begin from now on, of `events` such as
        `run.completed`; none means all. Its `secret` is in what this returns, and nowhere else.

        Raises InvalidArgument for a URL that is not allowed, and RunEngineError with LIMIT_REACHED.
        """
        request = CreateWebhookEndpointRequest(url=url, events=events, disabled=disabled or None)
        return (await self._call(self._webhooks.CreateWebhookEndpoint, request)).endpoint

    async def list_webhook_endpoints(self) -> list[WebhookEndpoint]:
        """Returns all endpoints of the tenant, the oldest first."""
        request = ListWebhookEndpointsRequest()
        return list((await self._call(self._webhooks.ListWebhookEndpoints, request)).endpoints)

    async def get_webhook_endpoint(self, endpoint_id: Id) -> WebhookEndpoint:
        """Returns the endpoint. Raises RunEngineError with WEBHOOK_ENDPOINT_NOT_FOUND."""
        request = GetWebhookEndpointRequest(endpoint_id=str(endpoint_id))
        return (await self._call(self._webhooks.GetWebhookEndpoint, request)).endpoint

    async def update_webhook_endpoint(
        self,
        endpoint_id: Id,
        *,
        url: str | None = None,
        events: Iterable[str] = (),
        disabled: bool | None = None,
    ) -> WebhookEndpoint:
        """Changes what is given, and returns the endpoint as it is now. Raises InvalidArgument, and
        RunEngineError with WEBHOOK_ENDPOINT_NOT_FOUND.
        """
        request = UpdateWebhookEndpointRequest(
            endpoint_id=str(endpoint_id), url=url, events=events, disabled=disabled
        )
        return (await self._call(self._webhooks.UpdateWebhookEndpoint, request)).endpoint

    async def rotate_webhook_secret(
        self, endpoint_id: Id, *, overlap_seconds: int | None = None
    ) -> WebhookEndpoint:
        """Gives the endpoint a new secret, which is in what this returns, and nowhere else. Those before it
        sign beside it for `overlap_seconds`, 0 to 604,800, by default a day. Raises InvalidArgument, and
        RunEngineError with WEBHOOK_ENDPOINT_NOT_FOUND.
        """
        request = RotateWebhookSecretRequest(endpoint_id=str(endpoint_id), overlap_seconds=overlap_seconds)
        return (await self._call(self._webhooks.RotateWebhookSecret, request)).endpoint

    async def delete_webhook_endpoint(self, endpoint_id: Id) -> WebhookEndpoint:
        """Deletes the endpoint with its deliveries, and returns it as it was. Raises RunEngineError with
        WEBHOOK_ENDPOINT_NOT_FOUND.
        """
        request = DeleteWebhookEndpointRequest(endpoint_id=str(endpoint_id))
        return (await self._call(self._webhooks.DeleteWebhookEndpoint, request)).endpoint

    async def list_webhook_deliveries(
        self,
        endpoint_id: Id,
        *,
        status: str | Iterable[str] = (),
        limit: int | None = None,
        page_token: str | None = None,
    ) -> ListWebhookDeliveriesResponse:
        """Returns one page of the deliveries to the endpoint, most recent first.

        `status` keeps only those that are `pending`, `delivered` or `dead`; none means all. `limit` is 1 to
        100, by default 20. Raises InvalidArgument, RunEngineError with WEBHOOK_ENDPOINT_NOT_FOUND; ValueError
        for a word that is no status.
        """
        request = _deliveries_request(endpoint_id, status, limit)
        if page_token is not None:
            request.page_token = page_token
        return await self._call(self._webhooks.ListWebhookDeliveries, request)

    async def iterate_webhook_deliveries(
        self, endpoint_id: Id, *, status: str | Iterable[str] = (), page_size: int = 100
    ) -> AsyncIterator[WebhookDelivery]:
        """Yields all that list_webhook_deliveries has, a page at a time."""
        request = _deliveries_request(endpoint_id, status, page_size)
        async for page in self._pages(self._webhooks.ListWebhookDeliveries, request):
            for delivery in page.deliveries:
                yield delivery

    async def retry_webhook_delivery(self, endpoint_id: Id, delivery_id: Id) -> WebhookDelivery:
        """Has the delivery sent again, at once, whatever its status is, and returns it. Raises RunEngineError
        with WEBHOOK_ENDPOINT_NOT_FOUND or WEBHOOK_DELIVERY_NOT_FOUND.
        """
        request = RetryWebhookDeliveryRequest(endpoint_id=str(endpoint_id), delivery_id=str(delivery_id))
        return (await self._call(self._webhooks.RetryWebhookDelivery, request)).delivery


def _deliveries_request(
    endpoint_id: Id, status: str | Iterable[str], limit: int | None
) -> ListWebhookDeliveriesRequest:
    words = [status] if isinstance(status, str) else list(status)
    for word in words:
        if word not in _STATUSES:
            raise ValueError(f"No delivery has the status {word!r}; there are {', '.join(_STATUSES)}.")
    return ListWebhookDeliveriesRequest(
        endpoint_id=str(endpoint_id), status=[_STATUSES[word] for word in words], limit=limit
    )
