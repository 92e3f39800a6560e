"""What no client of gRPC would send: messages as bytes, and bytes that are none."""

from __future__ import annotations

from tests.support.bad_input.http_wire import GET, request
from tests.support.bad_input.proto_wire import integer, text, trigger, varint
from tests.support.bad_input.rows import (
    ABSENT,
    ARTIFACTS,
    EXHAUSTED,
    GOOD,
    INVALID,
    TOO_LARGE,
    UNIMPLEMENTED,
    Grpc,
    Row,
    page_token,
    rpc,
)

_TWO_MIB = 2 * 1024 * 1024

GRPC_WIRE = [
    Row("random bytes", None, rpc("GetRun", bytes(range(255, 155, -1))), INVALID),
    Row("random bytes as a trigger", None, rpc("TriggerRun", b"\xff" * 100), INVALID),
    Row("random bytes as a list", None, rpc("ListCampaignRuns", b"\xff" * 100), INVALID),
    Row("random bytes as a download", None, Grpc(ARTIFACTS + "DownloadArtifact", b"\xff" * 100), INVALID),
    Row("JSON", None, rpc("TriggerRun", GOOD.encode()), INVALID),
    Row("a message that is cut short", None, rpc("TriggerRun", trigger(payload={"x": "y" * 100})[:-50]),
        INVALID),
    Row("a length beyond the end", None, rpc("GetRun", varint(1 << 3 | 2) + varint(100) + b"x"), INVALID),
    Row("a length of 2^63", None, rpc("GetRun", varint(1 << 3 | 2) + varint(2**63)), INVALID),
    Row("a tag alone", None, rpc("GetRun", b"\x0a"), INVALID),
    Row("a tag of field 0", None, rpc("GetRun", b"\x00\x01"), INVALID),
    Row("a wire type that is none", None, rpc("GetRun", b"\x0f"), INVALID),
    Row("the end of a group", None, rpc("GetRun", b"\x0c"), INVALID),
    Row("a group without an end", None, rpc("GetRun", b"\x0b" * 1000), INVALID),
    Row("a varint of eleven bytes", None, rpc("ListCampaignRuns", b"\x18" + b"\xff" * 10 + b"\x01"), INVALID),
    Row("the id as a number", None, rpc("GetRun", integer(1, 1)), INVALID),
    Row("the payload as a number", None, rpc("TriggerRun", text(1, "no such") + integer(2, 1)), INVALID),
    Row("another message", None, rpc("GetRun", trigger(payload={"x": 1})), INVALID),
    Row("a Struct that is no Struct", None, rpc("TriggerRun", trigger(payload=b"\xff\xff")), INVALID),
    Row("a double of four bytes", None,
        rpc("TriggerRun", trigger(payload=text(1, text(1, "x") + text(2, b"\x11\0\0\0\0")))), INVALID),
    Row("an id of a megabyte", None, rpc("GetRun", text(1, "x" * 1_000_000)), INVALID),
    Row("a workflow of a megabyte", None, rpc("TriggerRun", text(1, "x" * 1_000_000)), INVALID),
    Row("a page token of a megabyte", None,
        rpc("ListCampaignRuns", text(1, ABSENT) + page_token("x" * 1_000_000)), INVALID),
    Row("a megabyte of text", None, rpc("TriggerRun", trigger(payload={"x": "y" * 1_000_000})), TOO_LARGE),
    Row("two hundred thousand bad statuses", None,
        rpc("ListCampaignRuns", text(1, ABSENT) + text(2, varint(99) * 200_000)), INVALID),
    Row("more than 2 MiB", None, rpc("TriggerRun", text(1, "x" * _TWO_MIB)), EXHAUSTED),
    Row("16 MiB", None, rpc("TriggerRun", text(1, "x" * 8 * _TWO_MIB)), EXHAUSTED),
    Row("16 MiB that were 16 KiB on the way", None,
        rpc("TriggerRun", text(1, "x" * 8 * _TWO_MIB), gzip=True), EXHAUSTED),
    Row("a method that is not there", None, rpc("DeleteEverything", b""), UNIMPLEMENTED),
    Row("a method in another case", None, rpc("getRun", b""), UNIMPLEMENTED),
    Row("a service that is not there", None, Grpc("/runengine.v2.RunService/GetRun", b""), UNIMPLEMENTED),
    Row("a service without its package", None, Grpc("/RunService/GetRun", b""), UNIMPLEMENTED),
    Row("a path that is no method", None, Grpc("/", b""), UNIMPLEMENTED),
    Row("a path of three parts", None, Grpc("/runengine.v1.RunService/GetRun/x", b""), UNIMPLEMENTED),
    Row("a REST path", None, Grpc(f"/runs/{ABSENT}", b""), UNIMPLEMENTED),
    Row("metadata of 20 KiB", None, rpc("GetRun", text(1, "x"), metadata=(("x", "y" * 20_000),)), EXHAUSTED),
    Row("metadata of 20 KiB in a thousand pieces", None,
        rpc("GetRun", text(1, "x"), metadata=tuple((f"x{n}", "y") for n in range(1000))), EXHAUSTED),
    Row("binary metadata", None,
        rpc("GetRun", text(1, "x"), metadata=(("x-bin", bytes(range(256))),)), INVALID),
    Row("a trace that is none", None,
        rpc("GetRun", text(1, "x"), metadata=(("traceparent", "x" * 100), ("traceparent", "y"))), INVALID),
    Row("a deadline of its own", None,
        rpc("GetRun", text(1, "x"), metadata=(("x-deadline", "-1"), ("x-tenant-id", "other"))), INVALID),
]  # fmt: skip

_HTTP_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# What the port of gRPC may be sent by who takes it for another, or breaks HTTP/2 on purpose.
NO_GRPC = {
    "an HTTP/1.1 request": request(GET),
    "random bytes": bytes(range(255, 155, -1)) * 10,
    "a TLS hello": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 500,
    "a frame of 16 MiB": _HTTP_2 + b"\0\0\0\x04\0\0\0\0\0" + b"\xff\xff\xff\0\0\0\0\0\x01" + b"x" * 100_000,
    "headers that do not unpack": _HTTP_2
    + b"\0\0\0\x04\0\0\0\0\0"
    + b"\0\0\x04\x01\x05\0\0\0\x01\xff\xff\xff\xff",
    "settings of a wrong length": _HTTP_2 + b"\0\0\x05\x04\0\0\0\0\0xxxxx",
    "a continuation of nothing": _HTTP_2 + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x01\x09\x04\0\0\0\x01x",
}
