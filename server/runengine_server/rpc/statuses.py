"""The one table from what went wrong to what a gRPC caller gets."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from runengine_server.domain import errors

_DOMAIN = "runengine.v1"

_CODES: dict[type[errors.RunEngineError], grpc.StatusCode] = {
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.NoOrganisation: grpc.StatusCode.PERMISSION_DENIED,
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.PayloadTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.WrongState: grpc.StatusCode.FAILED_PRECONDITION,
    errors.IdempotencyKeyReused: grpc.StatusCode.ALREADY_EXISTS,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Interrupted: grpc.StatusCode.ABORTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
}


def status_of(error: errors.RunEngineError) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """The code, and the google.rpc.Status: ErrorInfo; BadRequest where the request was malformed;
    RetryInfo where it should be sent again later. Source: contract, section Codes.
    """
    code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
    details: list[message.Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=_DOMAIN, metadata=error.metadata)
    ]
    if isinstance(error, errors.InvalidArgument):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=each.field, description=each.description)
            for each in error.violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, errors.Overloaded | errors.QuotaExceeded):
        delay = duration_pb2.Duration(seconds=error.retry_after_seconds)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return code, _status(code, str(error), details)


def internal_status(error_id: str) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """What a fault of ours looks like: an id that finds it in the log, and nothing else."""
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=_DOMAIN, metadata={"id": error_id})
    code = grpc.StatusCode.INTERNAL
    return code, _status(code, f"An internal error occurred; its id is {error_id}.", [info])


def _status(code: grpc.StatusCode, text: str, details: list[message.Message]) -> status_pb2.Status:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message=text, details=packed)
