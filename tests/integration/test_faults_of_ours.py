"""What goes wrong on our side: the caller gets a code and an id, the log where it was, and nobody a value."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from runengine.v1.artifact_service_pb2 import DownloadArtifactRequest, DownloadArtifactResponse
from runengine.v1.run_service_pb2 import GetRunRequest, GetRunResponse
from runengine_client import Internal, Overloaded, QuotaExceeded, RunEngineClient, RunEngineError, Unavailable
from runengine_server.auth import development
from runengine_server.auth.clerk import ClerkVerifier, PemKey
from runengine_server.domain.errors import InvalidArgument, Violation
from runengine_server.processes.embedded_postgres import EmbeddedPostgres
from runengine_server.rpc.interceptor import CallInterceptor, StreamLimit
from runengine_server.rpc.statuses import status_of

from tests.support.patience import SECONDS
from tests.support.stack import Stack, free_address, logging_to, own_postgres

CANARY = "canary-7f3a9c"


@pytest.fixture
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[EmbeddedPostgres, str]]:
    """A PostgreSQL that the test may stop and spoil."""
    async with own_postgres(tmp_path_factory.mktemp("postgres")) as it:
        yield it


@pytest.fixture
async def logged_stack(
    postgres: tuple[EmbeddedPostgres, str], state_dir: Path, tmp_path: Path
) -> AsyncIterator[tuple[Stack, Path]]:
    """serve and worker on it, with what they log; the URL has a password that is a canary."""
    log = tmp_path / "log"
    stack = Stack(postgres[1].replace("runengine_app@", f"runengine_app:{CANARY}@"), state_dir)
    with logging_to(log):
        await stack.start("serve", "worker", rest_by="serve")
    yield stack, log
    await stack.stop()


async def refusals(stack: Stack, token: str) -> tuple[dict[str, Any], RunEngineError]:
    """How a call fails over REST and over gRPC."""
    run_id = str(uuid.uuid4())
    async with stack.rest(token) as rest, stack.client(token) as client:
        response = await rest.get(f"/runs/{run_id}")
        with pytest.raises(RunEngineError) as refused:
            await client.get_run(run_id)
    return response.json(), refused.value


async def test_no_value_reaches_a_caller_or_a_log(
    logged_stack: tuple[Stack, Path], postgres: tuple[EmbeddedPostgres, str]
) -> None:
    stack, log = logged_stack
    token = stack.token("org_leaks")
    async with stack.client(token) as client:
        payload = {"secret": CANARY}
        run = await client.trigger_run("bundling", trigger_payload=payload, idempotency_key=CANARY)
        await client.wait(run.id, timeout_seconds=SECONDS)
    admin = await asyncpg.connect(postgres[1].replace("runengine_app@", "postgres@"))
    await admin.execute(
        f"ALTER TABLE runs ADD CONSTRAINT spoilt CHECK (workflow_name <> '{CANARY}') NOT VALID"
    )
    await admin.execute(f"INSERT INTO workflows (name) VALUES ('{CANARY}')")
    async with stack.rest(token) as rest, stack.client(token) as client:
        body = {"workflowName": CANARY, "triggerPayload": {"secret": CANARY}}
        answer = await rest.post("/runs", json=body)
        assert (answer.status_code, answer.json()["reason"]) == (500, "INTERNAL")
        with pytest.raises(Internal) as internal:
            await client.trigger_run(CANARY, trigger_payload={"secret": CANARY})
        metadata = [answer.json()["metadata"], internal.value.metadata]
        assert [set(each) for each in metadata] == [{"id"}] * 2
        ids = [each["id"] for each in metadata]
        told = answer.text + str(internal.value) + json.dumps(internal.value.metadata)
    await admin.execute("ALTER TABLE runs RENAME TO spoilt_runs")
    problem, error = await refusals(stack, token)
    assert (problem["reason"], error.reason) == ("INTERNAL", "INTERNAL")
    told += json.dumps(problem) + str(error)
    await admin.close()
    for secret in (CANARY, "SELECT", "INSERT", "constraint", "/home", "/root", "asyncpg", "spoilt"):
        assert secret not in told
    logged = log.read_text()
    for each in ids:
        assert each in logged
    assert "asyncpg.exceptions" in logged
    for secret in (CANARY, token, token.split(".")[2]):
        assert secret not in logged


async def test_a_database_that_is_away_is_unavailable_until_it_is_back(
    logged_stack: tuple[Stack, Path], postgres: tuple[EmbeddedPostgres, str]
) -> None:
    stack, log = logged_stack
    token = stack.token("org_away")
    postgres[0].stop()
    problem, error = await refusals(stack, token)
    assert (problem["status"], problem["reason"]) == (503, "UNAVAILABLE")
    assert isinstance(error, Unavailable)
    await postgres[0].start()
    async with stack.client(token) as client:
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    run = await client.trigger_run("bundling")
                    break
                except Unavailable:
                    continue
        assert (await client.wait(run.id, timeout_seconds=SECONDS)).status
    assert CANARY not in log.read_text()


class Spoilt:
    """A GetRun that fails in the way that it is told."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.error: BaseException = RuntimeError(CANARY)
        self.held = asyncio.Event()
        self.arrived = asyncio.Event()

    async def get_run(self, request: GetRunRequest, context: Any) -> Any:
        if request.run_id == "wait":
            self.arrived.set()
            await self.held.wait()
        raise self.error

    async def download(self, request: DownloadArtifactRequest, context: Any) -> AsyncIterator[Any]:
        yield DownloadArtifactResponse(header=DownloadArtifactResponse.Header(size=1))
        self.arrived.set()
        await self.held.wait()
        yield DownloadArtifactResponse(data=b"x")


@pytest.fixture
async def spoilt(state_dir: Path) -> AsyncIterator[tuple[Spoilt, RunEngineClient]]:
    verifier = ClerkVerifier(PemKey(development.public_pem(state_dir)), development.ISSUER, ())
    interceptor = CallInterceptor(
        verifier, max_calls=1, downloads=StreamLimit("downloads", 2, 1, 1, "downloads")
    )
    server = grpc.aio.server(interceptors=[interceptor])
    address = free_address()
    servicer = Spoilt(address)
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.get_run, GetRunRequest.FromString, GetRunResponse.SerializeToString
    )
    generic = grpc.method_handlers_generic_handler("runengine.v1.RunService", {"GetRun": handler})
    download = grpc.unary_stream_rpc_method_handler(
        servicer.download, DownloadArtifactRequest.FromString, DownloadArtifactResponse.SerializeToString
    )
    downloads = grpc.method_handlers_generic_handler(
        "runengine.v1.ArtifactService", {"DownloadArtifact": download}
    )
    server.add_generic_rpc_handlers((generic, downloads))
    server.add_insecure_port(address)
    await server.start()
    async with RunEngineClient(address, development.sign(state_dir, "org", "user", 3600)) as client:
        yield servicer, client
    await server.stop(0)


async def test_an_uncaught_exception_shows_an_id_and_nothing_else(
    spoilt: tuple[Spoilt, RunEngineClient],
) -> None:
    _, client = spoilt
    with pytest.raises(Internal) as internal:
        await client.get_run("x")
    assert CANARY not in str(internal.value)
    assert set(internal.value.metadata) == {"id"}


async def test_a_handler_that_is_cancelled_does_not_leave_its_caller_hanging(
    spoilt: tuple[Spoilt, RunEngineClient],
) -> None:
    servicer, client = spoilt
    servicer.error = asyncio.CancelledError()
    with pytest.raises(RunEngineError) as interrupted:
        await client.get_run("x")
    assert (interrupted.value.code, interrupted.value.reason) == (grpc.StatusCode.ABORTED, "INTERRUPTED")


async def test_one_call_too_many_is_refused_at_once_with_the_time_to_come_back(
    spoilt: tuple[Spoilt, RunEngineClient],
) -> None:
    servicer, client = spoilt
    first = asyncio.create_task(client.get_run("wait"))
    await servicer.arrived.wait()
    with pytest.raises(Overloaded) as overloaded:
        await client.get_run("x")
    assert overloaded.value.retry_after_seconds == 1
    servicer.held.set()
    with pytest.raises(Internal):
        await first
    with pytest.raises(Internal):
        await client.get_run("x")


async def test_downloads_have_limits_of_their_own_and_free_their_place(
    spoilt: tuple[Spoilt, RunEngineClient], state_dir: Path
) -> None:
    servicer, client = spoilt

    async def download(tenant: str) -> asyncio.Task[Any]:
        token = development.sign(state_dir, tenant, "user", 60)
        servicer.arrived.clear()

        async def read() -> bytes:
            async with RunEngineClient(servicer.address, token) as reader:
                return (await reader.download_artifact("x")).data

        task = asyncio.create_task(read())
        waiting = asyncio.create_task(servicer.arrived.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return task

    first = await download("org_a")
    with pytest.raises(QuotaExceeded) as quota:
        await (await download("org_a"))
    assert quota.value.retry_after_seconds == 1
    second = await download("org_b")
    with pytest.raises(Overloaded):
        await (await download("org_c"))
    # Downloads that wait for their readers do not count as calls, of which there may be one.
    with pytest.raises(Internal):
        await client.get_run("x")
    servicer.held.set()
    assert (await first, await second) == (b"x", b"x")
    assert await (await download("org_a")) == b"x"


def test_a_status_carries_its_reason_as_the_standard_says() -> None:
    violations = [Violation(f"field{number}", "is wrong") for number in range(1000)]
    code, status = status_of(InvalidArgument(violations))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(status, status_pb2.Status)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (info.reason, info.domain) == ("INVALID_ARGUMENT", "runengine.v1")
    assert len(bad.field_violations) > 50
    # A client refuses trailers of more than 8 KiB, in which this is a third longer.
    assert len(status.SerializeToString()) < 5500
