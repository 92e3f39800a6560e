"""Serves one REST request: reads it, makes one RPC, and returns its reply or its error."""

import logging

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from runengine.v1 import run_service_pb2
from runengine.v1.run_service_pb2 import GetRunRequest, GetRunResponse
from starlette.requests import Request
from starlette.responses import Response

from runengine_gateway.cached_json import cached_json
from runengine_gateway.channel import Channel, UnaryRpc
from runengine_gateway.http_request import Metadata, RequestReader, caller_metadata, may_be_large
from runengine_gateway.json_mapping import reply_encoder
from runengine_gateway.problems import Problem, RefusedError, problem_of
from runengine_gateway.routes import Binding

_log = logging.getLogger(__name__)

# The metadata of a reply that become headers of the response.
METADATA_AS_HEADERS = frozenset({"idempotency-replayed", "runengine-campaign", "runengine-workers"})
_GET_RUN = run_service_pb2.DESCRIPTOR.services_by_name["RunService"].methods_by_name["GetRun"]


def rpc_path(rpc: MethodDescriptor) -> str:
    """The name of the RPC as gRPC sends it: `/runengine.v1.RunService/GetRun`."""
    return f"/{rpc.containing_service.full_name}/{rpc.name}"


class TokenCheck:
    """Has the server check a caller's token, for requests that the gateway itself refuses.

    The token is checked before the request (contract: Codes), and only the server can do that: a caller
    without a valid token gets 401, however malformed the rest is. GetRun without an id does nothing but that
    check.
    """

    def __init__(self, channel: Channel, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._get_run = channel.unary_unary(
            rpc_path(_GET_RUN),
            request_serializer=GetRunRequest.SerializeToString,
            response_deserializer=GetRunResponse.FromString,
        )

    async def refuse(self, metadata: Metadata, problem: Problem) -> Response:
        """The server's refusal of the token, else the problem, as a response."""
        return (await self.refusal(metadata) or problem).response()

    async def refusal(self, metadata: Metadata) -> Problem | None:
        """The server's refusal of the token, None for a valid one."""
        try:
            await self._get_run(GetRunRequest(), timeout=self._deadline_seconds, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                return explain(error, _GET_RUN)
        return None


class UnaryCall:
    """The endpoint of one binding whose RPC returns one message."""

    def __init__(
        self, channel: Channel, binding: Binding, token_check: TokenCheck, deadline_seconds: float
    ) -> None:
        """Raises TypeError where request or response have a field without a JSON mapping."""
        self._rpc = binding.rpc
        self._token_check = token_check
        self._deadline_seconds = deadline_seconds
        self._reader = RequestReader(binding, deadline_seconds)
        self._has_headers = binding.http_method != "GET"
        self._status = 201 if binding.creates else 200
        as_json = reply_encoder(binding.rpc.output_type, binding.response_body)
        self._json = cached_json(as_json) if binding.http_method == "GET" else as_json
        self._call = channel.unary_unary(
            rpc_path(binding.rpc),
            request_serializer=GetMessageClass(binding.rpc.input_type).SerializeToString,
        )

    async def __call__(self, request: Request) -> Response:
        """Returns the reply as JSON, or a problem."""
        caller = caller_metadata(request)
        is_token_valid = False
        if may_be_large(request):
            if refusal := await self._token_check.refusal(caller):
                return refusal.response()
            is_token_valid = True
        try:
            message, idempotency_key = await self._reader.read(request)
        except RefusedError as refused:
            if is_token_valid:
                return refused.problem.response()
            return await self._token_check.refuse(caller, refused.problem)
        try:
            call = self._call(message, timeout=self._deadline_seconds, metadata=caller + idempotency_key)
            reply = await call
            headers = await _headers(call) if self._has_headers else None
        except grpc.aio.AioRpcError as error:
            problem = explain(error, self._rpc)
            if problem.status == 413 and not is_token_valid:
                # The transport has refused the message before the server has checked the token.
                return await self._token_check.refuse(caller, problem)
            return problem.response()
        return Response(self._json(reply), self._status, headers, media_type="application/json")


async def _headers(call: UnaryRpc) -> dict[str, str]:
    return {key: str(value) for key, value in await call.trailing_metadata() if key in METADATA_AS_HEADERS}


def explain(error: grpc.aio.AioRpcError, rpc: MethodDescriptor) -> Problem:
    """The problem to return for an RPC's error. What the caller is not to know is logged."""
    problem = problem_of(error, rpc.input_type)
    if problem.status >= 500:
        _log.warning("%s failed with %s: %s", rpc.full_name, error.code().name, error.details())
    return problem
