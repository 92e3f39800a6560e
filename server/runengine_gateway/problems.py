"""Turns errors into the problem documents of RFC 9457 (contract: REST JSON, Codes)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import grpc
import orjson
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from runengine.error_reasons import REASONS
from starlette.responses import Response

from runengine_gateway.json_mapping import json_path


class Violation(NamedTuple):
    """One thing that is wrong with a request.

    `field` is a path of JSON names such as `triggerPayload.items[3].price`, the name of a parameter or a
    header, or `body` for the body as a whole. `description` reads on from it: `must be a string`.
    """

    field: str
    description: str


@dataclass(frozen=True)
class Problem:
    """An error response: its HTTP status, and the members of its `application/problem+json` body."""

    status: int
    reason: str
    detail: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: Sequence[Violation] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """The response with the members of RFC 9457 and `reason`, `metadata` and, on a 400, `violations`."""
        body: dict[str, object] = {
            "type": f"urn:runengine:error:{self.reason}",
            "title": self.reason.replace("_", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "reason": self.reason,
            "metadata": dict(self.metadata),
        }
        if self.status == 400:
            body["violations"] = [violation._asdict() for violation in self.violations]
        return Response(orjson.dumps(body), self.status, dict(self.headers), "application/problem+json")


class RefusedError(Exception):
    """Carries the problem of a request that the gateway itself cannot pass on."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.reason)
        self.problem = problem


# The details of errors for which the server gave none. A code that is not here is a bug, and becomes 500.
_DETAILS: Mapping[grpc.StatusCode, str] = {
    grpc.StatusCode.INVALID_ARGUMENT: "The request is malformed.",
    grpc.StatusCode.UNAUTHENTICATED: "A valid token is required.",
    grpc.StatusCode.PERMISSION_DENIED: "The token does not permit this.",
    grpc.StatusCode.NOT_FOUND: "There is no such resource.",
    grpc.StatusCode.ALREADY_EXISTS: "The resource exists already.",
    grpc.StatusCode.ABORTED: "Another call came in between; try again.",
    grpc.StatusCode.FAILED_PRECONDITION: "The state of the resource does not permit this.",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "The server is over its load; try again.",
    grpc.StatusCode.CANCELLED: "The call was cancelled.",
    grpc.StatusCode.UNAVAILABLE: "The service cannot be reached at the moment; try again.",
    grpc.StatusCode.DEADLINE_EXCEEDED: "The call took longer than its deadline.",
}

# For an error without a reason that is known here: what the first reason with its code has. So
# FAILED_PRECONDITION is 409, on purpose: the usual table says 400. No reason is CANCELLED, which is 499.
_STATUSES = {grpc.StatusCode.CANCELLED: 499} | {
    reason.code: reason.http_status for reason in reversed(REASONS.values()) if reason.code is not None
}


def problem(
    reason: str,
    detail: str,
    *,
    metadata: Mapping[str, str] | None = None,
    violations: Sequence[Violation] = (),
    headers: Mapping[str, str] | None = None,
) -> Problem:
    """With the HTTP status that the protos give the reason."""
    return Problem(REASONS[reason].http_status, reason, detail, metadata or {}, violations, headers or {})


def invalid(violations: Sequence[Violation]) -> Problem:
    """400: the gateway itself found these violations."""
    detail = _DETAILS[grpc.StatusCode.INVALID_ARGUMENT]
    return problem("INVALID_ARGUMENT", detail, violations=violations)


def payload_too_large(accepted: int = 256 * 1024) -> Problem:
    """413: the body is over its limit (contract: Bounds), or the server's transport refuses the message."""
    detail = f"The request is too large; {accepted // 1024} KiB are accepted."
    return problem("PAYLOAD_TOO_LARGE", detail)


def request_timeout() -> Problem:
    """408: the caller takes too long to send its request."""
    return problem("REQUEST_TIMEOUT", "The request did not arrive in time.", headers={"connection": "close"})


def head_too_large() -> Problem:
    """431: request line and header fields are over their limits."""
    return problem("HEADERS_TOO_LARGE", "The request line and headers are too large or too many.")


def overloaded() -> Problem:
    """429: the gateway itself is at its limit."""
    detail = _DETAILS[grpc.StatusCode.RESOURCE_EXHAUSTED]
    return problem("OVERLOADED", detail, headers={"retry-after": "1"})


def unavailable() -> Problem:
    """503: the server behind the gateway does not respond."""
    return problem("UNAVAILABLE", _DETAILS[grpc.StatusCode.UNAVAILABLE])


def interrupted() -> Problem:
    """The problem for a stream that the gateway ends because it stops."""
    return problem("INTERRUPTED", "The call was interrupted; try again.")


def deadline_exceeded() -> Problem:
    """504: the gateway itself has ended the call at its deadline."""
    return problem("DEADLINE_EXCEEDED", _DETAILS[grpc.StatusCode.DEADLINE_EXCEEDED])


def internal(metadata: Mapping[str, str] | None = None) -> Problem:
    """500: a bug. It reveals nothing of what happened; metadata `id`, if any, leads to the server's log."""
    detail = "The server failed to respond. The fault is its own."
    return problem("INTERNAL", detail, metadata=metadata)


def problem_of(error: grpc.aio.AioRpcError, request: Descriptor) -> Problem:
    """The problem that the caller of a REST path gets for `error`.

    Only the message of a google.rpc.Status, which the server writes for callers, is passed on: the text of an
    error without one is grpc's own and may name addresses. `request` is the type of the message that was
    sent; it gives the JSON names of the fields in violation.
    """
    rich = _rich_status(error)
    info = _detail(rich, error_details_pb2.ErrorInfo)
    if error.code() not in _DETAILS:
        return internal({key: value for key, value in info.metadata.items() if key == "id"})
    if not info.reason:
        return _without_reason(error)
    known, detail = REASONS.get(info.reason), _DETAILS[error.code()]
    status = known.http_status if known else _STATUSES[error.code()]
    bad_request = _detail(rich, error_details_pb2.BadRequest)
    return Problem(
        status,
        info.reason,
        # The violations say more than the message, and in JSON names.
        detail if bad_request.field_violations else rich.message or detail,
        dict(info.metadata),
        [
            Violation(json_path(found.field, request), found.description)
            for found in bad_request.field_violations
        ],
        _headers(status, _detail(rich, error_details_pb2.RetryInfo)),
    )


def _without_reason(error: grpc.aio.AioRpcError) -> Problem:
    """For an error without a reason: the server is away, or the transport has refused the call."""
    reason = error.code().name
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        text = error.details() or ""
        if "SERVER: Received message larger than max" in text:
            return payload_too_large()
        if "CLIENT: Received message larger than max" in text or "metadata size exceeds" in text:
            return internal()  # the reply does not fit the channel that the gateway was given
        reason = "OVERLOADED"
    status = _STATUSES[error.code()]
    headers = _headers(status, error_details_pb2.RetryInfo())
    return Problem(status, reason, _DETAILS[error.code()], headers=headers)


def _headers(status: int, retry: error_details_pb2.RetryInfo) -> dict[str, str]:
    if status == 401:
        return {"www-authenticate": "Bearer"}
    seconds = retry.retry_delay.seconds + (retry.retry_delay.nanos > 0)
    if seconds > 0 or status == 429:
        return {"retry-after": str(max(seconds, 1))}
    return {}


def _rich_status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    # rpc_status.from_call reads this too, but raises where proxy or transport changed code or text.
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


_Detail = TypeVar("_Detail", bound=Message)


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail:
    """The detail of this kind; an empty one where the server sent none or one that does not parse."""
    found = kind()
    for packed in status.details:
        try:
            if packed.Unpack(found):
                break
        except DecodeError:
            return kind()
    return found
