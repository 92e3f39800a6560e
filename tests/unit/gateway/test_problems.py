"""gRPC errors as problems (contract: Codes; RFC 9457)."""

import json
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_gateway.problems import problem_of

REQUEST = TriggerRunRequest.DESCRIPTOR


def rpc_error(
    code: grpc.StatusCode, text: str = "the server's words", details: Sequence[Message] | bytes | None = None
) -> grpc.aio.AioRpcError:
    """The error of a call; `details` makes its google.rpc.Status, bytes stand for it as they are."""
    trailing = grpc.aio.Metadata()
    if isinstance(details, bytes):
        trailing.add("grpc-status-details-bin", details)
    elif details is not None:
        rich = status_pb2.Status(code=code.value[0], message=text)
        for detail in details:
            rich.details.add().Pack(detail)
        trailing.add("grpc-status-details-bin", rich.SerializeToString())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, text, "debug: ipv4:10.0.0.1:5432")


def info(reason: str, **metadata: str) -> Any:
    return error_details_pb2.ErrorInfo(reason=reason, domain="runengine.v1", metadata=metadata)


def body_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(bytes(problem_of(error, REQUEST).response().body))
    return body


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", 400),
        (grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE", 413),
        (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", 401),
        (grpc.StatusCode.PERMISSION_DENIED, "NO_ORGANISATION", 403),
        (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND", 404),
        (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED", 409),
        (grpc.StatusCode.ABORTED, "ABORTED", 409),
        (grpc.StatusCode.FAILED_PRECONDITION, "RUN_ACTIVE", 409),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", 429),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE", 413),
        (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", 504),
        (grpc.StatusCode.CANCELLED, "CANCELLED", 499),
    ],
)
def test_a_code_has_its_http_status_and_keeps_its_reason(
    code: grpc.StatusCode, reason: str, status: int
) -> None:
    problem = problem_of(rpc_error(code, details=[info(reason)]), REQUEST)
    assert (problem.status, problem.reason, problem.detail) == (status, reason, "the server's words")


def test_a_conflict_of_state_has_every_member_of_the_problem() -> None:
    error = rpc_error(
        grpc.StatusCode.FAILED_PRECONDITION,
        details=[info("RUN_TERMINAL", status="completed", attempt="1", allowed="")],
    )
    response = problem_of(error, REQUEST).response()
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(bytes(response.body)) == {
        "type": "urn:runengine:error:RUN_TERMINAL",
        "title": "Run terminal",
        "status": 409,
        "detail": "the server's words",
        "reason": "RUN_TERMINAL",
        "metadata": {"status": "completed", "attempt": "1", "allowed": ""},
    }


def test_violations_are_reported_in_json_names() -> None:
    bad_request = error_details_pb2.BadRequest()
    for field in ("workflow_name", "context.campaignId", "trigger_payload.a_b[0]"):
        bad_request.field_violations.add(field=field, description="is wrong")
    error = rpc_error(grpc.StatusCode.INVALID_ARGUMENT, details=[info("INVALID_ARGUMENT"), bad_request])
    body = body_of(error)
    assert body["violations"] == [
        {"field": "workflowName", "description": "is wrong"},
        {"field": "context.campaignId", "description": "is wrong"},
        {"field": "triggerPayload.a_b[0]", "description": "is wrong"},
    ]
    assert body["detail"] == "The request is malformed."


def test_a_400_has_violations_even_where_the_server_names_none_and_no_other_status_has() -> None:
    assert body_of(rpc_error(grpc.StatusCode.INVALID_ARGUMENT))["violations"] == []
    assert "violations" not in body_of(rpc_error(grpc.StatusCode.NOT_FOUND))


@pytest.mark.parametrize(
    ("delay", "header"),
    [
        (Duration(seconds=3), "3"),
        (Duration(seconds=3, nanos=1), "4"),
        (Duration(nanos=200_000_000), "1"),
        (Duration(), "1"),
    ],
)
def test_retry_after_is_in_whole_seconds_rounded_up(delay: Duration, header: str) -> None:
    details = [info("OVERLOADED"), error_details_pb2.RetryInfo(retry_delay=delay)]
    problem = problem_of(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, details=details), REQUEST)
    assert problem.headers["retry-after"] == header


def test_retry_after_is_passed_on_with_other_codes_where_the_server_sends_it() -> None:
    details = [info("UNAVAILABLE"), error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2))]
    assert problem_of(rpc_error(grpc.StatusCode.UNAVAILABLE, details=details), REQUEST).headers == {
        "retry-after": "2"
    }
    assert problem_of(rpc_error(grpc.StatusCode.UNAVAILABLE), REQUEST).headers == {}


def test_a_401_names_the_scheme() -> None:
    error = rpc_error(grpc.StatusCode.UNAUTHENTICATED, details=[info("UNAUTHENTICATED")])
    assert problem_of(error, REQUEST).headers == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.OUT_OF_RANGE,
    ],
)
@pytest.mark.parametrize("rich", [True, False])
def test_a_bug_shows_nothing_of_its_text(code: grpc.StatusCode, rich: bool) -> None:
    details = [info("SECRET_REASON", path="/secret", id="7f")] if rich else None
    response = problem_of(rpc_error(code, "postgresql://secret@db", details), REQUEST).response()
    body = json.loads(bytes(response.body))
    assert (body["status"], body["reason"]) == (500, "INTERNAL")
    assert body["metadata"] == ({"id": "7f"} if rich else {})
    assert b"secret" not in bytes(response.body).lower()


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.NOT_FOUND]
)
@pytest.mark.parametrize("details", [None, b"\xff\xff not a status", []])
def test_an_error_without_details_has_its_code_as_reason_and_nothing_of_grpcs_text(
    code: grpc.StatusCode, details: list[Message] | bytes | None
) -> None:
    error = rpc_error(code, "failed to connect to all addresses; last error: ipv4:10.0.0.1:50051", details)
    body = body_of(error)
    assert body["reason"] == code.name
    assert "10.0.0.1" not in json.dumps(body)
    assert "addresses" not in json.dumps(body)


def test_a_detail_that_does_not_parse_is_as_good_as_none() -> None:
    rich = status_pb2.Status(code=5, message="words")
    rich.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    body = body_of(rpc_error(grpc.StatusCode.NOT_FOUND, details=rich.SerializeToString()))
    assert (body["status"], body["reason"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        ("SERVER: Received message larger than max (5000000 vs. 4194304)", 413, "PAYLOAD_TOO_LARGE"),
        ("Stream removed (CLIENT: Received message larger than max (5 vs. 4))", 500, "INTERNAL"),
        ("Stream removed (received metadata size exceeds hard limit)", 500, "INTERNAL"),
        ("Concurrent RPC limit exceeded!", 429, "OVERLOADED"),
    ],
)
def test_a_refusal_of_the_transport_is_reported_by_its_cause(text: str, status: int, reason: str) -> None:
    body = body_of(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, text))
    assert (body["status"], body["reason"]) == (status, reason)
    assert "larger than max" not in json.dumps(body)
