"""Calls that change a run act once for each idempotency key, however often they are sent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from runengine.v1.run_pb2 import Run as RunMessage

from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import IdempotencyKeyReused, InvalidArgument, Violation
from runengine_server.domain.run import Run
from runengine_server.repositories.database import Database
from runengine_server.repositories.idempotency_repository import IdempotencyRepository
from runengine_server.repositories.run_repository import RunRepository
from runengine_server.rpc.interceptor import caller
from runengine_server.rpc.messages import run_message

_KEY = "idempotency-key"
_REPLAYED = (("idempotency-replayed", "true"),)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


class RunResponse(Protocol):
    """A response message with a run in it."""

    def __init__(self, *, run: RunMessage | None = ...) -> None: ...
    def SerializeToString(self) -> bytes: ...  # noqa: N802, D102
    @classmethod
    def FromString(cls, s: bytes) -> Any: ...  # noqa: N802, D102


Response = TypeVar("Response", bound=RunResponse)


async def act_once(
    database: Database,
    context: grpc.aio.ServicerContext[Any, Any],
    fingerprint: bytes,
    response_type: type[Response],
    act: Callable[[RunRepository, Actor], Awaitable[Run]],
) -> Response:
    """What `act` answers, in one transaction with all that it does.

    With a key that the tenant has used for the same request, the stored answer, marked by the
    metadata `idempotency-replayed: true`. A refusal is not stored: it is judged anew each time.
    Raises IdempotencyKeyReused for another request under the same key.
    """
    key = _key(context)
    who = caller()
    async with database.tenant(who.tenant_id).transaction() as transaction:
        keys = IdempotencyRepository(transaction, who.tenant_id)
        stored = None if key is None else await keys.take(key, fingerprint)
        if stored is None:
            runs, actor = RunRepository(transaction, who.tenant_id), Actor(who.subject, _trace_id(context))
            response = response_type(run=run_message(await act(runs, actor)))
            if key is not None:
                await keys.keep(key, response.SerializeToString())
            return response
    if stored.fingerprint != fingerprint:
        raise IdempotencyKeyReused
    await context.send_initial_metadata(_REPLAYED)
    replayed: Response = response_type.FromString(stored.response)
    return replayed


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
