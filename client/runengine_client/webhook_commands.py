"""The commands on endpoints of webhooks, and what they print. All times are UTC."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text
from runengine.rest_json import words_of
from runengine.v1.webhook_service_pb2 import (
    ListWebhookDeliveriesResponse,
    ListWebhookEndpointsResponse,
    WebhookDelivery,
    WebhookDeliveryStatus,
    WebhookEndpoint,
)

from runengine_client.command import Session
from runengine_client.json_view import deliveries_json, delivery_json, endpoint_json, endpoints_json
from runengine_client.tables import entry, first_that_fits, new_table, plain, time_text

_WORDS = words_of(WebhookDeliveryStatus.DESCRIPTOR)
_STYLES = {"pending": ("○", "blue"), "delivered": ("✓", "green"), "dead": ("✗", "red")}


class StatusWord(StrEnum):
    """The values of `--status`."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


EndpointId = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="Id of the endpoint.", show_default=False)
]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", metavar="EVENT", help="Only these, such as run.completed. Repeatable."),
]


async def create(
    session: Session,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to send to.", show_default=False)],
    event: Events = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Send nothing yet.")] = False,
) -> None:
    """Creates an endpoint, to which transitions are sent. Shows its secret, this once."""
    _show(session, await session.client.create_webhook_endpoint(url, events=event or (), disabled=disabled))


async def list_(session: Session) -> None:
    """Shows the endpoints of the tenant."""
    found = await session.client.list_webhook_endpoints()
    session.show(
        _endpoints_view(found, session.out), endpoints_json(ListWebhookEndpointsResponse(endpoints=found))
    )


async def show(session: Session, endpoint_id: EndpointId) -> None:
    """Shows an endpoint; of one that the engine has disabled, why."""
    _show(session, await session.client.get_webhook_endpoint(endpoint_id))


async def update(
    session: Session,
    endpoint_id: EndpointId,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Send there from now on.")] = None,
    event: Events = None,
    disable: Annotated[bool, typer.Option("--disable", help="Send nothing more.")] = False,
    enable: Annotated[bool, typer.Option("--enable", help="Send again, what comes from now on.")] = False,
) -> None:
    """Changes an endpoint: what is given, and no more."""
    if disable and enable:
        raise ValueError("An endpoint is either disabled or enabled.")
    _show(
        session,
        await session.client.update_webhook_endpoint(
            endpoint_id, url=url, events=event or (), disabled=disable or (False if enable else None)
        ),
    )


async def rotate(
    session: Session,
    endpoint_id: EndpointId,
    overlap: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS", help="How long those before it still sign, 0 to 604800. Default: a day."
        ),
    ] = None,
) -> None:
    """Gives an endpoint a new secret. Shows it, this once."""
    _show(session, await session.client.rotate_webhook_secret(endpoint_id, overlap_seconds=overlap))


async def delete(session: Session, endpoint_id: EndpointId) -> None:
    """Deletes an endpoint with its deliveries."""
    _show(session, await session.client.delete_webhook_endpoint(endpoint_id))


async def deliveries(
    session: Session,
    endpoint_id: EndpointId,
    status: Annotated[
        list[StatusWord] | None,
        typer.Option(metavar="STATUS", help="Only those that are pending, delivered or dead. Repeatable."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of deliveries to show at most, 1 to 100. Default: 20."),
    ] = None,
) -> None:
    """Shows what is sent to an endpoint, most recent first."""
    words = [each.value for each in status or ()]
    page: ListWebhookDeliveriesResponse = await session.client.list_webhook_deliveries(
        endpoint_id, status=words, limit=limit
    )
    session.show(_deliveries_view(page.deliveries, session.out), deliveries_json(page))


async def retry(
    session: Session,
    endpoint_id: EndpointId,
    delivery_id: Annotated[
        str, typer.Argument(metavar="DELIVERY", help="Id of the delivery.", show_default=False)
    ],
) -> None:
    """Sends a delivery again, at once."""
    delivery = await session.client.retry_webhook_delivery(endpoint_id, delivery_id)
    session.show(_deliveries_view([delivery], session.out), delivery_json(delivery))


def _show(session: Session, endpoint: WebhookEndpoint) -> None:
    rows = [
        ("id", Text(endpoint.id)),
        ("url", plain(endpoint.url)),
        ("events", plain(", ".join(endpoint.events) or "all")),
        ("status", _state(endpoint)),
        ("created", Text(f"{time_text(endpoint.created_at)} UTC")),
    ]
    if endpoint.HasField("note"):
        rows.append(("note", plain(endpoint.note)))
    if endpoint.HasField("secret"):
        rows.append(("secret", Text(endpoint.secret)))
    if endpoint.HasField("old_secrets_until"):
        rows.append(("earlier", Text(f"sign until {time_text(endpoint.old_secrets_until)} UTC")))
    view = Text("\n").join(Text.assemble((f"{label:<9}", "dim"), value) for label, value in rows)
    session.show(view, endpoint_json(endpoint))


def _state(endpoint: WebhookEndpoint) -> Text:
    return Text("⊘ disabled", "magenta") if endpoint.disabled else Text("✓ enabled", "green")


def _endpoints_view(endpoints: Sequence[WebhookEndpoint], console: Console) -> RenderableType:
    if not endpoints:
        return Text("no webhook endpoints", "dim")
    table = new_table()
    for header in ("id", "status", "url", "events"):
        table.add_column(header, no_wrap=True)
    entries = []
    for each in endpoints:
        events = plain(", ".join(each.events) or "all")
        table.add_row(each.id, _state(each), plain(each.url), events)
        entries.append(entry([Text(each.id), _state(each)], [plain(each.url), events]))
    return first_that_fits(console, table) or Group(*entries)


def _deliveries_view(found: Sequence[WebhookDelivery], console: Console) -> RenderableType:
    if not found:
        return Text("no deliveries", "dim")
    table = new_table()
    for header in ("id", "event", "run", "status", "attempts", "last attempt (UTC)", "what was wrong"):
        table.add_column(header, no_wrap=True)
    entries = []
    for each in found:
        word = _WORDS.get(each.status, str(each.status))
        symbol, style = _STYLES.get(word, ("?", ""))
        state = Text(f"{symbol} {word}", style)
        at = time_text(each.attempted_at) if each.HasField("attempted_at") else ""
        wrong = plain(each.error)
        table.add_row(each.id, plain(each.event), each.run_id, state, str(each.attempts), at, wrong)
        entries.append(
            entry([Text(each.id), state], [plain(each.event), Text(f"run {each.run_id}"), Text(at), wrong])
        )
    return first_that_fits(console, table) or Group(*entries)
