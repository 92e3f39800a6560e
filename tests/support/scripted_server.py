"""A gRPC server of all services whose responses a test writes, and requests to the gateway before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import httpx
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from runengine.v1 import (
    artifact_service_pb2,
    campaign_service_pb2,
    run_service_pb2,
)
from starlette.types import ASGIApp

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
