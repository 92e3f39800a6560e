"""A row of the tables of bad input: what comes in through REST, what through gRPC, and the one
answer to both.

Where one of them has no such thing, its half of the row is None.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.support.bad_input.proto_wire import Wire, integer, text, trigger

RUNS, CAMPAIGNS, ARTIFACTS = (f"/runengine.v1.{name}Service/" for name in ("Run", "Campaign", "Artifact"))

# Stand for things that a test has made; each has the length of what replaces it.
COMPLETED, FAILED, CANCELLED, RUNNING, FOREIGN, CAMPAIGN = (
    f"{digit}" * 8 + "-0000-7000-8000-" + f"{digit}" * 12 for digit in "abcdef"
)
ABSENT = "0190a000-0000-7000-8000-000000000001"


class Answer(NamedTuple):
    code: str
    status: int
    reason: str
    by_transport: bool = False  # then gRPC carries no reason


INVALID = Answer("INVALID_ARGUMENT", 400, "INVALID_ARGUMENT")
NO_TOKEN = Answer("UNAUTHENTICATED", 401, "UNAUTHENTICATED")
NO_ORGANISATION = Answer("PERMISSION_DENIED", 403, "NO_ORGANISATION")
NO_RUN = Answer("NOT_FOUND", 404, "RUN_NOT_FOUND")
NO_CAMPAIGN = Answer("NOT_FOUND", 404, "CAMPAIGN_NOT_FOUND")
NO_ARTIFACT = Answer("NOT_FOUND", 404, "ARTIFACT_NOT_FOUND")
NO_STEP = Answer("NOT_FOUND", 404, "STEP_NOT_FOUND")
NO_PATH = Answer("", 404, "NOT_FOUND")
NO_METHOD = Answer("", 405, "METHOD_NOT_ALLOWED")
ACTIVE = Answer("FAILED_PRECONDITION", 409, "RUN_ACTIVE")
NOT_RETRYABLE = Answer("FAILED_PRECONDITION", 409, "RUN_NOT_RETRYABLE")
TERMINAL = Answer("FAILED_PRECONDITION", 409, "RUN_TERMINAL")
NOT_COMPLETED = Answer("FAILED_PRECONDITION", 409, "RUN_NOT_COMPLETED")
NOT_WAITING = Answer("FAILED_PRECONDITION", 409, "RUN_NOT_WAITING")
TOO_LARGE = Answer("INVALID_ARGUMENT", 413, "PAYLOAD_TOO_LARGE")
NO_JSON_TYPE = Answer("", 415, "UNSUPPORTED_MEDIA_TYPE")
UNIMPLEMENTED = Answer("UNIMPLEMENTED", 0, "", by_transport=True)
EXHAUSTED = Answer("RESOURCE_EXHAUSTED", 0, "", by_transport=True)


@dataclass(frozen=True)
class Http:
    method: str
    target: str
    body: bytes = b""
    headers: tuple[tuple[str, str | bytes], ...] = ()


@dataclass(frozen=True)
class Grpc:
    method: str
    request: bytes
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    token: bool = True
    gzip: bool = False


class Row(NamedTuple):
    name: str
    rest: Http | None
    grpc: Grpc | None
    answer: Answer


def get(target: str, *headers: tuple[str, str | bytes]) -> Http:
    return Http("GET", target, headers=headers)


def post(body: bytes | str, target: str = "/runs", media_type: str = "application/json") -> Http:
    raw = body.encode() if isinstance(body, str) else body
    return Http("POST", target, raw, (("content-type", media_type),))


def rpc(method: str, request: bytes, **more: Any) -> Grpc:
    service = CAMPAIGNS if method in ("CreateCampaign", "GetCampaign") else RUNS
    return Grpc(service + method, request, **more)


def by_id(given: str) -> tuple[Http, Grpc]:
    """GetRun with this id."""
    return get("/runs/" + quote(given, safe="")), rpc("GetRun", text(1, given))


def triggered(members: str | bytes, wire: bytes) -> tuple[Http, Grpc]:
    """TriggerRun of a good workflow with these further members of the body."""
    raw = members.encode() if isinstance(members, str) else members
    return post(b'{"workflowName":"rejecting",' + raw + b"}"), rpc("TriggerRun", wire)


def payload(json_text: str | bytes, value: Wire) -> tuple[Http, Grpc]:
    """TriggerRun with this as the member `x` of the payload."""
    raw = json_text.encode() if isinstance(json_text, str) else json_text
    return triggered(b'"triggerPayload":{"x":' + raw + b"}", trigger(payload={"x": value}))


def campaign_in_context(value: Wire) -> tuple[Http, Grpc]:
    members = json.dumps({"context": {"campaignId": value}})[1:-1]
    return triggered(members, trigger(context={"campaignId": value}))


def workflow(name: str) -> tuple[Http, Grpc]:
    return post(json.dumps({"workflowName": name})), rpc("TriggerRun", text(1, name))


def page(query: str, *fields: bytes) -> tuple[Http, Grpc | None]:
    """ListCampaignRuns; without fields, where gRPC has no such thing."""
    request = text(1, ABSENT) + b"".join(fields)
    return get(f"/campaigns/{ABSENT}/runs?{query}"), rpc("ListCampaignRuns", request) if fields else None


def status(number: int) -> bytes:
    return integer(2, number)


def limit(number: int) -> bytes:
    return integer(3, number)


def offset(number: int) -> bytes:
    return integer(4, number)


def page_token(content: str | bytes) -> bytes:
    return text(5, content)


GOOD = '{"workflowName":"rejecting"}'


def retry(run_id: str) -> tuple[Http, Grpc]:
    return Http("POST", f"/runs/{run_id}/retry"), rpc("RetryRun", text(1, run_id))


def cancel(run_id: str) -> tuple[Http, Grpc]:
    return Http("DELETE", f"/runs/{run_id}"), rpc("CancelRun", text(1, run_id))
