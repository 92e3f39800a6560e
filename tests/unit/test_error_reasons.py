"""What the options of ErrorReason say, and that server and client know each of them."""

from __future__ import annotations

from collections.abc import Iterator

from runengine.error_reasons import REASONS
from runengine.v1 import (
    artifact_service_pb2,
    bulk_operation_service_pb2,
    campaign_service_pb2,
    run_service_pb2,
    schedule_service_pb2,
    webhook_service_pb2,
)
from runengine.v1.error_reason_pb2 import ErrorReason
from runengine_client import errors as client_errors
from runengine_server.domain import errors
from runengine_server.rpc.statuses import internal_status

SENT = {word for word, reason in REASONS.items() if reason.code is not None}


def kinds(base: type[errors.RunEngineError]) -> Iterator[type[errors.RunEngineError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_every_reason_has_an_http_status() -> None:
    _unspecified, *reasons = ErrorReason.DESCRIPTOR.values
    assert list(REASONS) == [reason.name.removeprefix("ERROR_REASON_") for reason in reasons]


def test_reasons_with_one_status_code_have_one_http_status() -> None:
    """So that an error without a reason gets it too. A payload too large is the exception."""
    pairs = {(each.code, each.http_status) for word, each in REASONS.items() if word != "PAYLOAD_TOO_LARGE"}
    codes = [code for code, _ in pairs if code is not None]
    assert len(codes) == len(set(codes))


def test_each_reason_is_returned_by_methods_that_there_are() -> None:
    methods = {
        method.name
        for file in (
            run_service_pb2,
            campaign_service_pb2,
            artifact_service_pb2,
            bulk_operation_service_pb2,
            webhook_service_pb2,
            schedule_service_pb2,
        )
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    named = {name for reason in REASONS.values() for name in reason.returned_by}
    assert named - {"*"} <= methods


def test_every_reason_that_grpc_sends_has_an_error_of_the_server() -> None:
    """The deadline is gRPC's own."""
    assert {kind.reason for kind in kinds(errors.RunEngineError)} | {"DEADLINE_EXCEEDED"} == SENT


def test_a_class_of_the_client_has_a_reason_that_grpc_sends_for_itself_alone() -> None:
    """A reason without a class is raised as RunEngineError, which has the reason too."""
    reasons = [kind.reason for kind in client_errors.RunEngineError.__subclasses__()]
    assert len(reasons) == len(set(reasons))
    assert set(reasons) <= SENT


def test_a_fault_of_the_server_has_the_code_that_its_reason_says() -> None:
    code, _ = internal_status("1")
    assert code is REASONS["INTERNAL"].code
