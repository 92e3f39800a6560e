"""What does a failed call look like over REST? As RFC 9457 has it (contract: REST JSON, Codes)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import grpc
import orjson
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
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
    """An error answer: its HTTP status, and what its `application/problem+json` body says."""

    status: int
    reason: str
    detail: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: Sequence[Violation] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """The answer with the members of RFC 9457 and `reason`, `metadata` and, on a 400, `violations`."""
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


class _Answer(NamedTuple):
    status: int
    detail: str  # stands in for the server's words where it gave none


# FAILED_PRECONDITION is 409, on purpose: the usual table says 400. A code that is not here is a bug: 500.
_ANSWERS: Mapping[grpc.StatusCode, _Answer] = {
    grpc.StatusCode.INVALID_ARGUMENT: _Answer(400, "The request is malformed."),
    grpc.StatusCode.UNAUTHENTICATED: _Answer(401, "A valid token is required."),
    grpc.StatusCode.PERMISSION_DENIED: _Answer(403, "The token does not permit this."),
    grpc.StatusCode.NOT_FOUND: _Answer(404, "There is no such resource."),
    grpc.StatusCode.ALREADY_EXISTS: _Answer(409, "The resource exists already."),
    grpc.StatusCode.ABORTED: _Answer(409, "Another call came in between; try again."),
    grpc.StatusCode.FAILED_PRECONDITION: _Answer(409, "The state of the resource does not permit this."),
    grpc.StatusCode.RESOURCE_EXHAUSTED: _Answer(429, "The server is over its load; try again."),
    grpc.StatusCode.CANCELLED: _Answer(499, "The call was cancelled."),
    grpc.StatusCode.UNAVAILABLE: _Answer(503, "The service cannot be reached at the moment; try again."),
    grpc.StatusCode.DEADLINE_EXCEEDED: _Answer(504, "The call took longer than its deadline."),
}


def invalid(violations: Sequence[Violation]) -> Problem:
    """400: the gateway itself found these violations."""
    return Problem(400, "INVALID_ARGUMENT", "The request is malformed.", violations=violations)


def payload_too_large(accepted: int = 256 * 1024) -> Problem:
    """413: the body is over its limit (contract: Bounds), or the server's transport refuses the message."""
    detail = f"The request is too large; {accepted // 1024} KiB are accepted."
    return Problem(413, "PAYLOAD_TOO_LARGE", detail)


def request_timeout() -> Problem:
    """408: the caller takes too long to send its request."""
    return Problem(
        408, "REQUEST_TIMEOUT", "The request did not arrive in time.", headers={"connection": "close"}
    )


def head_too_large() -> Problem:
    """431: request line and header fields are over their limits."""
    return Problem(431, "HEADERS_TOO_LARGE", "The request line and headers are too large or too many.")


def overloaded() -> Problem:
    """429: the gateway itself has as much to do as it takes on."""
    answer = _ANSWERS[grpc.StatusCode.RESOURCE_EXHAUSTED]
    return Problem(answer.status, "OVERLOADED", answer.detail, headers={"retry-after": "1"})


def unavailable() -> Problem:
    """503: the server behind the gateway does not answer."""
    return Problem(503, "UNAVAILABLE", _ANSWERS[grpc.StatusCode.UNAVAILABLE].detail)


def deadline_exceeded() -> Problem:
    """504: the gateway gave the call up itself."""
    return Problem(504, "DEADLINE_EXCEEDED", _ANSWERS[grpc.StatusCode.DEADLINE_EXCEEDED].detail)


def internal(metadata: Mapping[str, str] | None = None) -> Problem:
    """500: a bug. Tells nothing of what happened; metadata `id`, if any, finds it in the server's log."""
    return Problem(500, "INTERNAL", "The server failed to answer. The fault is its own.", metadata or {})


def problem_of(error: grpc.aio.AioRpcError, request: Descriptor) -> Problem:
    """What `error` means to the caller of a REST path.

    Words reach the caller from google.rpc.Status alone, which the server writes for callers; the text of
    an error without one is grpc's own and may name addresses. `request` is the type of the message that
    was sent: it gives the JSON names of the fields in violation.
    """
    answer = _ANSWERS.get(error.code())
    rich = _rich_status(error)
    info = _detail(rich, error_details_pb2.ErrorInfo)
    if answer is None:
        return internal({key: value for key, value in info.metadata.items() if key == "id"})
    if not info.reason:
        return _unexplained(error, answer)
    status = 413 if info.reason == "PAYLOAD_TOO_LARGE" else answer.status
    bad_request = _detail(rich, error_details_pb2.BadRequest)
    return Problem(
        status,
        info.reason,
        # The violations say more than the message, and in JSON names.
        answer.detail if bad_request.field_violations else rich.message or answer.detail,
        dict(info.metadata),
        [
            Violation(json_path(found.field, request), found.description)
            for found in bad_request.field_violations
        ],
        _headers(status, _detail(rich, error_details_pb2.RetryInfo)),
    )


def _unexplained(error: grpc.aio.AioRpcError, answer: _Answer) -> Problem:
    """For an error that no servicer wrote: the server is away, or a transport refused the call."""
    reason = error.code().name
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        text = error.details() or ""
        if "SERVER: Received message larger than max" in text:
            return payload_too_large()
        if "CLIENT: Received message larger than max" in text or "metadata size exceeds" in text:
            return internal()  # the reply does not fit the channel that the gateway was given
        reason = "OVERLOADED"
    headers = _headers(answer.status, error_details_pb2.RetryInfo())
    return Problem(answer.status, reason, answer.detail, headers=headers)


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
