"""The client against a real server in this process, which answers what each test tells it to."""

# ruff: noqa: N802  # gRPC names the methods of a servicer

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from runengine.v1.artifact_service_pb2 import DownloadArtifactResponse
from runengine.v1.artifact_service_pb2_grpc import (
    ArtifactServiceServicer,
    add_ArtifactServiceServicer_to_server,
)
from runengine.v1.campaign_pb2 import Campaign
from runengine.v1.campaign_service_pb2 import CreateCampaignResponse, GetCampaignResponse
from runengine.v1.campaign_service_pb2_grpc import (
    CampaignServiceServicer,
    add_CampaignServiceServicer_to_server,
)
from runengine.v1.run_pb2 import Run, RunStatus, RunStep
from runengine.v1.run_service_pb2 import (
    CancelRunResponse,
    GetRunResponse,
    ListCampaignRunsResponse,
    ListRunStepsResponse,
    RetryRunResponse,
    TriggerRunResponse,
)
from runengine.v1.run_service_pb2_grpc import RunServiceServicer, add_RunServiceServicer_to_server
from runengine_client import RunEngineClient, RunEngineError, Violation, errors, struct_to_dict

RUN_ID = UUID("0199c0de-7a11-7bad-8c0f-000000000001")
CAMPAIGN_ID = UUID("0199c0de-7a11-7bad-8c0f-00000000000c")
RUN = Run(id=str(RUN_ID), workflow_name="campaign-bundle", status=RunStatus.RUN_STATUS_QUEUED)
NEVER = object()


class Engine(RunServiceServicer, CampaignServiceServicer, ArtifactServiceServicer):
    """Answers each call with the next of `answers`, and keeps what it was asked.

    A message is the answer, a Status or a code an abort, NEVER a call that hangs. The last of
    `answers` answers all further calls.
    """

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.requests: list[Any] = []
        self.metadata: dict[str, Any] = {}

    async def _answer(self, request: Message, context: Any) -> Any:
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        return await self._next(context)

    async def _next(self, context: Any) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is NEVER:
            await asyncio.Event().wait()
        if isinstance(answer, Status):
            code = next(code for code in grpc.StatusCode if code.value[0] == answer.code)
            details = (("grpc-status-details-bin", answer.SerializeToString()),)
            await context.abort(code, answer.message, details)
        if isinstance(answer, grpc.StatusCode):
            await context.abort(answer, "said the proxy")
        return answer

    async def DownloadArtifact(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield await self._answer(request, context)
        while len(self.answers) > 1:
            yield await self._next(context)

    async def TriggerRun(self, request: Any, context: Any) -> Any:
        return await self._answer(request, context)

    GetRun = ListRunSteps = ListRunEvents = RetryRun = CancelRun = ListCampaignRuns = TriggerRun
    CreateCampaign = GetCampaign = TriggerRun


@pytest.fixture
async def engine() -> Engine:
    return Engine()


@pytest.fixture
async def address(engine: Engine) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_RunServiceServicer_to_server(engine, server)
    add_CampaignServiceServicer_to_server(engine, server)
    add_ArtifactServiceServicer_to_server(engine, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def client(address: str) -> AsyncIterator[RunEngineClient]:
    async with RunEngineClient(address, "the-token") as client:
        yield client


def failure(code: grpc.StatusCode, message: str, *details: Message) -> Status:
    status = Status(code=code.value[0], message=message)
    for detail in details:
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def info(reason: str, **metadata: str) -> Any:
    return ErrorInfo(reason=reason, domain="runengine.v1", metadata=metadata)


def page(numbers: range, total: int, next_page_token: str | None = None) -> ListCampaignRunsResponse:
    runs = [Run(id=f"run-{n}") for n in numbers]
    return ListCampaignRunsResponse(runs=runs, total=total, next_page_token=next_page_token)


async def test_trigger_sends_payload_context_campaign_key_and_token(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.answers = [TriggerRunResponse(run=RUN)]
    run = await client.trigger_run(
        "campaign-bundle",
        trigger_payload={"brand": "Acme", "slots": [1, 2.5, None, True]},
        context={"source": "test"},
        campaign_id=CAMPAIGN_ID,
        idempotency_key="once",
    )
    [request] = engine.requests
    assert run == RUN
    assert request.workflow_name == "campaign-bundle"
    assert struct_to_dict(request.trigger_payload) == {"brand": "Acme", "slots": [1, 2.5, None, True]}
    assert struct_to_dict(request.context) == {"source": "test", "campaignId": str(CAMPAIGN_ID)}
    assert engine.metadata["idempotency-key"] == "once"
    assert engine.metadata["authorization"] == "Bearer the-token"


async def test_trigger_without_payload_or_context_leaves_both_absent(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.answers = [TriggerRunResponse(run=RUN)]
    await client.trigger_run("campaign-bundle")
    [request] = engine.requests
    assert not request.HasField("trigger_payload")
    assert not request.HasField("context")
    assert "idempotency-key" not in engine.metadata


async def test_each_call_about_one_run_sends_its_id(engine: Engine, client: RunEngineClient) -> None:
    step = RunStep(step_id="render")
    engine.answers = [
        GetRunResponse(run=RUN),
        ListRunStepsResponse(steps=[step]),
        RetryRunResponse(run=RUN),
        CancelRunResponse(run=RUN),
    ]
    assert await client.get_run(RUN_ID) == RUN
    assert await client.list_run_steps(str(RUN_ID)) == [step]
    assert await client.retry_run(RUN_ID) == RUN
    assert await client.cancel_run(RUN_ID) == RUN
    assert [request.run_id for request in engine.requests] == [str(RUN_ID)] * 4


async def test_campaigns_are_created_with_or_without_an_id_and_shown(
    engine: Engine, client: RunEngineClient
) -> None:
    campaign = Campaign(id=str(CAMPAIGN_ID))
    engine.answers = [
        CreateCampaignResponse(campaign=campaign),
        CreateCampaignResponse(campaign=campaign),
        GetCampaignResponse(campaign=campaign),
    ]
    assert await client.create_campaign() == campaign
    assert await client.create_campaign(CAMPAIGN_ID) == campaign
    assert await client.get_campaign(CAMPAIGN_ID) == campaign
    anonymous, named, shown = engine.requests
    assert not anonymous.HasField("id")
    assert named.id == shown.campaign_id == str(CAMPAIGN_ID)


@pytest.mark.parametrize(
    "status", ["failed", RunStatus.RUN_STATUS_FAILED, ["failed"], [RunStatus.RUN_STATUS_FAILED]]
)
async def test_a_status_filter_is_a_word_a_value_or_several(
    engine: Engine, client: RunEngineClient, status: Any
) -> None:
    engine.answers = [ListCampaignRunsResponse(total=3)]
    assert (await client.list_campaign_runs(CAMPAIGN_ID, status=status, limit=1, offset=0)).total == 3
    [request] = engine.requests
    assert list(request.status) == [RunStatus.RUN_STATUS_FAILED]
    assert (request.limit, request.offset) == (1, 0)
    assert request.HasField("offset")


async def test_limit_and_offset_not_given_are_absent(engine: Engine, client: RunEngineClient) -> None:
    engine.answers = [ListCampaignRunsResponse()]
    await client.list_campaign_runs(CAMPAIGN_ID)
    [request] = engine.requests
    assert not request.status
    assert not request.HasField("limit")
    assert not request.HasField("offset")


@pytest.mark.parametrize("word", ["done", "unspecified", "FAILED", ""])
async def test_an_unknown_status_word_is_refused_with_the_words_there_are(
    client: RunEngineClient, word: str
) -> None:
    with pytest.raises(ValueError, match="queued, running, completed, failed, cancelled"):
        await client.list_campaign_runs(CAMPAIGN_ID, status=word)


async def test_iterating_follows_the_tokens_from_page_to_page(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.answers = [page(range(2), 5, "a"), page(range(2, 4), 5, "b"), page(range(4, 5), 5)]
    runs = [run.id async for run in client.iterate_campaign_runs(CAMPAIGN_ID, status="failed", page_size=2)]
    assert runs == ["run-0", "run-1", "run-2", "run-3", "run-4"]
    asked = [(request.limit, request.page_token, request.HasField("offset")) for request in engine.requests]
    assert asked == [(2, "", False), (2, "a", False), (2, "b", False)]


async def test_an_artifact_comes_in_parts_and_is_answered_whole(
    engine: Engine, client: RunEngineClient
) -> None:
    header = DownloadArtifactResponse.Header(name="bundle.zip", media_type="application/zip", size=5)
    engine.answers = [
        DownloadArtifactResponse(header=header),
        DownloadArtifactResponse(data=b"abc"),
        DownloadArtifactResponse(data=b"de"),
        None,
    ]
    artifact = await client.download_artifact(RUN_ID)
    assert (artifact.name, artifact.media_type, artifact.data) == ("bundle.zip", "application/zip", b"abcde")
    assert engine.metadata["authorization"] == "Bearer the-token"


async def test_an_artifact_that_falls_short_is_an_error(engine: Engine, client: RunEngineClient) -> None:
    engine.answers = [DownloadArtifactResponse(header=DownloadArtifactResponse.Header(size=5)), None]
    with pytest.raises(errors.Internal, match="0 of the artifact's 5 bytes"):
        await client.download_artifact(RUN_ID)


async def test_a_download_that_stalls_is_given_up(engine: Engine, address: str) -> None:
    engine.answers = [DownloadArtifactResponse(header=DownloadArtifactResponse.Header(size=5)), NEVER, None]
    async with RunEngineClient(address, "t", timeout_seconds=0.05) as client:
        with pytest.raises(errors.DeadlineExceeded, match=r"nothing of the artifact for 0\.05 s"):
            await client.download_artifact(RUN_ID)


async def test_a_download_refused_is_the_typed_error(engine: Engine, client: RunEngineClient) -> None:
    engine.answers = [failure(grpc.StatusCode.NOT_FOUND, "No such artifact.", info("ARTIFACT_NOT_FOUND"))]
    with pytest.raises(errors.ArtifactNotFound, match=r"^No such artifact\.$"):
        await client.download_artifact(RUN_ID)


@pytest.mark.parametrize("end", ["COMPLETED", "FAILED", "CANCELLED"])
async def test_waiting_answers_the_run_once_it_has_ended(
    engine: Engine, client: RunEngineClient, end: str
) -> None:
    statuses = ["QUEUED", "RUNNING", end]
    engine.answers = [GetRunResponse(run=Run(status=RunStatus.Value(f"RUN_STATUS_{s}"))) for s in statuses]
    run = await client.wait(RUN_ID, poll=(0, 0))
    assert run.status == RunStatus.Value(f"RUN_STATUS_{end}")
    assert len(engine.requests) == 3


async def test_waiting_too_long_is_a_timeout_that_names_the_run(
    engine: Engine, client: RunEngineClient
) -> None:
    engine.answers = [GetRunResponse(run=RUN)]
    with pytest.raises(TimeoutError, match=f"Run {RUN_ID} has not ended within 0.05 s"):
        await client.wait(RUN_ID, timeout_seconds=0.05)


async def test_a_token_may_be_a_function_asked_before_each_call(engine: Engine, address: str) -> None:
    engine.answers = [GetRunResponse(run=RUN)]
    tokens = iter(["first", "second"])
    async with RunEngineClient(address, lambda: next(tokens)) as client:
        for token in ("first", "second"):
            await client.get_run(RUN_ID)
            assert engine.metadata["authorization"] == f"Bearer {token}"


async def test_a_token_may_be_a_coroutine_function(engine: Engine, address: str) -> None:
    engine.answers = [GetRunResponse(run=RUN)]

    async def token() -> str:
        return "fetched"

    async with RunEngineClient(address, token) as client:
        await client.get_run(RUN_ID)
    assert engine.metadata["authorization"] == "Bearer fetched"


@pytest.mark.parametrize("token", ["", "two\nlines", "é"])
async def test_a_token_that_no_header_can_carry_is_refused(address: str, token: str) -> None:
    async with RunEngineClient(address, token) as client:
        with pytest.raises(ValueError, match="The token must be printable ASCII"):
            await client.get_run(RUN_ID)


async def test_an_answer_larger_than_four_mebibytes_arrives(engine: Engine, client: RunEngineClient) -> None:
    engine.answers = [GetRunResponse(run=Run(workflow_name="x" * 5 * 2**20))]
    assert len((await client.get_run(RUN_ID)).workflow_name) == 5 * 2**20


def test_a_client_outside_a_loop_is_refused_at_once() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        RunEngineClient("127.0.0.1:1", "t")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("UNAUTHENTICATED", errors.Unauthenticated),
        ("NO_ORGANISATION", errors.NoOrganisation),
        ("INVALID_ARGUMENT", errors.InvalidArgument),
        ("RUN_NOT_FOUND", errors.RunNotFound),
        ("CAMPAIGN_NOT_FOUND", errors.CampaignNotFound),
        ("ARTIFACT_NOT_FOUND", errors.ArtifactNotFound),
        ("RUN_ACTIVE", errors.RunActive),
        ("RUN_NOT_RETRYABLE", errors.RunNotRetryable),
        ("RUN_TERMINAL", errors.RunTerminal),
        ("IDEMPOTENCY_KEY_REUSED", errors.IdempotencyKeyReused),
        ("QUOTA_EXCEEDED", errors.QuotaExceeded),
        ("OVERLOADED", errors.Overloaded),
        ("PAYLOAD_TOO_LARGE", errors.PayloadTooLarge),
        ("UNAVAILABLE", errors.Unavailable),
        ("DEADLINE_EXCEEDED", errors.DeadlineExceeded),
        ("INTERNAL", errors.Internal),
        ("A_REASON_OF_TOMORROW", RunEngineError),
    ],
)
async def test_each_reason_raises_its_own_class(
    engine: Engine, client: RunEngineClient, reason: str, kind: type[RunEngineError]
) -> None:
    engine.answers = [failure(grpc.StatusCode.ABORTED, "So it is.", info(reason))]
    with pytest.raises(RunEngineError, match=r"^So it is\.$") as raised:
        await client.get_run(RUN_ID)
    assert type(raised.value) is kind
    assert raised.value.reason == reason
    assert raised.value.code is grpc.StatusCode.ABORTED


async def test_an_error_carries_what_the_server_adds(engine: Engine, client: RunEngineClient) -> None:
    fields = [("limit", "must be 1 to 100"), ("offset", "must not be negative")]
    retry = RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    engine.answers = [
        failure(
            grpc.StatusCode.INVALID_ARGUMENT,
            "The request is malformed.",
            info("INVALID_ARGUMENT", status="failed"),
            BadRequest(field_violations=[{"field": f, "description": d} for f, d in fields]),
            retry,
        )
    ]
    with pytest.raises(errors.InvalidArgument) as raised:
        await client.list_campaign_runs(CAMPAIGN_ID, limit=0)
    error = raised.value
    assert str(error) == "The request is malformed.; limit: must be 1 to 100; offset: must not be negative"
    assert error.detail == "The request is malformed."
    assert error.violations == [Violation(*field) for field in fields]
    assert error.metadata == {"status": "failed"}
    assert error.retry_after_seconds == 1.5


async def test_violations_that_the_servers_sentence_lists_are_not_told_twice(
    engine: Engine, client: RunEngineClient
) -> None:
    bad_request = BadRequest(field_violations=[{"field": "limit", "description": "must be 1 to 100"}])
    sentence = "limit: must be 1 to 100"
    engine.answers = [
        failure(grpc.StatusCode.INVALID_ARGUMENT, sentence, info("INVALID_ARGUMENT"), bad_request)
    ]
    with pytest.raises(errors.InvalidArgument) as raised:
        await client.list_campaign_runs(CAMPAIGN_ID, limit=0)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.CANCELLED, errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.UNAUTHENTICATED, errors.Unauthenticated),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidArgument),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.PayloadTooLarge),
        (grpc.StatusCode.UNIMPLEMENTED, errors.Internal),
        (grpc.StatusCode.PERMISSION_DENIED, errors.Internal),
    ],
)
async def test_an_error_without_details_follows_its_code_and_names_the_address(
    engine: Engine, client: RunEngineClient, address: str, code: grpc.StatusCode, kind: type[RunEngineError]
) -> None:
    engine.answers = [code]
    with pytest.raises(kind, match=address) as raised:
        await client.get_run(RUN_ID)
    assert raised.value.code is code
    assert raised.value.reason == kind.reason


async def test_details_of_another_service_are_not_taken_for_ours(
    engine: Engine, client: RunEngineClient
) -> None:
    foreign = ErrorInfo(reason="RUN_NOT_FOUND", domain="proxy.example.com")
    engine.answers = [failure(grpc.StatusCode.UNAVAILABLE, "said the proxy", foreign)]
    with pytest.raises(errors.Unavailable, match="said the proxy"):
        await client.get_run(RUN_ID)


async def test_details_that_cannot_be_read_count_as_none(engine: Engine, client: RunEngineClient) -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff")),
        "gone",
        None,
    )
    assert type(errors.from_rpc_error(error, "here:1")) is errors.Unavailable


async def test_a_server_that_is_away_is_unavailable_at_its_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: whoever connects is refused
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with RunEngineClient(address, "t") as client:
            with pytest.raises(
                errors.Unavailable, match=f"The run engine at {address} cannot be reached: .*refused"
            ):
                await client.get_run(RUN_ID)


async def test_a_server_that_does_not_answer_is_over_the_deadline(engine: Engine, address: str) -> None:
    engine.answers = [NEVER]
    async with RunEngineClient(address, "t", timeout_seconds=0.05) as client:
        with pytest.raises(errors.DeadlineExceeded, match=f"{address} was too slow to answer"):
            await client.get_run(RUN_ID)


def test_importing_the_client_imports_neither_typer_nor_rich() -> None:
    code = "import sys, runengine_client; sys.exit(any(m in sys.modules for m in ('typer', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
