"""Errors that the client raises, and what they carry."""

from __future__ import annotations

import asyncio
import socket

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from runengine_client import RunEngineClient, RunEngineError, Violation, errors

from tests.support.answering_server import CAMPAIGN_ID, NEVER, RUN_ID, Engine, failure, info


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
        ("RUN_NOT_COMPLETED", errors.RunNotCompleted),
        ("RUN_NOT_WAITING", errors.RunNotWaiting),
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


async def test_violations_that_the_servers_sentence_lists_are_not_repeated(
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


@pytest.mark.parametrize(
    ("secure", "meaning"),
    [(False, "does not speak gRPC without TLS. Is it the address of REST?"), (True, "does not speak TLS.")],
)
async def test_a_server_of_another_kind_is_named_as_one(secure: bool, meaning: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with RunEngineClient(f"{host}:{port}", "t", secure=secure) as client:
            with pytest.raises(errors.Unavailable) as error:
                await client.get_run(RUN_ID)
    sentence = f"The run engine at {host}:{port} cannot be reached: what listens there {meaning}"
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://127.0.0.1:8080", "is HOST:PORT, without http://: 127.0.0.1:8080"),
        ("https://runs.example.com", "is HOST:PORT, without https://: runs.example.com"),
        ("runs.example.com", "has no port: runs.example.com:50051, say."),
    ],
)
async def test_an_address_that_is_none_is_refused_in_words(address: str, sentence: str) -> None:
    with pytest.raises(ValueError, match="The address of the run engine ") as error:
        RunEngineClient(address, "t")
    assert str(error.value).endswith(sentence)


async def test_a_server_that_does_not_respond_is_over_the_deadline(engine: Engine, address: str) -> None:
    engine.answers = [NEVER]
    async with RunEngineClient(address, "t", timeout_seconds=0.05) as client:
        with pytest.raises(errors.DeadlineExceeded, match=f"{address} was too slow to respond"):
            await client.get_run(RUN_ID)
