"""Webhooks: endpoints, and what is sent to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

# How many endpoints a tenant may have: each costs every server two descents of an index a second.
MAX_ENDPOINTS = 20
MAX_URL = 2000

# How long the secrets from before a rotation sign, unless it says otherwise.
OVERLAP_SECONDS = 24 * 3600

# A delivery is sent again 5 s after its first attempt has failed, and then after four times as long each
# time, up to twelve hours: 11 attempts within two days.
MAX_ATTEMPTS = 11
_FIRST_RETRY_SECONDS, _GROWTH, _LONGEST_RETRY_SECONDS = 5.0, 4, 12 * 3600.0

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# All that is assigned of the Internet. Python takes what is outside of it, such as site-local fec0::/10, for
# global unless its tables name it, and they name no 3fff::/20, which is for documentation.
_ASSIGNED = ipaddress.ip_network("2000::/3")
_DOCUMENTATION = ipaddress.ip_network("3fff::/20")


class DeliveryStatus(StrEnum):
    """Where a delivery stands, as it is stored."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """`events` without one are all. `old_secrets_until` is when the last secret from before `secret` ends to
    sign beside it; None where there was none, and may be over.
    """

    id: UUID
    url: str
    events: tuple[str, ...]
    is_disabled: bool
    note: str | None
    created_at: datetime
    updated_at: datetime
    old_secrets_until: datetime | None
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """A transition for an endpoint; `seq` is the number of the transition."""

    id: UUID
    seq: int
    event: str
    run_id: UUID
    campaign_id: UUID | None
    status: DeliveryStatus
    attempts: int
    attempted_at: datetime | None
    next_attempt_at: datetime | None
    response_status: int | None
    error: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that this process is to send now, for the time `attempts`, signed by each of the secrets."""

    id: UUID
    attempts: int
    payload: str
    url: str
    secrets: Sequence[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class UrlRules:
    """What the operator allows beyond https to public addresses."""

    allows_http: bool = False
    allows_private: bool = False


def retry_seconds(attempts: int) -> float | None:
    """How long to wait after so many attempts have failed, without jitter; None when it was the last one."""
    if attempts >= MAX_ATTEMPTS:
        return None
    return min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * float(_GROWTH ** (attempts - 1)))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the Internet's, and so none of this network or machine. One that stands
    for an IPv4 address is judged as that. Raises ValueError for what is no address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if (inner := ip.ipv4_mapped or ip.sixtofour) is not None:
            ip = inner
        elif ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip.teredo is not None or ip not in _ASSIGNED or ip in _DOCUMENTATION:
            return False
    # Of multicast is_global says yes.
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)
