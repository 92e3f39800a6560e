"""How does the gateway spare itself most of its work? It remembers the JSON of the runs it has answered.

Pages polled by a front end have mostly runs in them that have not changed since. A run's encoding, with
its updated_at in it, says all that its JSON does, and is the key.
"""

from collections.abc import Callable
from functools import lru_cache

import orjson
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from runengine.v1.run_pb2 import Run

# 2,048 runs of at most 8 KiB, and their JSON, are 32 MiB.
_REMEMBERED = 2048
_LARGEST = 8192

_RUN = f".{Run.DESCRIPTOR.full_name}"
# The package of the messages that with_encoded_runs makes.
ENCODED_RUNS = "runengine.gateway"
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
        package=ENCODED_RUNS,
        syntax="proto3",
        dependency=[message.file.name, *(each.name for each in message.file.dependencies)],
        message_type=[like],
    )
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindMessageTypeByName(f"{ENCODED_RUNS}.{message.name}")


def run_encoder(encode: Callable[[Message], dict[str, object]]) -> Callable[[bytes], orjson.Fragment]:
    """Turns an encoded run into what orjson puts into the answer as it stands; `encode` makes its object."""

    def make(encoded: bytes) -> orjson.Fragment:
        return orjson.Fragment(orjson.dumps(encode(Run.FromString(encoded))))

    remembered = lru_cache(_REMEMBERED)(make)
    return lambda encoded: (remembered if len(encoded) <= _LARGEST else make)(encoded)
