"""What happens to one REST request? It is read, sent on as one RPC, and the reply or its error answered."""

import logging

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from runengine.v1 import run_service_pb2
from runengine.v1.run_service_pb2 import GetRunRequest, GetRunResponse
from starlette.requests import Request
from starlette.responses import Response

from runengine_gateway.http_request import Metadata, RequestReader, caller_metadata, may_be_large
from runengine_gateway.json_mapping import reply_encoder
from runengine_gateway.problems import Problem, RefusedError, problem_of
from runengine_gateway.remembered import remembered
from runengine_gateway.routes import Binding

_log = logging.getLogger(__name__)

# The metadata that become headers of the answer.
_TOLD = frozenset({"idempotency-replayed", "runengine-workers"})
_GET_RUN = run_service_pb2.DESCRIPTOR.services_by_name["RunService"].methods_by_name["GetRun"]


def rpc_path(rpc: MethodDescriptor) -> str:
    """The name of the RPC as gRPC sends it: `/runengine.v1.RunService/GetRun`."""
    return f"/{rpc.containing_service.full_name}/{rpc.name}"


class TokenCheck:
    """Asks the server about a caller's token, for requests that the gateway itself refuses.

    The token is judged before the request (contract: Codes), and only the server can: a caller without a
    good one gets 401, however malformed the rest. GetRun without an id does nothing but that.
    """

    def __init__(self, channel: grpc.aio.Channel, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._get_run = channel.unary_unary(
            rpc_path(_GET_RUN),
            request_serializer=GetRunRequest.SerializeToString,
            response_deserializer=GetRunResponse.FromString,
        )

    async def refuse(self, metadata: Metadata, problem: Problem) -> Response:
        """The answer to a request with this problem: the server's own, unless it has found the token good."""
        return (await self.refusal(metadata) or problem).response()

    async def refusal(self, metadata: Metadata) -> Problem | None:
        """What the server has against the caller, if anything."""
        try:
            await self._get_run(GetRunRequest(), timeout=self._deadline_seconds, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                return explain(error, _GET_RUN)
        return None


class UnaryCall:
    """The endpoint of one binding whose RPC answers once."""

    def __init__(
        self, channel: grpc.aio.Channel, binding: Binding, token_check: TokenCheck, deadline_seconds: float
    ) -> None:
        """Raises TypeError where request or response have a field without a JSON mapping."""
        self._rpc = binding.rpc
        self._token_check = token_check
        self._deadline_seconds = deadline_seconds
        self._reader = RequestReader(binding, deadline_seconds)
        self._tells = binding.http_method != "GET"
        self._status = 201 if binding.creates else 200
        as_json = reply_encoder(binding.rpc.output_type, binding.response_body)
        self._json = remembered(as_json) if binding.http_method == "GET" else as_json
        self._call: grpc.aio.UnaryUnaryMultiCallable[Message, bytes] = channel.unary_unary(
            rpc_path(binding.rpc),
            request_serializer=GetMessageClass(binding.rpc.input_type).SerializeToString,
        )

    async def __call__(self, request: Request) -> Response:
        """Answers the reply as JSON, or a problem."""
        caller = caller_metadata(request)
        token_is_good = False
        if may_be_large(request):
            if refusal := await self._token_check.refusal(caller):
                return refusal.response()
            token_is_good = True
        try:
            message, idempotency_key = await self._reader.read(request)
        except RefusedError as refused:
            if token_is_good:
                return refused.problem.response()
            return await self._token_check.refuse(caller, refused.problem)
        try:
            call = self._call(message, timeout=self._deadline_seconds, metadata=caller + idempotency_key)
            reply = await call
            headers = await _told(call) if self._tells else None
        except grpc.aio.AioRpcError as error:
            problem = explain(error, self._rpc)
            if problem.status == 413 and not token_is_good:
                # A transport refuses the message before anyone has seen the token.
                return await self._token_check.refuse(caller, problem)
            return problem.response()
        return Response(self._json(reply), self._status, headers, media_type="application/json")


async def _told(call: grpc.aio.UnaryUnaryCall[Message, bytes]) -> dict[str, str]:
    return {key: str(value) for key, value in await call.initial_metadata() if key in _TOLD}


def explain(error: grpc.aio.AioRpcError, rpc: MethodDescriptor) -> Problem:
    """The problem that an RPC's error is to the caller. What the caller is not told goes to the log."""
    problem = problem_of(error, rpc.input_type)
    if problem.status >= 500:
        _log.warning("%s failed with %s: %s", rpc.full_name, error.code().name, error.details())
    return problem
