"""The metadata of calls that change a run: who makes one, under which idempotency key; what goes back."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import grpc
from google.protobuf.message import Message

from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import InvalidArgument, Violation
from runengine_server.repositories.run_repository import IdempotencyKey, MutationResult, Outcome
from runengine_server.rpc.interceptor import SentMetadata, caller, sent_metadata
from runengine_server.tracing import current_trace_id

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = tuple[tuple[str, str], ...]

_KEY = "idempotency-key"
REPLAYED = (("idempotency-replayed", "true"),)
_WITHOUT_CAMPAIGN = (("runengine-campaign", "missing"),)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def fingerprint_of(request: Message) -> bytes:
    """The same for the same method and body, whatever the order of an object's keys."""
    name = request.DESCRIPTOR.full_name
    return hashlib.sha256(name.encode() + request.SerializeToString(deterministic=True)).digest()


def idempotency_key(sent: SentMetadata, request: Message) -> IdempotencyKey | None:
    """The key that was sent with this request, as it came; None when there is none.

    Raises InvalidArgument for two keys, and for one that is not 1 to 255 printable ASCII characters.
    """
    given = [value for name, value in sent if name == _KEY]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidArgument([Violation(_KEY, "is given more than once")])
    key = given[0]
    if not isinstance(key, str) or not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise InvalidArgument([Violation(_KEY, "must be 1 to 255 printable ASCII characters")])
    return IdempotencyKey(key, fingerprint_of(request))


def current_actor() -> Actor:
    """The caller, with the trace of the call: that of its span where spans are made. A W3C traceparent that
    is missing or malformed is no error, and gives no trace.
    """
    if (trace_id := current_trace_id()) is not None:
        return Actor(caller().actor, trace_id)
    for name, value in sent_metadata():
        if name == "traceparent" and (match := _TRACEPARENT.fullmatch(str(value))):
            trace_id = match[1] if match[1].strip("0") else None
            break
    return Actor(caller().actor, trace_id)


def set_metadata(context: Context, result: MutationResult, more: Metadata = ()) -> None:
    """Sends `more` with the response; marks a replayed one with `idempotency-replayed: true`, and a run that
    names a campaign which does not exist with `runengine-campaign: missing`.

    As trailing metadata, which goes with the response. grpc.aio 1.85 sends initial metadata by an operation
    of its own, which takes a tenth of the time of a trigger in `serve`.
    """
    replayed = REPLAYED if result.outcome is Outcome.REPLAYED else ()
    without_campaign = _WITHOUT_CAMPAIGN if result.has_campaign is False else ()
    if metadata := (*more, *replayed, *without_campaign):
        context.set_trailing_metadata(metadata)
