"""Calls that change a run act once for each idempotency key, however often they are sent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import IdempotencyKeyReused, InvalidArgument, Violation
from runengine_server.repositories.run_repository import Acted, Once, Outcome
from runengine_server.rpc.interceptor import caller

_KEY = "idempotency-key"
_REPLAYED = (("idempotency-replayed", "true"),)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


async def act_once(
    context: grpc.aio.ServicerContext[Any, Any],
    fingerprint: bytes,
    act: Callable[[Actor, Once], Awaitable[Acted]],
    metadata_for: Callable[[bytes], Sequence[tuple[str, str]]] = lambda response: (),
) -> bytes:
    """The encoded response of `act`, which is told the call's idempotency key. Initial metadata of
    `metadata_for` go with it.

    Of a key that the tenant has used for the same request it is the stored one, marked by the
    metadata `idempotency-replayed: true`. Raises IdempotencyKeyReused for another request.
    """
    acted = await act(Actor(caller().actor, _trace_id(context)), Once(_key(context), fingerprint))
    is_replayed = acted.outcome is Outcome.REPLAYED
    if is_replayed and acted.fingerprint != fingerprint:
        raise IdempotencyKeyReused
    # All in one: gRPC sends them once.
    if metadata := (*metadata_for(acted.response), *(_REPLAYED if is_replayed else ())):
        await context.send_initial_metadata(metadata)
    return acted.response


def fingerprint_of(request: Message) -> bytes:
    """The same for the same method and body, whatever the order of an object's keys."""
    name = request.DESCRIPTOR.full_name
    return hashlib.sha256(name.encode() + request.SerializeToString(deterministic=True)).digest()


def _key(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    given = [value for name, value in context.invocation_metadata() or () if name == _KEY]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidArgument([Violation(_KEY, "is given more than once")])
    key = given[0]
    if not isinstance(key, str) or not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise InvalidArgument([Violation(_KEY, "must be 1 to 255 printable ASCII characters")])
    return key


def _trace_id(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    """Of a W3C traceparent; None for one that is missing or malformed, which is no one's error."""
    for name, value in context.invocation_metadata() or ():
        if name == "traceparent" and (match := _TRACEPARENT.fullmatch(str(value))):
            return match[1] if match[1].strip("0") else None
    return None
