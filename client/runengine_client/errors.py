"""The exceptions of a call that the run engine refuses, or that cannot reach it, named after the reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

__all__ = [
    "ArtifactNotFound",
    "BulkOperationCompleted",
    "BulkOperationNotFound",
    "BulkOperationTooLarge",
    "CampaignNotFound",
    "DeadlineExceeded",
    "IdempotencyKeyReused",
    "Internal",
    "Interrupted",
    "InvalidArgument",
    "NoOrganisation",
    "Overloaded",
    "PayloadTooLarge",
    "QuotaExceeded",
    "RunActive",
    "RunEngineError",
    "RunNotCompleted",
    "RunNotFound",
    "RunNotRetryable",
    "RunNotWaiting",
    "RunTerminal",
    "StepNotFound",
    "Unauthenticated",
    "Unavailable",
    "Violation",
]

_DOMAIN = "runengine.v1"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request: the field's path in the request, and what is wrong."""

    field: str
    description: str


class RunEngineError(Exception):
    """A call that did not succeed. `str(error)` is a sentence for a person, violations included.

    `reason` is the word to branch on: a name of `runengine.v1.ErrorReason` without its prefix, the
    same that REST returns. A reason that callers branch on has a subclass; one that has none, as of
    a server newer than this client, comes as a plain RunEngineError. `detail` is the sentence alone.
    `metadata` holds what the server adds to the reason, such as `status`, `attempt` and `allowed`
    when the state of a run forbids the call. `retry_after_seconds` is set when the server says how
    long to wait.
    """

    reason: str = "UNSPECIFIED"

    def __init__(
        self,
        detail: str,
        *,
        code: grpc.StatusCode,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.reason = reason or self.reason
        self.metadata = dict(metadata or {})
        self.violations = list(violations)
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        # The server's own sentence about a malformed request is the list of its violations already.
        listed = (f"{each.field}: {each.description}" for each in self.violations)
        return "; ".join([self.detail, *(each for each in listed if each not in self.detail)])


class Unauthenticated(RunEngineError):
    """The token is missing, malformed, expired or of another issuer."""

    reason = "UNAUTHENTICATED"


class NoOrganisation(RunEngineError):
    """The token is good but names no active organisation."""

    reason = "NO_ORGANISATION"


class InvalidArgument(RunEngineError):
    """The request is malformed; `violations` lists all that is wrong with it."""

    reason = "INVALID_ARGUMENT"


class RunNotFound(RunEngineError):
    """The tenant has no such run."""

    reason = "RUN_NOT_FOUND"


class StepNotFound(RunEngineError):
    """The run has no such step, or the step no such attempt."""

    reason = "STEP_NOT_FOUND"


class CampaignNotFound(RunEngineError):
    """The tenant has no such campaign."""

    reason = "CAMPAIGN_NOT_FOUND"


class ArtifactNotFound(RunEngineError):
    """The tenant has no such artifact."""

    reason = "ARTIFACT_NOT_FOUND"


class RunActive(RunEngineError):
    """A queued or running run cannot be retried."""

    reason = "RUN_ACTIVE"


class RunNotRetryable(RunEngineError):
    """A completed run cannot be retried."""

    reason = "RUN_NOT_RETRYABLE"


class RunTerminal(RunEngineError):
    """A completed or failed run cannot be cancelled."""

    reason = "RUN_TERMINAL"


class RunNotCompleted(RunEngineError):
    """Only a completed run has an output."""

    reason = "RUN_NOT_COMPLETED"


class RunNotWaiting(RunEngineError):
    """Only a run that waits for somebody can be resumed."""

    reason = "RUN_NOT_WAITING"


class BulkOperationNotFound(RunEngineError):
    """The tenant has no such bulk operation."""

    reason = "BULK_OPERATION_NOT_FOUND"


class BulkOperationTooLarge(RunEngineError):
    """More runs than a bulk operation may have, `metadata["limit"]`: nothing has been done."""

    reason = "BULK_OPERATION_TOO_LARGE"


class BulkOperationCompleted(RunEngineError):
    """A bulk operation that has come to all of its runs cannot be aborted."""

    reason = "BULK_OPERATION_COMPLETED"


class IdempotencyKeyReused(RunEngineError):
    """The idempotency key has been used for a different request."""

    reason = "IDEMPOTENCY_KEY_REUSED"


class QuotaExceeded(RunEngineError):
    """The tenant is over its quota; try again after `retry_after_seconds`."""

    reason = "QUOTA_EXCEEDED"


class Overloaded(RunEngineError):
    """The server has more to do than it can; try again after `retry_after_seconds`."""

    reason = "OVERLOADED"


class PayloadTooLarge(RunEngineError):
    """The payload exceeds what the server takes."""

    reason = "PAYLOAD_TOO_LARGE"


class Unavailable(RunEngineError):
    """The server, or its database, cannot be reached; try again."""

    reason = "UNAVAILABLE"


class Interrupted(RunEngineError):
    """The server stopped the call before it was done; try again."""

    reason = "INTERRUPTED"


class DeadlineExceeded(RunEngineError):
    """The call took longer than its timeout. The server may have executed it all the same."""

    reason = "DEADLINE_EXCEEDED"


class Internal(RunEngineError):
    """A fault of the server, or a response that no run engine sends."""

    reason = "INTERNAL"


_BY_REASON = {error.reason: error for error in RunEngineError.__subclasses__()}


# The errors of calls that failed without details, in the transport or a proxy.
_BY_CODE: Mapping[grpc.StatusCode, tuple[type[RunEngineError], str]] = {
    grpc.StatusCode.UNAVAILABLE: (Unavailable, "The run engine at {address} cannot be reached"),
    grpc.StatusCode.CANCELLED: (Unavailable, "The run engine at {address} dropped the call"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        DeadlineExceeded,
        "The run engine at {address} was too slow to respond",
    ),
    grpc.StatusCode.UNAUTHENTICATED: (Unauthenticated, "The run engine at {address} refused the token"),
    grpc.StatusCode.INVALID_ARGUMENT: (InvalidArgument, "The run engine at {address} refused the request"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        PayloadTooLarge,
        "The message is too large for the run engine at {address}",
    ),
}
# What gRPC says of what listens there, and what that means.
_MEANINGS = {
    "Failed parsing HTTP/2": "what listens there does not speak gRPC without TLS. Is it the address of REST?",
    "WRONG_VERSION_NUMBER": "what listens there does not speak TLS.",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is by nobody who is trusted here.",
}
# What gRPC puts before the error of the last server: of one server, and where calls take turns on several.
_ALL_FAILED = re.compile(
    "^(failed to connect to all addresses|connections to all backends failing); last error: "
)

_ANY_OTHER = (Internal, "The server at {address} returned {code}, as no run engine does")


def from_rpc_error(error: grpc.aio.AioRpcError, address: str) -> RunEngineError:
    """Returns the RunEngineError for `error`, which a call to `address` has raised."""
    status = _status(error)
    info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    for detail in status.details:
        for message in (info, bad_request, retry):
            detail.Unpack(message)
    if info.domain != _DOMAIN or not info.reason:
        return _without_details(error, address)
    delay = retry.retry_delay
    return _BY_REASON.get(info.reason, RunEngineError)(
        status.message or error.details() or info.reason,
        code=error.code(),
        reason=info.reason,
        metadata=info.metadata,
        violations=[Violation(each.field, each.description) for each in bad_request.field_violations],
        retry_after_seconds=delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
    )


def _status(error: grpc.aio.AioRpcError) -> Status:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                return Status.FromString(value)
            except DecodeError:
                break
    return Status()


def _without_details(error: grpc.aio.AioRpcError, address: str) -> RunEngineError:
    kind, sentence = _BY_CODE.get(error.code(), _ANY_OTHER)
    sentence = sentence.format(address=address, code=error.code().name)
    # The sentence has the address already; only the last error adds something.
    cause = _ALL_FAILED.sub("", error.details() or "")
    cause = next((meaning for words, meaning in _MEANINGS.items() if words in cause), cause)
    # The details of a deadline only repeat its name.
    if cause and error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
        sentence = f"{sentence}: {cause}"
    return kind(sentence if sentence.endswith("?") else sentence.removesuffix(".") + ".", code=error.code())
