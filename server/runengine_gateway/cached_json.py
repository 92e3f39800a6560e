"""Caches the JSON of replies and of runs, under their encoded messages.

A front end that polls mostly gets the same bytes as before, and when a page has changed, most of its runs
have not. The encoded message determines the JSON, so it is the key, and no entry is ever out of date.
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
_CACHED_RUNS = 2048
_MAX_RUN_BYTES = 8192

# 64 replies of at most 32 KiB, and their JSON, are 6 MiB for each of the five methods that read.
_CACHED_REPLIES = 64
_MAX_REPLY_BYTES = 32 * 1024

T = TypeVar("T")

_RUN = f".{Run.DESCRIPTOR.full_name}"
_PACKAGE = "runengine.gateway"  # of the messages that with_encoded_runs creates
_BYTES = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
_REPEATED = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


def with_encoded_runs(message: Descriptor) -> Descriptor:
    """A message like this one, with the same encoding, whose runs are bytes: parsing does not decode them."""
    copy = descriptor_pb2.DescriptorProto()
    message.CopyToProto(copy)
    for field in copy.field:
        if field.type_name == _RUN:
            field.ClearField("type_name")
            field.type = _BYTES
            if field.label != _REPEATED:
                # A message field distinguishes absent from empty; a bytes field does so only when it is
                # optional.
                field.proto3_optional, field.oneof_index = True, len(copy.oneof_decl)
                copy.oneof_decl.add(name=f"_{field.name}")
    file = descriptor_pb2.FileDescriptorProto(
        name=f"runengine/gateway/{message.name}.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[message.file.name, *(each.name for each in message.file.dependencies)],
        message_type=[copy],
    )
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}")


def cached_run_encoder(encode: Callable[[Message], dict[str, object]]) -> Callable[[bytes], orjson.Fragment]:
    """Turns an encoded run into JSON that orjson inserts unchanged; `encode` makes the object of a run."""

    def make(encoded: bytes) -> orjson.Fragment:
        return orjson.Fragment(orjson.dumps(encode(Run.FromString(encoded))))

    return _cached(make, _CACHED_RUNS, _MAX_RUN_BYTES)


def cached_json(make: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """`make`, which turns an encoded reply into JSON, with a cache of the latest 64."""
    return _cached(make, _CACHED_REPLIES, _MAX_REPLY_BYTES)


def _cached(make: Callable[[bytes], T], count: int, max_bytes: int) -> Callable[[bytes], T]:
    """`make` with a cache of `count` results, for messages of up to `max_bytes`."""
    cached = lru_cache(count)(make)
    return lambda encoded: (cached if len(encoded) <= max_bytes else make)(encoded)
