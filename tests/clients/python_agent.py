"""grpc.aio with protobuf's runtime in pure Python; speaks as tests/node/grpc/agent.mjs does."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal import api_implementation
from google.protobuf.json_format import MessageToDict, ParseDict
from google.rpc import error_details_pb2, status_pb2
from runengine.v1 import artifact_service_pb2, campaign_service_pb2, run_service_pb2

Json = dict[str, Any]

_KNOWN = (error_details_pb2, artifact_service_pb2, campaign_service_pb2, run_service_pb2)


def _explained(error: grpc.aio.AioRpcError) -> Json:
    details: list[Json] = []
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            details += [MessageToDict(each) for each in status_pb2.Status.FromString(value).details]
    return {"code": error.code().name, "message": error.details(), "details": details}


async def _call(channel: grpc.aio.Channel, asked: Json) -> Json:
    method = descriptor_pool.Default().FindMethodByName(asked["method"].replace("/", "."))
    request = ParseDict(asked["request"], message_factory.GetMessageClass(method.input_type)())
    multicallable: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    seconds = None if asked["timeoutMs"] is None else asked["timeoutMs"] / 1000
    call = multicallable(
        f"/{asked['method']}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )(request, timeout=seconds, metadata=tuple(asked["metadata"].items()))
    told: Json = {"messages": [], "trailer": {}, "error": None}
    cancel_after = asked["cancelAfter"]
    if cancel_after == 0:
        call.cancel()
    try:
        if not method.server_streaming:
            told["messages"].append(MessageToDict(await call))
            told["trailer"] = dict(await call.trailing_metadata())
            return told
        async for message in call:
            told["messages"].append(MessageToDict(message))
            if len(told["messages"]) == cancel_after:
                call.cancel()
    except grpc.aio.AioRpcError as error:
        told["error"] = _explained(error)
    except asyncio.CancelledError:
        told["error"] = {"code": "CANCELLED", "message": "", "details": []}
    return told


async def main() -> None:
    """Until the end of stdin."""
    assert api_implementation.Type() == "python"
    channels: dict[str, grpc.aio.Channel] = {}
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        address = asked["address"]
        if address not in channels:
            channels[address] = grpc.aio.insecure_channel(address)
        sys.stdout.write(json.dumps(await _call(channels[address], asked)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
