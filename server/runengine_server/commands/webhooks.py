"""Creates and changes the endpoints of webhooks."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from uuid import UUID

import httpx
import uuid_utils.compat

from runengine_server.domain.errors import (
    InvalidArgument,
    LimitReached,
    Violation,
    WebhookEndpointNotFound,
)
from runengine_server.domain.webhook import (
    MAX_ENDPOINTS,
    MAX_URL,
    OVERLAP_SECONDS,
    UrlRules,
    WebhookEndpoint,
    is_public,
)
from runengine_server.repositories.webhook_repository import WebhookRepository

# As Standard Webhooks wants them: 24 to 64 bytes.
_SECRET_BYTES = 32
_MAX_PORT = 65535


async def create_endpoint(
    webhooks: WebhookRepository, url: str, events: Sequence[str], is_disabled: bool
) -> WebhookEndpoint:
    """Stores an endpoint with a new secret, which gets the transitions that are committed from now on.

    Raises LimitReached when the tenant has 20.
    """
    endpoint = await webhooks.create(
        uuid_utils.compat.uuid7(), url, secrets.token_bytes(_SECRET_BYTES), each_once(events), is_disabled
    )
    if endpoint is None:
        raise LimitReached("webhook endpoints", MAX_ENDPOINTS)
    return endpoint


async def update_endpoint(
    webhooks: WebhookRepository,
    endpoint_id: UUID,
    url: str | None,
    events: Sequence[str],
    is_disabled: bool | None,
) -> WebhookEndpoint:
    """Changes what is given: no events leave them. Raises WebhookEndpointNotFound."""
    endpoint = await webhooks.update(endpoint_id, url, each_once(events) or None, is_disabled)
    if endpoint is None:
        raise WebhookEndpointNotFound
    return endpoint


async def rotate_secret(
    webhooks: WebhookRepository, endpoint_id: UUID, overlap_seconds: int | None
) -> WebhookEndpoint:
    """Gives the endpoint a new secret, beside which those before it sign for so long, a day with None. Raises
    WebhookEndpointNotFound.
    """
    overlap = OVERLAP_SECONDS if overlap_seconds is None else overlap_seconds
    endpoint = await webhooks.rotate_secret(endpoint_id, secrets.token_bytes(_SECRET_BYTES), overlap)
    if endpoint is None:
        raise WebhookEndpointNotFound
    return endpoint


def each_once(events: Sequence[str]) -> list[str]:
    """The events in their order, each once."""
    return list(dict.fromkeys(events))


def check_url(url: str, rules: UrlRules, violations: Sequence[Violation] = ()) -> None:
    """Raises InvalidArgument with all violations when there are some, or nothing may be sent to the URL.

    A host by name is not looked up: its address may be another one by the time that something is sent.
    """
    found = list(violations)
    if url and (wrong := _wrong_with(url, rules)) is not None:
        found.append(Violation("url", wrong))
    if found:
        raise InvalidArgument(found)


def _wrong_with(url: str, rules: UrlRules) -> str | None:
    if len(url) > MAX_URL:
        return f"has more than {MAX_URL:,} characters"
    schemes = ("https", "http") if rules.allows_http else ("https",)
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, UnicodeError):  # a host that begins with `xn--` is decoded when it is asked for
        return "is no URL"
    if not re.fullmatch(r"[\x21-\x7e]+", url) or parsed.scheme not in schemes or not host:
        return f"must be an absolute URL with {' or '.join(schemes)}"
    if parsed.userinfo or "#" in url:
        return "must be without user, password and fragment"
    if parsed.port is not None and not 1 <= parsed.port <= _MAX_PORT:
        return f"must have a port from 1 to {_MAX_PORT}"
    if not rules.allows_private and _is_known_as_private(host):
        return "must lead to a public address"
    return None


def _is_known_as_private(host: str) -> bool:
    try:
        return not is_public(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
