"""How does the gateway spare itself most of its work? It remembers the JSON of what it has answered.

A front end that polls mostly gets what it got before, to the byte; and where a page has changed, most of
its runs have not. What is encoded says all that its JSON does, and is the key.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import orjson
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from runengine.v1.run_pb2 import Run

# 2,048 runs of at most 8 KiB, and their JSON, are 32 MiB.
_REMEMBERED = 2048
_LARGEST = 8192

# 64 replies of at most 32 KiB, and their JSON, are 6 MiB for each of the five methods that read.
_REMEMBERED_REPLIES = 64
_LARGEST_REPLY = 32 * 1024

Answer = TypeVar("Answer")

_RUN = f".{Run.DESCRIPTOR.full_name}"
_PACKAGE = "runengine.gateway"  # of the messages that with_encoded_runs makes
_BYTES = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
_REPEATED = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


def with_encoded_runs(message: Descriptor) -> Descriptor:
    """A message like this one, with the same encoding, whose runs are bytes: parsing leaves them be."""
    like = descriptor_pb2.DescriptorProto()
    message.CopyToProto(like)
    for field in like.field:
        if field.type_name == _RUN:
            field.ClearField("type_name")
            field.type = _BYTES
            if field.label != _REPEATED:
                # Absent and empty are two things for a message, and for bytes only so.
                field.proto3_optional, field.oneof_index = True, len(like.oneof_decl)
                like.oneof_decl.add(name=f"_{field.name}")
    file = descriptor_pb2.FileDescriptorProto(
        name=f"runengine/gateway/{message.name}.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[message.file.name, *(each.name for each in message.file.dependencies)],
        message_type=[like],
    )
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}")


def run_encoder(encode: Callable[[Message], dict[str, object]]) -> Callable[[bytes], orjson.Fragment]:
    """Turns an encoded run into what orjson puts into the answer as it stands; `encode` makes its object."""

    def make(encoded: bytes) -> orjson.Fragment:
        return orjson.Fragment(orjson.dumps(encode(Run.FromString(encoded))))

    return _remembering(make, _REMEMBERED, _LARGEST)


def remembered(make: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """`make`, which turns an encoded reply into JSON, and keeps the latest."""
    return _remembering(make, _REMEMBERED_REPLIES, _LARGEST_REPLY)


def _remembering(make: Callable[[bytes], Answer], count: int, largest: int) -> Callable[[bytes], Answer]:
    cached = lru_cache(count)(make)
    return lambda encoded: (cached if len(encoded) <= largest else make)(encoded)
