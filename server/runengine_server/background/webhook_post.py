"""Sends one delivery of a webhook to an address that was checked."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import httpx
import structlog
from standardwebhooks import Webhook

from runengine_server.background.name_lookup import NameLookup
from runengine_server.domain.webhook import ClaimedDelivery, UrlRules, is_public

# Of a host with many addresses only so many are tried.
_MAX_ADDRESSES = 3

_NO_ADDRESS = "The host has no address that may be sent to."

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Response:
    """What came of an attempt: the HTTP status, None where there was no response, or what was wrong in words;
    and how many seconds the receiver asks to be left alone.
    """

    status: int | None
    error: str | None = None
    retry_after: float | None = None


class WebhookClient:
    """Makes the requests, each on a connection of its own.

    The name of the host is looked up here, its addresses are checked, and the connection goes to one of
    those: whoever owns the name cannot have another one looked up in between. No redirect is followed, no
    proxy used, and of the response nothing but its head is read.
    """

    def __init__(self, rules: UrlRules, timeout_seconds: float) -> None:
        """`timeout_seconds` is for all of an attempt."""
        self._rules = rules
        self._timeout_seconds = timeout_seconds
        # No connection is kept: httpx keeps them by address, and would send to the next host of that address
        # on a connection whose certificate was checked for the one before.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(
            verify=ssl.create_default_context(), trust_env=False, timeout=None, limits=limits
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def post(self, delivery: ClaimedDelivery, names: NameLookup) -> Response:
        """Sends it, to the host as `names` finds it, which may be at it longer than the attempt. Raises
        nothing.
        """
        try:
            # httpx's own time-outs are for each read and write, and a byte may drip for ever.
            async with asyncio.timeout(self._timeout_seconds):
                return await self._post(delivery, names)
        except TimeoutError:
            return Response(None, f"There was no response within {self._timeout_seconds:g} s.")
        except ssl.SSLError:
            return Response(None, "The host has no certificate that is valid for its name.")
        except (httpx.HTTPError, OSError) as error:
            return Response(None, _described(error))
        except Exception as error:
            # What nobody thought of counts as an attempt too, or the delivery would be claimed for ever.
            _log.error("a webhook cannot be sent", delivery=str(delivery.id), exc_info=error)
            return Response(None, "It could not be sent.")

    async def _post(self, delivery: ClaimedDelivery, names: NameLookup) -> Response:
        url = httpx.URL(delivery.url)
        if url.scheme != "https" and not self._rules.allows_http:
            return Response(None, "The URL has no https.")
        addresses = await self._addresses(url, names)
        if not addresses:
            return Response(None, _NO_ADDRESS)
        content = delivery.payload.encode()
        # The library takes any time zone for UTC, so it has to be that.
        now = datetime.now(UTC)
        headers = {
            "host": url.netloc.decode("ascii"),
            "content-type": "application/json",
            "user-agent": "runengine",
            "connection": "close",
            "webhook-id": str(delivery.id),
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(
                Webhook(secret).sign(str(delivery.id), now, delivery.payload) for secret in delivery.secrets
            ),
        }
        for address in addresses:
            request = self._client.build_request(
                "POST",
                url.copy_with(host=address),
                headers=headers,
                content=content,
                extensions={"sni_hostname": url.raw_host.decode("ascii")},
            )
            try:
                response = await self._client.send(request, stream=True)
            except httpx.ConnectError:
                if address == addresses[-1]:
                    raise
                continue
            await response.aclose()
            return _judged(response)
        raise AssertionError("there is an address")

    async def _addresses(self, url: httpx.URL, names: NameLookup) -> Sequence[str]:
        """Those of the host to which may be sent, each once."""
        port = url.port or {"https": 443, "http": 80}[url.scheme]
        found = await names.addresses(url.raw_host.decode("ascii"), port)
        allowed = [each for each in found if self._rules.allows_private or is_public(each)]
        return allowed[:_MAX_ADDRESSES]


def _judged(response: httpx.Response) -> Response:
    status = response.status_code
    if 200 <= status <= 299:
        return Response(status)
    retry_after = response.headers.get("retry-after", "")
    seconds = float(retry_after) if retry_after.isdecimal() and len(retry_after) <= 6 else None
    if 300 <= status <= 399:
        return Response(status, f"It responded with {status}; no redirect is followed.")
    return Response(status, f"It responded with {status}.", seconds)


def _described(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return "The host has no certificate that is valid for its name."
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError | OSError):
        return "It could not be connected to."
    return "The connection ended before the response."
