"""Server reflection, under the name that clients try first and under the one that older ones know."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

_V1ALPHA: str = reflection.SERVICE_NAME
_V1 = _V1ALPHA.replace("v1alpha", "v1")


def add_reflection(services: Iterable[str], server: grpc.aio.Server) -> None:
    """Describes `services`, and reflection itself, to callers of grpc.reflection.v1 and v1alpha.

    grpcio-reflection 1.85.1 has v1alpha alone. The two differ in the name of their package and in
    nothing on the wire (grpc/reflection/v1/reflection.proto in grpc-proto), so one servicer serves both.
    """
    _describe_v1()
    servicer = reflection.aio.ReflectionServicer([*services, _V1ALPHA, _V1])
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (_V1, _V1ALPHA):
        handler = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
        server.add_generic_rpc_handlers((handler,))


def _describe_v1() -> None:
    """Adds v1's descriptors to the pool that the servicer reads."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    v1 = text_format.MessageToString(file).replace("v1alpha", "v1")
    descriptor_pool.Default().Add(text_format.Parse(v1, descriptor_pb2.FileDescriptorProto()))
