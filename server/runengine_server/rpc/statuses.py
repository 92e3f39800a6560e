"""Errors as gRPC statuses: the reason of an error decides the code."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2
from runengine.error_reasons import REASONS

from runengine_server.domain import errors

_DOMAIN = "runengine.v1"


def status_of(error: errors.RunEngineError) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """The code, and the google.rpc.Status: ErrorInfo; BadRequest where the request was malformed;
    RetryInfo where it should be sent again later. Source: contract, section Codes.
    """
    code = REASONS[error.reason].code
    assert code is not None, f"{error.reason} is of REST alone"
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
    """The status of a fault of the server: an id that finds it in the log, and nothing else."""
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=_DOMAIN, metadata={"id": error_id})
    code = grpc.StatusCode.INTERNAL
    return code, _status(code, f"An internal error occurred; its id is {error_id}.", [info])


def _status(code: grpc.StatusCode, text: str, details: list[message.Message]) -> status_pb2.Status:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message=text, details=packed)
