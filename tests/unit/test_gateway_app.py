"""The gateway before a real gRPC server whose answers each test writes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from runengine.v1 import (
    artifact_service_pb2,
    campaign_pb2,
    campaign_service_pb2,
    run_pb2,
    run_service_pb2,
)
from runengine_gateway.app import create_gateway
from starlette.types import ASGIApp

from tests.support.patience import SECONDS

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

TOKEN = {"authorization": "Bearer good"}
RUN_ID = "0190a000-0000-7000-8000-000000000001"


async def abort(context: Context, code: grpc.StatusCode, reason: str, **metadata: str) -> None:
    rich = status_pb2.Status(code=code.value[0], message=f"words about {reason}")
    rich.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=reason, domain="runengine.v1", metadata=metadata)
    )
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        bad_request = error_details_pb2.BadRequest()
        bad_request.field_violations.add(field="run_id", description="must be a UUID")
        rich.details.add().Pack(bad_request)
    details = (("grpc-status-details-bin", rich.SerializeToString()),)
    await context.abort(code, rich.message, trailing_metadata=details)


class Server:
    """Judges the token as the real one does, keeps what it was sent, and answers as the test says."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.received: list[tuple[str, Message, dict[str, str]]] = []
        self.answer: Callable[[Message, Context], Awaitable[Message | None]] = self.nothing
        self.download: Callable[[Context], AsyncIterator[Message]] = self.no_artifact
        self.download_ended = asyncio.Event()

    async def nothing(self, request: Message, context: Context) -> None:
        await abort(context, grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")

    async def no_artifact(self, context: Context) -> AsyncIterator[Message]:
        await abort(context, grpc.StatusCode.NOT_FOUND, "ARTIFACT_NOT_FOUND")
        yield artifact_service_pb2.DownloadArtifactResponse()

    async def admit(self, name: str, request: Message, context: Context) -> None:
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        self.received.append((name, request, metadata))
        if metadata.get("authorization") == "Bearer stateless":
            await abort(context, grpc.StatusCode.PERMISSION_DENIED, "NO_ORGANISATION")
        if metadata.get("authorization") != TOKEN["authorization"]:
            await abort(context, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")

    def unary(self, name: str) -> Callable[[Message, Context], Awaitable[Message | None]]:
        async def handle(request: Message, context: Context) -> Message | None:
            await self.admit(name, request, context)
            if getattr(request, "run_id", "some") in ("", "bad"):
                await abort(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
            return await self.answer(request, context)

        return handle

    async def download_artifact(self, request: Message, context: Context) -> AsyncIterator[Message]:
        await self.admit("DownloadArtifact", request, context)
        try:
            async for part in self.download(context):
                yield part
        finally:
            self.download_ended.set()

    def serve(self, server: grpc.aio.Server) -> None:
        """Serves all three services by the methods above."""
        for proto in (run_service_pb2, campaign_service_pb2, artifact_service_pb2):
            for service in proto.DESCRIPTOR.services_by_name.values():
                handlers = {method.name: self.handler(method) for method in service.methods}
                server.add_generic_rpc_handlers(
                    [grpc.method_handlers_generic_handler(service.full_name, handlers)]
                )

    def handler(self, method: Any) -> Any:
        handle: Any = self.download_artifact if method.server_streaming else self.unary(method.name)
        kind = (
            grpc.unary_stream_rpc_method_handler
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return kind(
            handle,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )

    def replies(self, message: Message) -> None:
        async def answer(request: Message, context: Context) -> Message:
            return message

        self.answer = answer

    def aborts(self, code: grpc.StatusCode, reason: str, **metadata: str) -> None:
        async def answer(request: Message, context: Context) -> None:
            await abort(context, code, reason, **metadata)

        self.answer = answer

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.received]


class Running:
    """A started server, the health it reports, and the gateway before it."""

    def __init__(self, server: Server, health_servicer: Any, app: ASGIApp) -> None:
        self.server, self.health, self.app = server, health_servicer, app


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Running]:
    server = Server()
    grpc_server = grpc.aio.server(options=[("grpc.max_receive_message_length", 320 * 1024)])
    server.serve(grpc_server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, grpc_server)
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Running(server, health_servicer, create_gateway(channel, deadline_seconds=2.0))
    await grpc_server.stop(None)


@pytest.fixture
def server(running: Running) -> Server:
    running.server.forget()
    return running.server


@pytest.fixture
async def client(running: Running, server: Server) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(running.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=TOKEN) as client:
        yield client


def problem(response: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """The body of a problem, whose form is checked here for every test."""
    assert (response.status_code, response.json()["reason"]) == (status, reason)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"] == f"urn:runengine:error:{reason}"
    assert set(body) - {"violations"} == {"type", "title", "status", "detail", "reason", "metadata"}
    assert ("violations" in body) is (status == 400)
    return body


def violations(response: httpx.Response) -> dict[str, str]:
    body = problem(response, 400, "INVALID_ARGUMENT")
    return {violation["field"]: violation["description"] for violation in body["violations"]}


async def test_a_trigger_sends_the_message_and_answers_201_with_the_run(
    client: httpx.AsyncClient, server: Server
) -> None:
    server.replies(
        run_service_pb2.TriggerRunResponse(run=run_pb2.Run(id=RUN_ID, status=run_pb2.RUN_STATUS_QUEUED))
    )
    response = await client.post(
        "/runs",
        json={"workflowName": "w", "triggerPayload": {"n": 1, "list": []}, "context": None},
        headers={
            "idempotency-key": "k 1",
            "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
            "x-tenant": "t",
        },
    )
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.json()["id"] == RUN_ID
    assert response.json()["status"] == "queued"

    expected = run_service_pb2.TriggerRunRequest(workflow_name="w")
    expected.trigger_payload.update({"n": 1, "list": []})
    [(_, sent, metadata)] = server.received
    assert sent == expected
    assert metadata["authorization"] == "Bearer good"
    assert metadata["idempotency-key"] == "k 1"
    assert metadata["traceparent"].startswith("00-")
    assert "x-tenant" not in metadata


@pytest.mark.parametrize(
    ("method", "path", "rpc", "reply", "status"),
    [
        ("GET", f"/runs/{RUN_ID}", "GetRun", run_service_pb2.GetRunResponse, 200),
        ("POST", f"/runs/{RUN_ID}/retry", "RetryRun", run_service_pb2.RetryRunResponse, 200),
        ("DELETE", f"/runs/{RUN_ID}", "CancelRun", run_service_pb2.CancelRunResponse, 200),
        ("POST", "/campaigns", "CreateCampaign", campaign_service_pb2.CreateCampaignResponse, 201),
        ("GET", f"/campaigns/{RUN_ID}", "GetCampaign", campaign_service_pb2.GetCampaignResponse, 200),
    ],
)
async def test_a_response_is_unwrapped_where_its_rule_says_so(
    client: httpx.AsyncClient, server: Server, method: str, path: str, rpc: str, reply: Any, status: int
) -> None:
    message = reply()
    getattr(message, message.DESCRIPTOR.fields[0].name).id = "the id"
    server.replies(message)
    response = await client.request(method, path, json={})
    assert (response.status_code, response.json()["id"]) == (status, "the id")
    assert server.names == [rpc]


async def test_steps_are_answered_under_their_name(client: httpx.AsyncClient, server: Server) -> None:
    server.replies(run_service_pb2.ListRunStepsResponse(steps=[run_pb2.RunStep(step_id="draft")]))
    response = await client.get(f"/runs/{RUN_ID}/steps")
    [step] = response.json()["steps"]
    assert (step["stepId"], step["outputArtifactIds"], step["cacheHit"]) == ("draft", None, False)


async def test_a_campaign_may_be_created_with_its_id(client: httpx.AsyncClient, server: Server) -> None:
    campaign = campaign_pb2.Campaign(id=RUN_ID, status=campaign_pb2.CAMPAIGN_STATUS_DRAFT)
    server.replies(campaign_service_pb2.CreateCampaignResponse(campaign=campaign))
    response = await client.post("/campaigns", json={"id": RUN_ID})
    assert response.json() == {
        "id": RUN_ID,
        "status": "draft",
        "bundleUrl": None,
        "latestRunId": None,
        "createdAt": None,
        "updatedAt": None,
    }
    assert server.received[0][1] == campaign_service_pb2.CreateCampaignRequest(id=RUN_ID)


async def test_a_list_takes_its_query_and_tells_an_explicit_zero_from_an_absent_one(
    client: httpx.AsyncClient, server: Server
) -> None:
    server.replies(run_service_pb2.ListCampaignRunsResponse(limit=5))
    response = await client.get("/campaigns/c/runs?status=failed&status=queued&limit=0")
    page = {"runs": [], "total": 0, "limit": 5, "offset": 0, "nextPageToken": None, "statusCounts": None}
    assert response.json() == page
    [(_, sent, _)] = server.received
    assert isinstance(sent, run_service_pb2.ListCampaignRunsRequest)
    assert list(sent.status) == [run_pb2.RUN_STATUS_FAILED, run_pb2.RUN_STATUS_QUEUED]
    assert sent.HasField("limit")
    assert not sent.HasField("offset")


async def test_every_fault_of_a_query_is_told_at_once(client: httpx.AsyncClient, server: Server) -> None:
    response = await client.get(
        "/campaigns/c/runs?status=dead&limit=1e3&offset=1&offset=2&Limit=1&campaignId=x"
    )
    assert violations(response) == {
        "status": "must be one of queued, running, completed, failed, cancelled",
        "limit": "must be an integer from -2147483648 to 2147483647",
        "offset": "is given more than once",
        "Limit": "is no parameter of this path",
        "campaignId": "is no parameter of this path",
    }
    assert server.names == ["GetRun"]


async def test_every_fault_of_a_body_is_told_at_once(client: httpx.AsyncClient, server: Server) -> None:
    response = await client.post(
        "/runs?x=1",
        content=b'{"workflowName":1,"triggerPayload":{"items":[{"price":NaN}]},"context":[],"workflow_name":"w"}',
        headers={"content-type": "application/json"},
    )
    assert violations(response) == {
        "x": "is no parameter of this path",
        "triggerPayload.items[0].price": "is NaN, which is not JSON",
        "workflowName": "must be a string",
        "context": "must be an object or null",
        "workflow_name": "is no field of this request",
    }
    assert server.names == ["GetRun"], "nothing but the token is asked for"


async def test_violations_that_the_server_finds_are_told_in_json_names(client: httpx.AsyncClient) -> None:
    assert violations(await client.get("/runs/bad")) == {"runId": "must be a UUID"}


BAD_REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/runs", {"content": b"{", "headers": {"content-type": "application/json"}}),
    ("POST", "/runs", {"content": b"{}"}),
    ("POST", "/runs", {"content": b" " * 300_000, "headers": {"content-type": "application/json"}}),
    ("POST", "/campaigns", {"json": {"nope": 1}}),
    ("GET", "/campaigns/c/runs?limit=x", {}),
    ("GET", "/artifacts/a?x=1", {}),
    ("POST", "/runs", {"json": {}, "headers": [("idempotency-key", "a"), ("idempotency-key", "b")]}),
]


@pytest.mark.parametrize(("method", "path", "more"), BAD_REQUESTS)
@pytest.mark.parametrize(
    ("token", "status", "reason"),
    [
        (None, 401, "UNAUTHENTICATED"),
        ("Bearer x", 401, "UNAUTHENTICATED"),
        ("Bearer stateless", 403, "NO_ORGANISATION"),
    ],
)
async def test_the_token_is_judged_before_the_request(
    client: httpx.AsyncClient,
    server: Server,
    method: str,
    path: str,
    more: dict[str, Any],
    token: str | None,
    status: int,
    reason: str,
) -> None:
    del client.headers["authorization"]
    if token is not None:
        client.headers["authorization"] = token
    problem(await client.request(method, path, **more), status, reason)
    assert server.names == ["GetRun"]


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer good"), ("authorization", "Bearer good")],
        [("authorization", "Bearer good"), ("Authorization", "Bearer other")],
        [(b"authorization", "Bearer gööd".encode())],
        [(b"authorization", b"Bearer good\xff")],
        [("authorization", "Bearer " + "x" * 20_000)],
        [("authorization", "")],
    ],
)
async def test_a_token_sent_twice_or_unfit_for_metadata_is_as_good_as_none(
    client: httpx.AsyncClient, server: Server, headers: Any
) -> None:
    del client.headers["authorization"]
    response = await client.get(f"/runs/{RUN_ID}", headers=headers)
    problem(response, 401, "UNAUTHENTICATED")
    assert response.headers["www-authenticate"] == "Bearer"
    assert "authorization" not in server.received[0][2]


@pytest.mark.parametrize(
    "keys", [["a", "b"], ["ä"], ["a" * 1025], [""]], ids=["two", "not ASCII", "too long", "empty"]
)
async def test_an_unfit_idempotency_key_is_a_violation(client: httpx.AsyncClient, keys: list[str]) -> None:
    headers = [(b"Idempotency-Key", key.encode()) for key in keys]
    response = await client.post("/runs", json={"workflowName": "w"}, headers=headers)
    assert set(violations(response)) == {"Idempotency-Key"}


async def test_a_traceparent_that_is_none_is_left_out(client: httpx.AsyncClient, server: Server) -> None:
    await client.get(f"/runs/{RUN_ID}", headers={b"traceparent": b"\xff" * 60})
    assert "traceparent" not in server.received[0][2]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=UTF-8",
        'application/json;charset="utf-8"',
        "application/json; charset=utf8",
        "application/json; charset=US-ASCII",
        "application/json;charset=",
        " application/json ;; Charset = 'Utf-8' ;",
        'application/json; profile="https://example.com/a;charset=latin-1"',
        'application/json; profile="a\\";charset=latin-1"; charset=utf-8',
        "application/json; odata.metadata=minimal; IEEE754Compatible=true",
        "application/json; nonsense",
    ],
)
async def test_a_json_content_type_is_taken(
    client: httpx.AsyncClient, server: Server, content_type: str
) -> None:
    server.replies(campaign_service_pb2.CreateCampaignResponse())
    response = await client.post("/campaigns", content=b"{}", headers={"content-type": content_type})
    assert response.status_code == 201


@pytest.mark.parametrize(
    ("headers", "wrong"),
    [
        ({}, "content-type"),
        ({"content-type": ""}, "content-type"),
        ({"content-type": "text/plain"}, "content-type"),
        ({"content-type": "application/jsonx"}, "content-type"),
        ({"content-type": "application/json, application/json"}, "content-type"),
        ({"content-type": "application/x-www-form-urlencoded"}, "content-type"),
        ([("content-type", "application/json"), ("content-type", "application/json")], "content-type"),
        ({"content-type": "application/json; charset=latin-1"}, "charset"),
        ({"content-type": 'application/json; CHARSET = "UTF-16"'}, "charset"),
        ({"content-type": "application/json; charset=utf-8; charset=utf-7"}, "charset"),
        ({"content-type": "application/json; profile=x; charset=utf-8x"}, "charset"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, "content-encoding"),
    ],
)
async def test_any_other_content_type_is_415_and_says_what_is_wrong(
    client: httpx.AsyncClient, server: Server, headers: Any, wrong: str
) -> None:
    response = await client.post("/campaigns", content=b"{}", headers=headers)
    detail = problem(response, 415, "UNSUPPORTED_MEDIA_TYPE")["detail"]
    assert re.findall("content-type|charset|content-encoding", detail) == [wrong]
    assert server.names == ["GetRun"]


BODYLESS: list[dict[str, Any]] = [
    {},
    {"content": b""},
    {"content": b"", "headers": {"content-type": "application/json"}},
    {"content": b"", "headers": {"content-type": "text/plain;charset=UTF-8"}},
    {"content": b"", "headers": {"content-length": "0", "content-encoding": "gzip"}},
]


@pytest.mark.parametrize("sent", BODYLESS)
async def test_a_campaign_is_created_without_a_body(
    client: httpx.AsyncClient, server: Server, sent: dict[str, Any]
) -> None:
    server.replies(campaign_service_pb2.CreateCampaignResponse())
    assert (await client.post("/campaigns", **sent)).status_code == 201
    assert server.received[-1][1] == campaign_service_pb2.CreateCampaignRequest()


@pytest.mark.parametrize("sent", BODYLESS)
async def test_what_a_missing_body_should_have_held_the_server_misses(
    client: httpx.AsyncClient, server: Server, sent: dict[str, Any]
) -> None:
    server.replies(run_service_pb2.TriggerRunResponse())
    await client.post("/runs", **sent)
    assert server.received[-1][1] == run_service_pb2.TriggerRunRequest()


async def test_null_counts_as_absent_for_every_member_of_a_body(
    client: httpx.AsyncClient, server: Server
) -> None:
    server.replies(run_service_pb2.TriggerRunResponse())
    nothing = {"workflowName": None, "triggerPayload": None, "context": None, "priority": None}
    await client.post("/runs", json=nothing)
    server.replies(campaign_service_pb2.CreateCampaignResponse())
    await client.post("/campaigns", json={"id": None})
    assert [request for _, request, _ in server.received] == [
        run_service_pb2.TriggerRunRequest(),
        campaign_service_pb2.CreateCampaignRequest(),
    ]
    response = await client.post("/campaigns", json={"nope": None})
    assert violations(response) == {"nope": "is no field of this request"}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_body_where_none_is_due_must_be_empty(
    client: httpx.AsyncClient, server: Server, method: str
) -> None:
    server.replies(run_service_pb2.GetRunResponse())
    if method == "DELETE":
        server.replies(run_service_pb2.CancelRunResponse())
    assert (await client.request(method, f"/runs/{RUN_ID}", json={})).status_code == 200
    response = await client.request(method, f"/runs/{RUN_ID}", json={"runId": "x"})
    assert violations(response) == {"runId": "is no field of this request"}
    assert set(violations(await client.request(method, f"/runs/{RUN_ID}", json=[]))) == {"body"}


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_may_have_256_kib_and_no_more(
    client: httpx.AsyncClient, server: Server, declared: bool
) -> None:
    server.replies(run_service_pb2.TriggerRunResponse())
    consumed = 0

    async def chunks(size: int) -> AsyncIterator[bytes]:
        nonlocal consumed
        consumed = 0
        start = b'{"workflowName":"'
        yield start
        rest = size - len(start) - 2
        while rest > 0:
            consumed += 1
            yield b"x" * min(rest, 65_536)
            rest -= 65_536
        yield b'"}'

    async def post(size: int) -> httpx.Response:
        headers = {"content-type": "application/json", **({"content-length": str(size)} if declared else {})}
        return await client.post("/runs", content=chunks(size), headers=headers)

    assert (await post(262_144)).status_code == 201
    problem(await post(262_145), 413, "PAYLOAD_TOO_LARGE")
    problem(await post(100_000_000), 413, "PAYLOAD_TOO_LARGE")
    assert consumed <= 5, "what is over the limit is not read"


async def test_a_message_too_large_for_the_transport_is_413_and_the_token_comes_first(
    client: httpx.AsyncClient, server: Server
) -> None:
    body = {"workflowName": "w", "triggerPayload": {"list": [1] * 60_000}}  # 120 KiB of JSON, 640 of Struct
    problem(await client.post("/runs", json=body), 413, "PAYLOAD_TOO_LARGE")
    client.headers["authorization"] = "Bearer bad"
    problem(await client.post("/runs", json=body), 401, "UNAUTHENTICATED")
    assert server.names == ["GetRun", "GetRun"]


async def test_a_reply_too_large_for_the_channel_is_no_fault_of_the_caller(
    client: httpx.AsyncClient, server: Server
) -> None:
    server.replies(run_service_pb2.GetRunResponse(run=run_pb2.Run(workflow_name="x" * 5_000_000)))
    problem(await client.get(f"/runs/{RUN_ID}"), 500, "INTERNAL")


@pytest.mark.parametrize(
    ("path", "run_id"),
    [
        ("/runs/a%2Fb", "a/b"),
        ("/runs/a%2fsteps", "a/steps"),
        ("/runs/%20", " "),
        ("/runs/%00", "\0"),
        ("/runs/%ff", "\ufffd"),
        ("/runs/%C3%BC", "ü"),
        ("/runs/a%3Fb", "a?b"),
        ("/runs/a+b", "a+b"),
        ("/runs/...", "..."),
        ("/r%75ns/x", "x"),
    ],
)
async def test_a_segment_reaches_the_server_decoded_and_whole(
    client: httpx.AsyncClient, server: Server, path: str, run_id: str
) -> None:
    problem(await client.get(path), 404, "RUN_NOT_FOUND")
    assert server.received[0][1] == run_service_pb2.GetRunRequest(run_id=run_id)


@pytest.mark.parametrize(
    "raw_path",
    [b"/", b"", b"/run", b"/runs/", b"/runs/x/", b"//runs/x", b"/runs//x", b"/runs//steps", b"/runs/x/steps/",
     b"/runs/.", b"/runs/..", b"/runs/%2e%2e", b"/runs/../runs/x", b"/runs/./x", b"/runs%2Fx", b"/RUNS/x",
     b"/runs/x/steps/y", b"*", b"/healthz/", b"/v1/runs/x"],
)  # fmt: skip
async def test_any_other_path_is_404_and_no_call(running: Running, server: Server, raw_path: bytes) -> None:
    status, headers, body = await ask(running.app, "GET", raw_path)
    assert status == 404
    assert json.loads(body)["reason"] == "NOT_FOUND"
    assert headers[b"content-type"] == b"application/problem+json"
    assert server.received == []


async def ask(app: ASGIApp, method: str, raw_path: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """One request past httpx, which would tidy the path up."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": raw_path.decode(),
        "raw_path": raw_path,
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer good")],
    }
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", f"/runs/{RUN_ID}", "DELETE, GET, HEAD"),
        ("GET", "/runs", "POST"),
        ("HEAD", "/runs", "POST"),
        ("OPTIONS", "/campaigns", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("GET", f"/runs/{RUN_ID}/retry", "POST"),
        ("BREW", f"/campaigns/{RUN_ID}/runs", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_with_those_that_the_path_has(
    client: httpx.AsyncClient, server: Server, method: str, path: str, allow: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allow
    if method != "HEAD":
        problem(response, 405, "METHOD_NOT_ALLOWED")
    assert server.received == []


async def test_head_answers_the_headers_of_get(client: httpx.AsyncClient, server: Server) -> None:
    server.replies(run_service_pb2.GetRunResponse())
    get, head = await client.get(f"/runs/{RUN_ID}"), await client.head(f"/runs/{RUN_ID}")
    assert head.content == b""
    assert head.headers == get.headers


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "RUN_ACTIVE", 409),
        (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED", 409),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", 429),
        (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", 503),
    ],
)
async def test_an_error_of_the_server_is_a_problem(
    client: httpx.AsyncClient, server: Server, code: grpc.StatusCode, reason: str, status: int
) -> None:
    server.aborts(code, reason, attempt="2", allowed="completed")
    body = problem(await client.post(f"/runs/{RUN_ID}/retry"), status, reason)
    assert body["metadata"] == {"attempt": "2", "allowed": "completed"}
    assert body["detail"] == f"words about {reason}"


async def test_an_exception_in_the_server_tells_nothing(client: httpx.AsyncClient, server: Server) -> None:
    async def answer(request: Message, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNKNOWN, "Unexpected: postgresql://user:secret@db")

    server.answer = answer
    response = await client.get(f"/runs/{RUN_ID}")
    problem(response, 500, "INTERNAL")
    assert "secret" not in response.text


async def test_an_exception_in_the_gateway_tells_nothing(client: httpx.AsyncClient, server: Server) -> None:
    far_away = Timestamp(seconds=2**60)  # no datetime goes so far
    server.replies(run_service_pb2.GetRunResponse(run=run_pb2.Run(created_at=far_away)))
    response = await client.get(f"/runs/{RUN_ID}")
    body = problem(response, 500, "INTERNAL")
    assert body["detail"] == "The server failed to answer. The fault is its own."


async def test_a_call_over_its_deadline_is_504(running: Running, server: Server) -> None:
    async def answer(request: Message, context: Context) -> None:
        await asyncio.sleep(60)

    server.answer = answer
    response = await asyncio.wait_for(ask(running.app, "GET", b"/runs/x"), SECONDS)
    assert response[0] == 504
    assert json.loads(response[2])["reason"] == "DEADLINE_EXCEEDED"


async def test_a_server_that_is_away_is_503_without_its_address() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        transport = httpx.ASGITransport(create_gateway(channel))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=TOKEN) as client:
            good, bad = await client.get("/runs/x"), await client.post("/runs", content=b"{")
            ready, alive = await client.get("/readyz"), await client.get("/healthz")
    for response in (good, bad, ready):
        problem(response, 503, "UNAVAILABLE")
        assert "127.0.0.1" not in response.text
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})


async def test_ready_follows_the_health_of_the_server(running: Running, client: httpx.AsyncClient) -> None:
    del client.headers["authorization"]
    await running.health.set("", health_pb2.HealthCheckResponse.SERVING)
    assert (await client.get("/readyz")).status_code == 200
    await running.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    problem(await client.get("/readyz"), 503, "UNAVAILABLE")


def artifact(
    *data: bytes, size: int | None = None, name: str = "bundle.zip", media_type: str = "application/zip"
) -> Any:
    """A download of this data."""
    response = artifact_service_pb2.DownloadArtifactResponse

    async def download(context: Context) -> AsyncIterator[Message]:
        total = sum(map(len, data)) if size is None else size
        yield response(header=response.Header(name=name, media_type=media_type, size=total))
        for part in data:
            yield response(data=part)

    return download


async def test_an_artifact_is_answered_as_its_bytes(client: httpx.AsyncClient, server: Server) -> None:
    server.download = artifact(b"a" * 65_536, b"bc")
    response = await client.get("/artifacts/the-id")
    assert response.status_code == 200
    assert response.content == b"a" * 65_536 + b"bc"
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-length"] == "65538"
    expected = "attachment; filename=\"bundle.zip\"; filename*=UTF-8''bundle.zip"
    assert response.headers["content-disposition"] == expected
    assert response.headers["content-security-policy"] == "sandbox"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert server.received[0][1] == artifact_service_pb2.DownloadArtifactRequest(artifact_id="the-id")


async def test_an_empty_artifact_is_answered(client: httpx.AsyncClient, server: Server) -> None:
    server.download = artifact()
    response = await client.get("/artifacts/a")
    assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize(
    ("name", "media_type", "disposition", "content_type"),
    [
        ('a"b\r\nset-cookie: x=1', "text/html", "a%22b%0D%0Aset-cookie%3A%20x%3D1", "text/html"),
        ("../ü.html", "text/html; charset=utf-8", "..%2F%C3%BC.html", "text/html; charset=utf-8"),
        ("", "text/html\r\nx: y", "", "application/octet-stream"),
        ("x", "", "x", "application/octet-stream"),
        ("x", "ü/ü", "x", "application/octet-stream"),
    ],
)
async def test_a_hostile_name_or_media_type_cannot_leave_its_header(
    client: httpx.AsyncClient, server: Server, name: str, media_type: str, disposition: str, content_type: str
) -> None:
    server.download = artifact(b"x", name=name, media_type=media_type)
    response = await client.get("/artifacts/a")
    plain = f'filename="{name}"; ' if name == "x" else ""
    expected = f"attachment; {plain}filename*=UTF-8''{disposition}"
    assert response.headers["content-disposition"] == expected
    assert response.headers["content-type"] == content_type


async def test_an_artifact_that_is_not_there_is_a_problem(client: httpx.AsyncClient) -> None:
    problem(await client.get("/artifacts/a"), 404, "ARTIFACT_NOT_FOUND")


async def test_head_of_an_artifact_ends_the_download(client: httpx.AsyncClient, server: Server) -> None:
    server.download = endless
    response = await client.head("/artifacts/a")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(2**40)
    await asyncio.wait_for(server.download_ended.wait(), SECONDS)


async def endless(context: Context) -> AsyncIterator[Message]:
    response = artifact_service_pb2.DownloadArtifactResponse
    yield response(header=response.Header(name="x", media_type="a/b", size=2**40))
    while True:
        yield response(data=b"x" * 65_536)
        await asyncio.sleep(0)


async def silent(context: Context) -> AsyncIterator[Message]:
    await asyncio.sleep(60)
    yield artifact_service_pb2.DownloadArtifactResponse()


async def nameless(context: Context) -> AsyncIterator[Message]:
    yield artifact_service_pb2.DownloadArtifactResponse(data=b"x")


async def nothing_at_all(context: Context) -> AsyncIterator[Message]:
    return
    yield


@pytest.mark.parametrize(
    ("download", "status", "reason"),
    [(silent, 504, "DEADLINE_EXCEEDED"), (nameless, 500, "INTERNAL"), (nothing_at_all, 500, "INTERNAL")],
)
async def test_a_download_that_does_not_begin_is_a_problem(
    client: httpx.AsyncClient, server: Server, download: Any, status: int, reason: str
) -> None:
    server.download = download
    problem(await client.get("/artifacts/a"), status, reason)


async def begin_download(app: ASGIApp, receive: Any, third: asyncio.Event | None = None) -> list[Any]:
    """Asks for an artifact; what the gateway sends before it ends. The third message is told."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if third is not None and len(sent) == 3:
            third.set()
        await asyncio.sleep(0)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/artifacts/a",
        "raw_path": b"/artifacts/a",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer good")],
    }
    await asyncio.wait_for(app(scope, receive, send), SECONDS)
    return sent


async def test_the_download_ends_when_the_caller_goes_away(running: Running, server: Server) -> None:
    server.download = endless
    requests = [{"type": "http.request", "body": b"", "more_body": False}]
    begun = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if requests:
            return requests.pop()
        await begun.wait()
        return {"type": "http.disconnect"}

    sent = await begin_download(running.app, receive, begun)
    assert len(sent) > 2
    await asyncio.wait_for(server.download_ended.wait(), SECONDS)


@pytest.mark.parametrize(("data", "size"), [((b"abc",), 4), ((b"abc", b"de"), 3)])
async def test_a_download_that_is_not_as_long_as_announced_is_cut_off(
    running: Running, server: Server, data: tuple[bytes, ...], size: int
) -> None:
    server.download = artifact(*data, size=size)
    requests = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if requests:
            return requests.pop()
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    sent = await begin_download(running.app, receive)
    assert b"".join(message.get("body", b"") for message in sent) == b"abc"
    assert sent[-1].get("more_body") is True, "the answer is never completed, so the caller sees it is short"
