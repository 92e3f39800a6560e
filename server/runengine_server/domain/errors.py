"""The errors that a caller may get: the class's `reason`, and the message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


class RunEngineError(Exception):
    """The base of all errors that are meant for the caller, who gets the message as it is."""

    reason = "INTERNAL"

    def __init__(self, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.metadata = dict(metadata or {})


class Unauthenticated(RunEngineError):
    """The token is missing, malformed, expired or not ours. The caller does not learn which."""

    reason = "UNAUTHENTICATED"

    def __init__(self) -> None:
        super().__init__("A valid bearer token is required.")


class NoOrganisation(RunEngineError):
    """The token is good, but names no active organisation."""

    reason = "NO_ORGANISATION"

    def __init__(self) -> None:
        super().__init__("The token has no active organisation; choose one and sign in again.")


# A client refuses trailers beyond 8 KiB, in which they are a third longer than here.
_MAX_VIOLATIONS_BYTES = 4096
_MAX_FIELD = 200


@dataclass(frozen=True, slots=True)
class Violation:
    """`field` is the path in the request, as the proto names it."""

    field: str
    description: str


def _within_a_trailer(violations: Sequence[Violation]) -> Iterator[Violation]:
    size = 0
    for each in violations:
        short = Violation(each.field[:_MAX_FIELD], each.description)
        size += len(short.field.encode()) + len(short.description.encode()) + 8
        if size > _MAX_VIOLATIONS_BYTES:
            return
        yield short


class InvalidArgument(RunEngineError):
    """The request is malformed; `violations` has what is wrong with it, as far as trailers can carry it."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(_within_a_trailer(violations))
        first, more = violations[0], len(violations) - 1
        rest = f"; and {more} more" if more else ""
        super().__init__(f"{first.field[:_MAX_FIELD]}: {first.description}{rest}")


class PayloadTooLarge(RunEngineError):
    """Payload and context together, or the values of a resume, exceed 256 KiB."""

    reason = "PAYLOAD_TOO_LARGE"


class NotFound(RunEngineError):
    """Absent, or another tenant's: the caller gets the same bytes."""


class RunNotFound(NotFound):
    """No such run for this tenant."""

    reason = "RUN_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such run.")


class CampaignNotFound(NotFound):
    """No such campaign for this tenant."""

    reason = "CAMPAIGN_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such campaign.")


class ArtifactNotFound(NotFound):
    """No such artifact for this tenant."""

    reason = "ARTIFACT_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such artifact.")


class StepNotFound(NotFound):
    """The run has no such step, or the step no such attempt."""

    reason = "STEP_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("The run has no such step, or the step no such attempt.")


class BulkOperationNotFound(NotFound):
    """No such bulk operation for this tenant."""

    reason = "BULK_OPERATION_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such bulk operation.")


class BulkOperationTooLarge(RunEngineError):
    """It would have more runs than `limit`; nothing happened."""

    reason = "BULK_OPERATION_TOO_LARGE"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The filter finds more than {limit:,} runs, as many as an operation may have; nothing happened.",
            {"limit": str(limit)},
        )


class BulkOperationCompleted(RunEngineError):
    """Abort of one that has come to all of its runs."""

    reason = "BULK_OPERATION_COMPLETED"

    def __init__(self) -> None:
        super().__init__("The operation has come to all of its runs, and cannot be aborted.")


class LimitReached(RunEngineError):
    """The tenant has `limit` of these, as many as it may."""

    reason = "LIMIT_REACHED"

    def __init__(self, things: str, limit: int) -> None:
        super().__init__(
            f"The organisation has {limit} {things}, as many as it may.",
            {"limit": str(limit)},
        )


class WebhookEndpointNotFound(NotFound):
    """No such webhook endpoint for this tenant."""

    reason = "WEBHOOK_ENDPOINT_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such webhook endpoint.")


class WebhookDeliveryNotFound(NotFound):
    """The endpoint has none of that id, or no longer."""

    reason = "WEBHOOK_DELIVERY_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such delivery to this endpoint.")


class ScheduleNotFound(NotFound):
    """No such schedule for this tenant."""

    reason = "SCHEDULE_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such schedule.")


class WrongState(RunEngineError):
    """The run's status does not allow it; metadata: `status`, `attempt`, `allowed`."""


class RunActive(WrongState):
    """Retry of a run that is queued or running."""

    reason = "RUN_ACTIVE"


class RunNotRetryable(WrongState):
    """Retry of a run that is completed."""

    reason = "RUN_NOT_RETRYABLE"


class RunTerminal(WrongState):
    """Cancel of a run that is completed or failed."""

    reason = "RUN_TERMINAL"


class RunNotCompleted(WrongState):
    """The output of a run that has not completed."""

    reason = "RUN_NOT_COMPLETED"


class ResumeTokenExpired(RunEngineError):
    """Too much has happened since the token of a stream."""

    reason = "RESUME_TOKEN_EXPIRED"

    def __init__(self) -> None:
        super().__init__("Too much has happened since that resume token; begin anew, without it.")


class RunNotWaiting(WrongState):
    """Resume of a run that waits for nobody."""

    reason = "RUN_NOT_WAITING"


class IdempotencyKeyReused(RunEngineError):
    """The key came before with another request."""

    reason = "IDEMPOTENCY_KEY_REUSED"

    def __init__(self) -> None:
        super().__init__("This idempotency key was used with another request; take a new one.")


class Overloaded(RunEngineError):
    """The server has as many calls under way as it can serve in time."""

    reason = "OVERLOADED"
    retry_after_seconds = 1

    def __init__(self) -> None:
        super().__init__("The server is overloaded; try again in a moment.")


class QuotaExceeded(RunEngineError):
    """The tenant has as much under way as it may."""

    reason = "QUOTA_EXCEEDED"
    retry_after_seconds = 1


class TooManyQueued(QuotaExceeded):
    """The tenant has as many runs queued as it may."""

    def __init__(self, limit: int | None) -> None:
        super().__init__(f"The organisation has {limit:,} runs queued, as many as it may; try again later.")


class Interrupted(RunEngineError):
    """The server stopped the call before it was done."""

    reason = "INTERRUPTED"

    def __init__(self) -> None:
        super().__init__("The call was interrupted; try again.")


class Unavailable(RunEngineError):
    """The database cannot be reached, or what `what` names."""

    reason = "UNAVAILABLE"

    def __init__(self, what: str = "database") -> None:
        super().__init__(f"The {what} cannot be reached at the moment; try again.")


class LeaseEnded(Unavailable):
    """The lease of a run could not be renewed in time, or the process was stopped. No caller sees it."""


class Denied(Unavailable):
    """The database is there, but the login, a grant or the role was revoked. It passes when that is granted
    again. No caller sees more than Unavailable.
    """


class StatementRefused(Exception):
    """The database refused a statement: a fault of the server. No caller sees it."""


class Fenced(Exception):
    """This worker no longer holds the run: it was cancelled, or another has taken it over.

    Raised by every write whose epoch is old; nothing of the write took effect. No caller sees it.
    """
